"""Distance of a synthetic set from real ones, without pretrained features."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, final

import torch
from torch import Tensor

from asyndgan.data import Case
from asyndgan.data.splits import split_patients
from asyndgan.models.features import Moments, distance, features_in_parts

SPLITS: Final = 10
"""Number of random halvings of the real patients that a distance is the median over."""


@final
@dataclass(frozen=True)
class Distances:
    """Distances of one synthetic set; see `asyndgan.models.features.distance`.

    Attributes:
        mixture: distance of the images painted from all sites' masks from all sites' real images.
        floor: distance between two halves of the real patients.
        of_sites: for each site, distance of the images painted from its masks from its real images.
        floors: floor of each site; nan if the site has one patient.
    """

    mixture: float
    floor: float
    of_sites: dict[str, float]
    floors: dict[str, float]


def features_of(cases: Sequence[Case]) -> Tensor:
    """Features [cases, size] of cases that have the same modalities."""
    return features_in_parts(torch.stack([case.image for case in cases]))


def distances(
    synthetic: Sequence[Case],
    owners: Sequence[str],
    sites: Mapping[str, Sequence[Case]],
    *,
    seed: int = 0,
) -> Distances:
    """Compares a synthetic set with the real cases of each site and of all sites together.

    Real patients are halved. One half, the reference, is compared with the other half (the floor)
    and with equally many synthetic cases painted from the masks of the other half's patients. Both
    distances are thus between sets of equal size that share no patient with the reference. Each
    result is the median over several halvings.

    Args:
        synthetic: synthetic cases with the modalities of the real ones.
        owners: for each synthetic case, the patient (`site/patient`) of its mask.
        sites: real cases, by the site's name.
        seed: seed of the halvings and of the choice of synthetic cases.
    """
    painted = features_of(synthetic)
    of_sites = {name: features_of(cases) for name, cases in sites.items()}
    patients = {name: [f"{name}/{case.patient}" for case in cases] for name, cases in sites.items()}
    together = [patient for own in patients.values() for patient in own]
    real = torch.cat(list(of_sites.values()))
    mixture, floor = _against(painted, owners, real, together, seed)
    single = {
        name: _against(painted, owners, of_sites[name], patients[name], seed) for name in sites
    }
    return Distances(
        mixture,
        floor,
        {name: pair[0] for name, pair in single.items()},
        {name: pair[1] for name, pair in single.items()},
    )


def _against(
    painted: Tensor, owners: Sequence[str], real: Tensor, patients: Sequence[str], seed: int
) -> tuple[float, float]:
    """Distances of the synthetic images and of one real half from the other real half."""
    unit = Moments.of(real).deviation
    if len(set(patients)) < 2:
        own = painted[[owner in patients for owner in owners]]
        return distance(Moments.of(own), Moments.of(real), unit=unit), math.nan
    found: dict[frozenset[str], tuple[float, float]] = {}  # few patients repeat halvings
    for split in range(SPLITS):
        number = SPLITS * seed + split
        halves = split_patients(patients, {"reference": 0.5, "other": 0.5}, number)
        others = frozenset(patients[index] for index in halves["other"])
        reference, other = Moments.of(real[halves["reference"]]), real[halves["other"]]
        chosen = _some(painted[[owner in others for owner in owners]], len(other), number)
        found[others] = (
            distance(Moments.of(chosen), reference, unit=unit),
            distance(Moments.of(other), reference, unit=unit),
        )
    mixture, floor = zip(*found.values(), strict=True)
    return median(mixture), median(floor)


def _some(features: Tensor, count: int, seed: int) -> Tensor:
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    return features[order[:count]]
