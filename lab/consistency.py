"""Whether the modalities of a synthetic image are as consistent with each other as in real images.

Where no site holds all modalities, no discriminator ever sees all of them together. Complete cases
of other patients serve as the reference.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, final

import torch
from torch import Tensor

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW
from asyndgan.judging.metrics import mean
from asyndgan.store import Case
from asyndgan.store.splits import split_patients

BINS: Final = 12
"""Bins of a joint histogram along each of its two intensities."""

LEAST_PIXELS: Final = 20
"""Fewest pixels of a label in an image for which a correlation is computed."""

SPLITS: Final = 10
"""Number of random halvings of the real patients that the floor is averaged over."""


@final
@dataclass(frozen=True)
class Consistency:
    """How two modalities relate within the pixels of one label.

    Attributes:
        label: name of the label.
        pair: the two modalities, such as `T1 and FLAIR`.
        real: Pearson's correlation of their intensities within an image, mean over real images.
        synthetic: the same for synthetic images.
        joint: total variation distance between the joint histograms of synthetic intensities and of
            those of half of the real patients, 0 to 1, mean over halvings; of as many synthetic
            images as the other half has, since the distance grows as images get fewer.
        floor: the same between the two halves of the real patients; nan for a single patient.
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
    """Compares modalities pair by pair within each label that is not 0.

    Labels without a pixel in the real or in the synthetic cases are left out.

    Args:
        synthetic: synthetic cases with the modalities of the real ones.
        real: complete cases of patients that no site holds.
        labels: value of each label, by name.
    """
    found = []
    for label, value in labels.items():
        if not value:
            continue
        for first, second in combinations(range(len(real[0].modalities)), 2):
            here = [_pixels(case, value, first, second) for case in real]
            there = [_pixels(case, value, first, second) for case in synthetic]
            if not any(map(len, here)) or not any(map(len, there)):
                continue
            names = real[0].modalities
            joint, floor = _variations(here, there, [case.patient for case in real])
            found.append(
                Consistency(
                    label,
                    f"{names[first]} and {names[second]}",
                    _correlation(here),
                    _correlation(there),
                    joint,
                    floor,
                )
            )
    return found


def _pixels(case: Case, value: int, first: int, second: int) -> Tensor:
    """Intensities (n, 2) of two modalities within a label."""
    return case.image[[first, second]][:, case.mask == value].T


def _correlation(images: Sequence[Tensor]) -> float:
    """Mean over images with at least `LEAST_PIXELS` pixels and two intensities that vary."""
    found = [
        float(torch.corrcoef(pixels.double().T)[0, 1])
        for pixels in images
        if len(pixels) >= LEAST_PIXELS
    ]
    return mean(found)


def _variation(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return float((_histogram(one) - _histogram(other)).abs().sum() / 2)


def _histogram(images: Sequence[Tensor]) -> Tensor:
    """Joint histogram of all images' pixels, flattened; sums to 1."""
    unit = (torch.cat(list(images)) - IMAGE_LOW) / (IMAGE_HIGH - IMAGE_LOW)
    places = (unit * BINS).long().clamp(0, BINS - 1)
    counts = torch.bincount(places[:, 0] * BINS + places[:, 1], minlength=BINS**2).double()
    return counts / counts.sum().clamp(min=1)


def _variations(
    real: Sequence[Tensor], synthetic: Sequence[Tensor], patients: Sequence[str]
) -> tuple[float, float]:
    """Variations of synthetic images, and of one half of the patients, from the other half."""
    if len(set(patients)) < 2:
        return _variation(real, synthetic), math.nan
    joint, floor = [], []
    painted = [pixels for pixels in synthetic if len(pixels)]
    for split in range(SPLITS):
        halves = split_patients(patients, {"reference": 0.5, "other": 0.5}, split)
        reference, other = (
            [real[place] for place in halves[name] if len(real[place])] for name in halves
        )
        order = torch.randperm(len(painted), generator=torch.Generator().manual_seed(split))
        chosen = [painted[place] for place in order[: len(other)].tolist()]
        if reference and chosen:
            joint.append(_variation(reference, chosen))
            floor.append(_variation(reference, other[: len(chosen)]))
    return mean(joint), mean(floor)
