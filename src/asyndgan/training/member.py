"""A site that takes part in a run, as the coordinator knows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass
class Member:
    """A site that takes part, as the coordinator knows it."""

    share: float  # its declared weight
    cases: int  # its number of cases
    channels: list[int]  # which of the generator's channels it judges
    parts: list[float]  # fraction of its cases that have each of these modalities
    batch: int  # number of its next batch
    conditions: Tensor  # of that batch
    labels: dict[int, str]  # name of each of its labels, by number
    keep: bool  # whether its conditions may be kept
    since: int  # step that its discriminator was at when it was taken in


Members = Mapping[str, Member]
Weights = Mapping[str, float]  # Normalised shares by site; they sum to one
