"""Randomness that nobody else can repeat: for noise and for who is drawn."""

import os

import torch
from torch import Generator, Tensor


def fresh_random() -> Generator:
    """A generator seeded by the operating system, to be used once and forgotten.

    Never the recipe's seed, which everybody knows: noise that can be computed hides nothing.
    """
    return Generator().manual_seed(int.from_bytes(os.urandom(8), "big") >> 1)


def normal_noise(shape: tuple[int, ...], random: Generator) -> Tensor:
    """Standard normal numbers, of four draws each.

    So that the last bits of a floating-point number give nothing away (Holohan and Braghin 2021,
    section 5).
    """
    return torch.randn(4, *shape, generator=random).sum(0) / 2
