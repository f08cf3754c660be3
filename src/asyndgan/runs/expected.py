"""What a planned training is expected to take."""

import math
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from asyndgan.models import usable_device
from asyndgan.recipe import Recipe
from asyndgan.recipe.fingerprint import Fingerprint
from asyndgan.training.compute import expected_seconds
from asyndgan.wire.codec import raw_size


@final
@dataclass(frozen=True)
class Expected:
    """Time, traffic and memory of a whole training.

    Attributes:
        seconds: if this machine computes all sites, one after the other.
        sent: bytes to each site, before compression.
        received: bytes from each site, before compression.
        memory: bytes of a party's process while it computes.
        images: bytes of the prepared images and masks of the largest site, beside that.
    """

    seconds: float
    sent: int
    received: int
    memory: int
    images: int


_STEPS: Final[dict[tuple[str, int, str], float]] = {}
"""Seconds of a step that were measured, by digest of the recipe, number of sites and device."""


def seconds(recipe: Recipe, sites: int, device: str = "cpu") -> float:
    """Of a training whose sites this machine computes one after the other.

    Takes some seconds, once for each recipe, so that a plan that fits is not told to be longer.
    """
    asked = (recipe.digest(), sites, device)
    if asked not in _STEPS:
        _STEPS[asked] = expected_seconds(recipe, sites, usable_device(device))
    return recipe.training.steps * _STEPS[asked]


def expected(recipe: Recipe, sites: Mapping[str, Fingerprint]) -> Expected:
    """Estimates a training by timing its networks here; takes some seconds."""
    steps, batch, (height, width) = recipe.training.steps, recipe.training.batch, recipe.space
    modalities = {each.name for one in sites.values() for each in one.modalities}
    shape = (batch, len(modalities), height, width)
    feedback = raw_size(shape, recipe.wire.feedback) + raw_size((batch, height, width), "label8")
    took = seconds(recipe, len(sites))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # after the networks were used
    most = max(one.slices or 0 for one in sites.values())
    return Expected(
        seconds=took,
        sent=steps * raw_size(shape, recipe.wire.images),
        received=steps * feedback,
        memory=peak * (1 if sys.platform == "darwin" else 1024),
        images=most * math.prod(recipe.image.size) * (4 * len(modalities) + 8),
    )
