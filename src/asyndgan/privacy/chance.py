"""Randomness that nobody else can repeat: for noise and for who is drawn.

Every number is made of bytes of the operating system's own generator. Not of one that is seeded by
it: torch's takes 32 bits of a seed, which can be tried through, and not of the recipe's seed, which
everybody knows. Noise that can be computed hides nothing.
"""

import os
import re
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from asyndgan.errors import RunError
from asyndgan.texts import bounded_text, replace_text

DRAWS: Final = 4
"""That a normal number is made of: so that the last bits of a floating-point number give nothing
away (Holohan and Braghin 2021, section 5)."""


def uniform(count: int) -> Tensor:
    """Numbers from 0 to below 1, float64, of 53 bits each."""
    drawn = np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
    return torch.from_numpy((drawn >> np.uint64(11)) * 2.0**-53)


def shuffled(values: Tensor) -> Tensor:
    """The same numbers in an order that nobody can repeat."""
    order = uniform(values.numel()).argsort()
    return values.flatten()[order.to(values.device)].reshape(values.shape)


def normal_noise(shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers, float32 (Box and Muller 1958)."""
    count = int(np.prod(shape, dtype=np.int64))
    radius = torch.sqrt(-2 * torch.log(1 - uniform(DRAWS * count)))
    normal = radius * torch.cos(2 * torch.pi * uniform(DRAWS * count))
    return (normal.reshape(DRAWS, count).sum(0) / DRAWS**0.5).float().reshape(shape)


def kept_secret(path: Path | None) -> str:
    """64 hexadecimal digits that nobody can guess: those of a file, which is written if need be.

    Args:
        path: of the file, for its owner only; None: others each time.

    Raises:
        RunError: the file holds something else.
    """
    secret = os.urandom(32).hex()
    if path is None:
        return secret
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, secret, mode=0o600)
    try:
        secret = bounded_text(path)
    except ValueError:
        secret = ""
    if not re.fullmatch("[0-9a-f]{64}", secret):
        raise RunError(
            f"{path.name} in the folder of the site's books holds no secret; put back the file, or "
            "remove it and start new runs."
        )
    return secret
