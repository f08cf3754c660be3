"""KIDs of a synthetic set from the real images of each site, and of all sites together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch

from asyndgan.store import Case
from lab.kid import apart_from_real, features_of


@final
@dataclass(frozen=True)
class Kids:
    """KIDs of one synthetic set; nan where a set has fewer than two images.

    Attributes:
        mixture: of the images painted from all sites' masks from all sites' real images.
        floor: between two halves of the real patients.
        of_sites: for each site, of the images painted from its masks from its real images.
        floors: floor of each site; nan if the site has one patient.
    """

    mixture: float
    floor: float
    of_sites: dict[str, float]
    floors: dict[str, float]


def kids(
    synthetic: Sequence[Case],
    owners: Sequence[str],
    sites: Mapping[str, Sequence[Case]],
    *,
    seed: int = 0,
) -> Kids:
    """Compares a synthetic set with the real cases of each site and of all sites together.

    Args:
        synthetic: synthetic cases with the modalities of the real ones.
        owners: for each synthetic case, the patient (`site/patient`) of its mask.
        sites: real cases, by the site's name.
        seed: seed of the halvings.
    """
    painted = features_of(synthetic)
    of_sites = {name: features_of(cases) for name, cases in sites.items()}
    patients = {name: [f"{name}/{case.patient}" for case in cases] for name, cases in sites.items()}
    together = [patient for own in patients.values() for patient in own]
    real = torch.cat(list(of_sites.values()))
    mixture, floor = apart_from_real(painted, owners, real, together, seed=seed)
    single = {
        name: apart_from_real(painted, owners, of_sites[name], patients[name], seed=seed)
        for name in sites
    }
    return Kids(
        mixture,
        floor,
        {name: pair[0] for name, pair in single.items()},
        {name: pair[1] for name, pair in single.items()},
    )
