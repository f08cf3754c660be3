"""What makes recipes and audits of tests as small as they may be."""

from functools import partial

import pytest

from asyndgan.auditing import reconstruction
from asyndgan.auditing.pixel_attacks import bisected, followed

SMALL = [
    "image.size=16",
    "generator.width=4",
    "generator.blocks=1",
    "discriminator.width=4",
    "discriminator.layers=1",
]
"""Overrides of a recipe that ships, whose networks allow no smaller ones."""


def ask_little(patch: pytest.MonkeyPatch) -> None:
    """An audit asks each site few questions about real pixels: all of them are half of its time."""
    patch.setattr(reconstruction, "bisected", partial(bisected, parts=2, rounds=1))
    patch.setattr(reconstruction, "followed", partial(followed, questions=2))
    patch.setattr(reconstruction, "QUESTIONS", 3 + 2)
