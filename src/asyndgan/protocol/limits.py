"""How long the messages of a run can be."""

from typing import Final

from asyndgan.recipe import Recipe
from asyndgan.store.case import MODALITIES_LIMIT

FRAME_SLACK: Final = 2**17
"""Bytes of a frame beyond its arrays: the header, and growth of incompressible data."""


def message_limit(recipe: Recipe) -> int:
    """Most bytes of a message's arrays: twice float32 images in as many modalities as allowed."""
    return 2**16 + 2 * 4 * MODALITIES_LIMIT * recipe.pixels


def frame_limit(recipe: Recipe | None) -> int:
    """Most bytes of a frame in a run; without a recipe no message has arrays."""
    return (message_limit(recipe) if recipe else 0) + FRAME_SLACK
