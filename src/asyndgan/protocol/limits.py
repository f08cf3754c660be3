"""How long the messages of a run can be."""

from typing import Final

from asyndgan.recipe import Recipe
from asyndgan.store.case import MODALITIES_LIMIT

FRAME_SLACK: Final = 2**21
"""Bytes of a frame beyond its arrays: the header, and growth of incompressible data."""


ASKED_FRAME: Final = 2**27
"""Most bytes of a frame before there is a recipe: a question may bring a generator and masks."""

ASKED_LIMIT: Final = 2**30
"""Most bytes of the arrays of such a question, once decoded."""


def message_limit(recipe: Recipe) -> int:
    """Most bytes of a message's arrays: twice float32 images in as many modalities as allowed."""
    return 2**16 + 2 * 4 * MODALITIES_LIMIT * recipe.pixels


def frame_limit(recipe: Recipe | None) -> int:
    """Most bytes of a frame in a run; without a recipe, of a question."""
    return message_limit(recipe) + FRAME_SLACK if recipe else ASKED_FRAME
