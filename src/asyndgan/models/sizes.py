"""The sizes that a network is built for."""

from typing import NamedTuple


class Sizes(NamedTuple):
    """What a network reads and paints, or judges."""

    labels: int  # maps of the condition; 0: there is none
    modalities: int  # channels of an image
    dims: int = 2  # axes of an image: rows and columns, after the depth of a volume
