"""Kernel inception distance (KID) of images from real ones, by a network that no run trains.

Source: Binkowski et al. 2018 (Demystifying MMD GANs), section 4: the unbiased squared maximum mean
discrepancy with the kernel (x.y / size + 1)^3. The features are those of EfficientNet-Lite0 in
place of Inception's, so compare values with each other only, not with published ones.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from asyndgan.arrays import Images
from asyndgan.judging.metrics import mean
from asyndgan.models.pretrained import LEAST_SIDE
from asyndgan.models.pretrained import features_of as looked_at
from asyndgan.reports.words import decimal
from asyndgan.store import Case
from asyndgan.store.splits import split_patients

SPREAD: Final = (6.0, 4.5, 4.0)
"""Divisors of the features of the last three scales: x.y / size is then about 0.3 for photographs
and X-rays, as with Inception's features, and no scale outweighs the others."""

PART: Final = 64 * 128 * 128
"""Pixels that the network sees at a time."""

ROWS: Final = 1024
"""Rows of the kernel's matrix that are held at a time."""

SPLITS: Final = 10
"""Number of random halvings of the real patients that a result is the mean over."""

KID: Final = "KID x 1000"
"""Heading of kernel inception distances."""

Features = Float[Tensor, "_ size"]


@torch.no_grad()
def features(images: Images) -> Features:
    """Means over each feature map of the network's last three scales: an 8th to a 32nd of the size.

    Args:
        images: (n, channels, rows, columns), in [-1, 1].

    Returns:
        (n, 472 for every three channels), float64, one scale after the other.
    """
    pixels = -(-images.shape[1] // 3) * max(LEAST_SIDE**2, math.prod(images.shape[2:]))
    found = []
    for part in images.split(max(1, PART // pixels)):
        scales = zip(looked_at("lite0", part)[-len(SPREAD) :], SPREAD, strict=True)
        found.append(torch.cat([maps.mean((2, 3)) / spread for maps, spread in scales], 1).double())
    return torch.cat(found)


def features_of(cases: Sequence[Case]) -> Features:
    """Features of cases that have the same modalities."""
    return features(torch.stack([case.image for case in cases]))


def kid(one: Features, other: Features) -> float:
    """Unbiased: the mean over many draws from one distribution is 0, so single values may be lower.

    Slices of a patient are not independent: two sets of different patients from one distribution
    have a KID above 0. Show the KID between real patients beside it, as `apart_from_real` does.

    Raises:
        ValueError: a set has fewer than two images.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError(
            f"a KID compares sets of two images or more, and these have {len(one)} and "
            f"{len(other)}. Give more images."
        )
    return _within(one) + _within(other) - 2 * _kernel(one, other) / (len(one) * len(other))


def _within(values: Features) -> float:
    """Mean kernel between different images of a set."""
    own = (values.square().mean(1) + 1).pow(3).sum()
    return (_kernel(values, values) - float(own)) / (len(values) * (len(values) - 1))


def _kernel(one: Features, other: Features) -> float:
    """Sum of the kernel over all pairs."""
    size = one.shape[1]
    return sum(float((rows @ other.T / size + 1).pow(3).sum()) for rows in one.split(ROWS))


def apart_from_real(
    painted: Features,
    owners: Sequence[str],
    real: Features,
    patients: Sequence[str],
    *,
    seed: int = 0,
    measure: Callable[[Features, Features], float] = kid,
) -> tuple[float, float]:
    """Distance of synthetic images from real ones, and the floor: that of other real patients.

    Real patients are halved. One half, the reference, is compared with the other half (the floor)
    and with the synthetic images of the other half's masks. Both sets thus share no patient with
    the reference. Each result is the mean over several halvings.

    Args:
        painted: features of the synthetic images.
        owners: for each of them, the patient of its mask.
        real: features of the real images.
        patients: patient of each of them.
        seed: seed of the halvings.
        measure: the distance of features from those of the reference, of two images or more each.

    Returns:
        Both; nan if there are too few images. Of one patient there is no floor, and all their
        images are the reference.
    """
    if len(everybody := set(patients)) < 2:
        own = painted[[owner in everybody for owner in owners]]
        return _if_enough(measure, own, real), math.nan
    found: dict[frozenset[str], tuple[float, ...]] = {}  # few patients repeat halvings
    for number in range(SPLITS * seed, SPLITS * (seed + 1)):
        halves = split_patients(patients, {"reference": 0.5, "other": 0.5}, number)
        others = frozenset(patients[index] for index in halves["other"])
        reference = real[halves["reference"]]
        own = painted[[owner in others for owner in owners]]
        pair = (own, real[halves["other"]])
        found[others] = tuple(_if_enough(measure, one, reference) for one in pair)
    mixture, floor = map(mean, zip(*found.values(), strict=True))
    return mixture, floor


def thousandths(value: float | None) -> str:
    """A distance times 1000 with one decimal; a dash for None or nan."""
    return decimal(None if value is None else 1000 * value, 1)


def _if_enough(
    measure: Callable[[Features, Features], float], one: Features, other: Features
) -> float:
    return measure(one, other) if min(len(one), len(other)) > 1 else math.nan
