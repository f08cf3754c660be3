"""Labels, such as lesions, that are painted more or less clearly from image to image."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch
from scipy import ndimage

from asyndgan.arrays import Mask
from asyndgan.errors import RunError
from asyndgan.runs import RunFolder

CONTRASTS: Final = (0.5, 1.1)
"""Least and highest contrast of faded labels. Chosen on validation patients: see
docs/experiments.md."""


@final
@dataclass(frozen=True)
class Fading:
    """Labels whose contrast varies from image to image, as that of patients' lesions does.

    With contrast a an image is `without + a * (with - without)`: `without` is painted with the same
    noise and look, from the mask in which the labels are replaced by what surrounds them. Where
    masks hold nothing but these labels, and the generator was shown no empty one, it is anything.
    """

    labels: tuple[int, ...] = ()  # values; empty: none is faded
    # least and highest; each image's is drawn uniformly. 1: as painted
    contrasts: tuple[float, float] = CONTRASTS

    @classmethod
    def of(cls, names: Sequence[str], labels: Mapping[str, int]) -> "Fading":
        """Fading of labels by their names; raises `RunError` if one is unknown, or of 0."""
        known = [name for name, value in labels.items() if value]
        for name in names:
            if name not in known:
                raise RunError(f"there is no label '{name}' to fade; there are {', '.join(known)}.")
        return cls(tuple(sorted({labels[name] for name in names})))

    def told(self) -> dict[str, Any]:
        """The fading as it is written into a synthetic set's provenance."""
        return {
            "faded": list(self.labels),
            "contrasts": list(self.contrasts if self.labels else ()),
        }


AS_PAINTED: Final = Fading()
"""No label is faded."""


def fading_of(run: RunFolder, faded: Sequence[str]) -> Fading:
    """Fading of a run's labels by their names; raises `RunError` if one is not known."""
    return Fading.of(faded, {name: number for number, name in run.facts().scope.labels.items()})


def faded(
    images: torch.Tensor, without: torch.Tensor, fading: Fading, random: torch.Generator
) -> torch.Tensor:
    """Images (n, c, *space) with another contrast each to those without the labels."""
    low, high = fading.contrasts
    contrast = low + (high - low) * torch.rand(len(images), generator=random)
    contrast = contrast.view(-1, *[1] * (images.dim() - 1))
    return (without + contrast * (images - without)).clamp(-1, 1)


def without_labels(masks: Mask, labels: Collection[int]) -> Mask:
    """Label maps [N, H, W] with regions of these labels replaced by the nearest other label.

    A mask of nothing else is 0 everywhere.
    """
    found = []
    for mask in masks.numpy():
        where = np.isin(mask, list(labels))
        nearest: Any = ndimage.distance_transform_edt(
            where, return_distances=False, return_indices=True
        )
        found.append(np.zeros_like(mask) if where.all() else mask[tuple(nearest)])
    return torch.from_numpy(np.stack(found))
