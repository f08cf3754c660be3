"""Text files from strangers, bounded before they are read; and files that are written whole."""

import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

NAME_LENGTH: Final = 64
Title = Annotated[str, Field(max_length=NAME_LENGTH, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""Of a recipe or policy. No control characters: it ends up in other parties' terminals."""
Name = Annotated[
    str, Field(min_length=1, max_length=NAME_LENGTH, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")
]
"""Of a modality, label or site; none likewise."""

LONGEST_LINE: Final = 8192
"""Of TOML: reading a key takes the square of its number of dots."""

MOST_BYTES: Final = 2**20
"""Of a recipe, a policy, a suite, or what a run says of itself."""


def bounded_text(path: Path, most: int = MOST_BYTES) -> str:
    """What a file says.

    Raises:
        OSError: it cannot be read.
        ValueError: it is longer than `most` bytes, or no UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"longer than {most} bytes")
    return content.decode("utf-8")


def replace_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Writes a file as a whole: a crash or a full disk leaves the old one.

    Args:
        path: of the file.
        text: what it is to say.
        mode: who may read it, before the process's umask.
    """
    half = half_of(path)
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(text.encode("utf-8"))
    put_in_place(half, path)


def half_of(path: Path) -> Path:
    """Where a file is written that is to be put in the place of another as a whole."""
    return path.with_name(f".{path.name}.half")


def put_in_place(half: Path, path: Path) -> None:
    """Gives a written file its name, once it is on the disk: a power cut leaves the old one."""
    with half.open("rb") as file:
        os.fsync(file.fileno())
    half.replace(path)


def parsed_toml(text: str) -> dict[str, Any]:
    """A TOML document; raises `ValueError` if it is none, or one that takes too long to read."""
    if any(len(line) > LONGEST_LINE for line in text.splitlines()):
        raise ValueError(f"a line of more than {LONGEST_LINE} characters")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parsed_json(text: str) -> Any:
    """A JSON document; raises `ValueError` if it is none, or nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
