"""A site that takes part in a run, as the coordinator knows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass
class Member:
    """A site that takes part, as the coordinator knows it.

    Attributes:
        share: its declared weight.
        cases: its number of cases.
        channels: which of the generator's channels it judges.
        parts: fraction of its cases that have each of these modalities.
        batch: number of its next batch.
        conditions: of that batch.
        labels: name of each of its labels, by number.
        keep: whether its conditions may be kept.
        since: step that its discriminator was at when it was taken in.
    """

    share: float
    cases: int
    channels: list[int]
    parts: list[float]
    batch: int
    conditions: Tensor
    labels: dict[int, str]
    keep: bool
    since: int


Members = Mapping[str, Member]
Weights = Mapping[str, float]
"""Normalised shares by site; they sum to one."""
