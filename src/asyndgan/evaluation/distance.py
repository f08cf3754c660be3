"""How far a synthetic set is from real ones, without pretrained features."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from asyndgan.data import Case
from asyndgan.data.splits import split_patients
from asyndgan.models.features import Moments, distance, features_in_parts

SPLITS: Final = 10
"""Ways of halving the real patients that a distance is averaged over."""


@final
@dataclass(frozen=True)
class Distances:
    """Distances of one synthetic set; see `asyndgan.models.features.distance`.

    Attributes:
        mixture: from all sites' real images together.
        floor: between two halves of the real patients.
        of_sites: from each site's real images.
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
    synthetic: Sequence[Case], sites: Mapping[str, Sequence[Case]], *, seed: int = 0
) -> Distances:
    """Compares a synthetic set with the real cases of every site and of all together.

    Real patients are halved; one half is compared with the other (the floor), and with as many
    synthetic cases as the other has, so that both distances are between sets of one size. Averages
    over several ways of halving.

    Args:
        synthetic: with the modalities of the real cases.
        sites: real cases by the site's name.
        seed: of the halves and of the choice of synthetic cases.
    """
    painted = features_of(synthetic)
    of_sites = {name: features_of(cases) for name, cases in sites.items()}
    patients = {name: [f"{name}/{case.patient}" for case in cases] for name, cases in sites.items()}
    together = [patient for own in patients.values() for patient in own]
    mixture, floor = _against(painted, torch.cat(list(of_sites.values())), together, seed)
    single = {name: _against(painted, of_sites[name], patients[name], seed) for name in sites}
    return Distances(
        mixture,
        floor,
        {name: pair[0] for name, pair in single.items()},
        {name: pair[1] for name, pair in single.items()},
    )


def _against(
    painted: Tensor, real: Tensor, patients: Sequence[str], seed: int
) -> tuple[float, float]:
    """Distance of synthetic images from half the real patients, and that of the other half."""
    if len(set(patients)) < 2:
        chosen = _some(painted, len(real), seed)
        return distance(Moments.of(chosen), Moments.of(real)), math.nan
    found: list[tuple[float, float]] = []
    for split in range(SPLITS):
        halves = split_patients(patients, {"reference": 0.5, "other": 0.5}, SPLITS * seed + split)
        reference, other = Moments.of(real[halves["reference"]]), real[halves["other"]]
        chosen = _some(painted, len(other), SPLITS * seed + split)
        found.append(
            (distance(Moments.of(chosen), reference), distance(Moments.of(other), reference))
        )
    mixture, floor = zip(*found, strict=True)
    return math.fsum(mixture) / SPLITS, math.fsum(floor) / SPLITS


def _some(features: Tensor, count: int, seed: int) -> Tensor:
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    return features[order[:count]]
