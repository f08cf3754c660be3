"""Random numbers that cannot be repeated, for noise and for drawing patients.

Each is made from bytes of the operating system's generator: torch's uses only 32 bits of a seed,
which can be found by trying them all, and noise that can be computed hides nothing.
"""

import os
from typing import Final

import numpy as np
import torch
from torch import Tensor

DRAWS: Final = 4
"""Draws that are summed into one normal number, so that the last bits of the floating-point result
give nothing away (Holohan and Braghin 2021, section 5)."""


def uniform(count: int) -> Tensor:
    """So many random numbers in [0, 1), float64, with 53 random bits each."""
    drawn = np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
    return torch.from_numpy((drawn >> np.uint64(11)) * 2.0**-53)


def shuffled(values: Tensor) -> Tensor:
    """The same values, in an order that cannot be repeated."""
    order = uniform(values.numel()).argsort()
    return values.flatten()[order.to(values.device)].reshape(values.shape)


def normal_noise(shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers, float32 (Box and Muller 1958)."""
    count = int(np.prod(shape, dtype=np.int64))
    radius = torch.sqrt(-2 * torch.log(1 - uniform(DRAWS * count)))
    normal = radius * torch.cos(2 * torch.pi * uniform(DRAWS * count))
    return (normal.reshape(DRAWS, count).sum(0) / DRAWS**0.5).float().reshape(shape)


def secret() -> str:
    """64 random hexadecimal digits."""
    return os.urandom(32).hex()
