"""Do the modalities of one synthetic image belong together, as those of a real one do?

Where no site holds all modalities, no discriminator ever sees all of them together. Complete cases
of other patients say how they go together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, final

import torch
from torch import Tensor

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW
from asyndgan.data import Case
from asyndgan.data.splits import split_patients
from asyndgan.evaluation.bench import mean

BINS: Final = 12
"""Of a joint histogram, along each of its two intensities."""

LEAST_PIXELS: Final = 20
"""Of a label in an image, for a correlation within it."""

SPLITS: Final = 10
"""Ways of halving the real patients that the floor is the mean over."""


@final
@dataclass(frozen=True)
class Consistency:
    """Two modalities within one label.

    Attributes:
        label: whose pixels are looked at.
        pair: the two modalities, `T1 and FLAIR`.
        real: Pearson's correlation of their intensities within an image, mean over real images.
        synthetic: the same over synthetic images.
        joint: total variation between the joint histograms of real and synthetic intensities,
            0 to 1.
        floor: the same between two halves of the real patients; nan for a single patient.
    """

    label: str
    pair: str
    real: float
    synthetic: float
    joint: float
    floor: float


def consistency(
    synthetic: Sequence[Case], real: Sequence[Case], labels: Mapping[str, int]
) -> list[Consistency]:
    """Compares how modalities go together, for each label but 0 and each pair of modalities.

    Args:
        synthetic: with the modalities of the real cases.
        real: complete cases of patients whom no site holds.
        labels: value of each label by name.
    """
    found = []
    for label, value in labels.items():
        for first, second in combinations(range(len(real[0].modalities)), 2):
            here = [_pixels(case, value, first, second) for case in real]
            there = [_pixels(case, value, first, second) for case in synthetic]
            if not value or not any(map(len, here)) or not any(map(len, there)):
                continue
            names = real[0].modalities
            patients = [case.patient for case in real]
            found.append(
                Consistency(
                    label,
                    f"{names[first]} and {names[second]}",
                    _correlation(here),
                    _correlation(there),
                    _variation(here, there),
                    _floor(here, patients),
                )
            )
    return found


def _pixels(case: Case, value: int, first: int, second: int) -> Tensor:
    """Intensities (n, 2) of two modalities within a label."""
    return case.image[[first, second]][:, case.mask == value].T


def _correlation(images: Sequence[Tensor]) -> float:
    """Mean over images that have enough of the label and two intensities that vary."""
    found = [
        float(torch.corrcoef(pixels.double().T)[0, 1])
        for pixels in images
        if len(pixels) >= LEAST_PIXELS
    ]
    return mean(found)


def _variation(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return float((_histogram(one) - _histogram(other)).abs().sum() / 2)


def _histogram(images: Sequence[Tensor]) -> Tensor:
    """Of all images' pixels together; sums to 1."""
    unit = (torch.cat(list(images)) - IMAGE_LOW) / (IMAGE_HIGH - IMAGE_LOW)
    places = (unit * BINS).long().clamp(0, BINS - 1)
    counts = torch.bincount(places[:, 0] * BINS + places[:, 1], minlength=BINS**2).double()
    return counts / counts.sum().clamp(min=1)


def _floor(images: Sequence[Tensor], patients: Sequence[str]) -> float:
    if len(set(patients)) < 2:
        return math.nan
    found = []
    for split in range(SPLITS):
        halves = split_patients(patients, {"one": 0.5, "other": 0.5}, split)
        one, other = ([images[place] for place in halves[name]] for name in ("one", "other"))
        if any(map(len, one)) and any(map(len, other)):
            found.append(_variation(one, other))
    return mean(found)
