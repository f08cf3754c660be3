"""The sizes that a network is built for."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

PIXELS: Final = 2**21
"""Most pixels, or voxels, that a network sees at once where it does not learn."""


class Sizes(NamedTuple):
    """What a network reads and paints, or judges."""

    labels: int  # maps of the condition; 0: there is none
    modalities: int  # channels of an image
    dims: int = 2  # axes of an image: rows and columns, after the depth of a volume


def at_once(space: Sequence[int], most: int = 32) -> int:
    """How many images of this space a network sees at once where it does not learn."""
    return max(1, min(most, PIXELS // math.prod(space)))
