"""How far a synthetic set is from real ones, without pretrained features."""

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
"""Ways of halving the real patients that a distance is the median over."""


@final
@dataclass(frozen=True)
class Distances:
    """Distances of one synthetic set; see `asyndgan.models.features.distance`.

    Attributes:
        mixture: of images painted from all sites' masks, from all sites' real images.
        floor: between two halves of the real patients.
        of_sites: of images painted from a site's masks, from that site's real images.
        floors: of each site; nan where a site has one patient.
    """

    mixture: float
    floor: float
    of_sites: dict[str, float]
    floors: dict[str, float]


def features_of(cases: Sequence[Case]) -> Tensor:
    """Features [cases, size] of cases with the same modalities."""
    return features_in_parts(torch.stack([case.image for case in cases]))


def distances(
    synthetic: Sequence[Case],
    owners: Sequence[str],
    sites: Mapping[str, Sequence[Case]],
    *,
    seed: int = 0,
) -> Distances:
    """Compares a synthetic set with the real cases of every site and of all together.

    Real patients are halved; one half is compared with the other (the floor), and with as many
    synthetic cases, painted from the masks of that other half's patients. So both distances are
    between sets of one size that share no patient with the reference. The median over several ways
    of halving.

    Args:
        synthetic: with the modalities of the real cases.
        owners: `site/patient` whose mask each synthetic case was painted from.
        sites: real cases by the site's name.
        seed: of the halves and of the choice of synthetic cases.
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
    """Distance of synthetic images from half the real patients, and that of the other half."""
    unit = Moments.of(real).deviation
    if len(set(patients)) < 2:
        own = painted[[owner in patients for owner in owners]]
        return distance(Moments.of(own), Moments.of(real), unit=unit), math.nan
    found: dict[frozenset[str], tuple[float, float]] = {}  # few patients have few halves
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
