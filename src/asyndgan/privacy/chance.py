"""Randomness that nobody else can repeat: for noise and for who is drawn."""

import os

from torch import Generator


def fresh_random() -> Generator:
    """A generator seeded by the operating system, to be used once and forgotten.

    Never the recipe's seed, which everybody knows: noise that can be computed hides nothing.
    """
    return Generator().manual_seed(int.from_bytes(os.urandom(8), "big") >> 1)
