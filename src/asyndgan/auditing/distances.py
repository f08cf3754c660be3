"""Distances between images of patients and synthetic ones, by patient."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asyndgan.arrays import Images
from asyndgan.judging.work import Work
from asyndgan.models.parts import site_noise
from asyndgan.runs import RunFolder
from asyndgan.store import Case, derived_seed
from asyndgan.training.scope import scope_maps

PAINTINGS: Final = 4
"""Fewest paintings of each real mask, with different noise, for the attacks on the generator."""

SIDE: Final = 32
"""Side in pixels at which images are compared; at full size, noise would hide resemblances."""

TINY: Final = 1e-12
"""Added to squared distances, so that images which are all alike are at the usual distance."""


def relative_distances(real: Sequence[Case], synthetic: Sequence[Case]) -> Tensor:
    """Distances (real, synthetic), relative to that of the real case to the next other patient's.

    Of an image and its mirror image the nearer one counts, since generators may learn from both.
    """
    usual = to_next_patient(real)[:, None]
    return ((mirrored_too(thumbnails(real), thumbnails(synthetic)) + TINY) / (usual + TINY)).sqrt()


def to_next_patient(real: Sequence[Case]) -> Tensor:
    """Mean squared difference of each case from the nearest of another patient, mirrored or not."""
    small = thumbnails(real)
    _, number = np.unique([case.patient for case in real], return_inverse=True)
    own = torch.from_numpy(number[:, None] == number)
    return mirrored_too(small, small).masked_fill(own, math.inf).min(dim=1).values


def by_patient(cases: Sequence[Case], values: Tensor) -> dict[str, Tensor]:
    """Mean over each patient's cases of values that have one row per case."""
    rows: dict[str, list[Tensor]] = {}
    for case, row in zip(cases, values, strict=True):
        rows.setdefault(case.patient, []).append(row)
    return {patient: torch.stack(own).mean(dim=0) for patient, own in rows.items()}


def least(cases: Sequence[Case], distances: Tensor) -> NDArray[np.float64]:
    """Smallest distance of each patient, from distances (case, synthetic image)."""
    least: dict[str, float] = {}
    for case, nearest in zip(cases, distances.min(dim=1).values.tolist(), strict=True):
        least[case.patient] = min(nearest, least.get(case.patient, math.inf))
    return np.array(list(least.values()))


def painting_gaps(run: RunFolder, cases: Sequence[Case], work: Work | None = None) -> Tensor:
    """Mean absolute differences between images and what the generator paints from their masks.

    Returns a tensor (case, painting). The attacker does not know the site, so every look is tried
    equally often.
    """
    recipe, facts, generator = run.recipe(), run.facts(), run.generator()
    random = torch.Generator().manual_seed(derived_seed(0, "audit"))
    channels = [facts.scope.modalities.index(name) for name in cases[0].modalities]
    different = list(facts.looks())
    looks = different * (paintings_of_case(run) // len(different))
    gaps: list[Tensor] = []
    for case in cases:
        masks = torch.stack([case.mask] * len(looks))
        with torch.no_grad():
            # From the masks as they are: an attacker need not deform them.
            maps = scope_maps(recipe, facts.scope, masks)
            painted = generator(maps, site_noise(recipe, looks, facts.scope.space, random))
        gaps.append((painted[:, channels] - case.image).abs().flatten(1).mean(1))
        if work:
            work.did(len(looks))
    return torch.stack(gaps)


def paintings_of_case(run: RunFolder) -> int:
    """Paintings of each real mask in `painting_gaps`: equally many in each look."""
    looks = len(run.facts().looks())
    return looks * math.ceil(PAINTINGS / looks)


def thumbnails(cases: Sequence[Case]) -> Images:
    """Images (case, c, *sides) of `SIDE` pixels a side, at which they are compared."""
    images = torch.stack([case.image for case in cases])
    return torch.nn.functional.interpolate(images, size=(SIDE,) * (images.ndim - 2), mode="area")


def pairwise(ones: Tensor, others: Tensor) -> Tensor:
    """Mean squared differences of all pairs, (ones, others)."""
    return torch.cdist(ones.flatten(1), others.flatten(1)).square() / ones[0].numel()


def mirrored_too(ones: Tensor, others: Tensor) -> Tensor:
    """`pairwise`, of the nearer of each image of `ones` and its mirror image."""
    return torch.minimum(pairwise(ones, others), pairwise(ones.flip(-1), others))
