"""The process that reads files: `asyndgan.intake.reading` starts it, and says what it answers.

A line of JSON asks for a file. Each answer is a length of four bytes, so much JSON, and the bytes
of the array that it announces. The process ends when nobody asks any more, or by its limits.
"""

import json
import os
import struct
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image as Picture

from asyndgan.errors import DataError
from asyndgan.intake import limits

OUT_OF_MEMORY: Final = 3
"""Its exit status where a file takes more memory than it may."""


def main() -> None:
    """Answers until nobody asks."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries may print
    sys.dont_write_bytecode = True
    Picture.MAX_IMAGE_PIXELS = None  # readers say more of a picture that is too large
    limits.confine()
    for line in sys.stdin.buffer:
        limits.allow()
        try:
            _answer(answers, **json.loads(line))
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        answers.flush()


def _answer(answers: Any, work: str, path: str, options: dict[str, Any]) -> None:
    module, _, name = work.partition(":")
    try:
        for about, values in getattr(import_module(module), name)(Path(path), **options):
            _send(answers, about, values)
    except DataError as fault:
        known = getattr(fault, "reason", ""), getattr(fault, "remedy", "")
        _send(answers, {"fault": known})
    else:
        _send(answers, {"done": True})


def _send(answers: Any, about: dict[str, Any], values: np.ndarray | None = None) -> None:
    content: Any = b""
    if values is not None:
        order = np.argsort([-stride for stride in values.strides], kind="stable").tolist()
        values = np.ascontiguousarray(values.transpose(order))  # sums depend on the order
        about = {**about, "dtype": values.dtype.str, "shape": values.shape, "order": order}
        content = values.reshape(-1).view(np.uint8)
    text = json.dumps(about, default=np.ndarray.tolist).encode()
    answers.write(struct.pack("<I", len(text)) + text)
    answers.write(content)


if __name__ == "__main__":
    main()
