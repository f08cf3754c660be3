"""New masks from existing ones: regions of labels are removed, or transplanted between masks."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from asyndgan.arrays import Mask
from asyndgan.data import derived_seed

FITS: Final = 0.98
"""Fraction of a transplanted region that must lie on labels that it covers in its donor."""

Labels = NDArray[np.int64]
Region = NDArray[np.bool_]


def recombined(
    masks: Sequence[tuple[str, Mask]], label: int, *, seed: int = 0
) -> list[tuple[str, Mask]]:
    """Each mask with some of its regions of a label removed and some of another mask's added.

    A region keeps its position and size relative to the body (everything that is not 0 once the
    label is filled in from its surroundings). It is dropped if it does not fit: at least `FITS` of
    it must lie on labels on which it lies in its own mask.

    Args:
        masks: names and label maps [H, W].
        label: value of the label whose regions are exchanged.
        seed: seed of the choice of donors and regions.

    Returns:
        As many names and masks, in the same order.
    """
    random = np.random.default_rng(derived_seed(seed, "recombined", label))
    arrays = [mask.numpy() for _, mask in masks]
    hosts = [_without(array, [label]) for array in arrays]
    mixed: list[tuple[str, Mask]] = []
    for (name, _), own, host in zip(masks, arrays, hosts, strict=True):
        donor = int(random.integers(len(masks)))
        stay = [region for region in _regions(own == label) if random.random() < 0.5]
        offered = list(_transplants(arrays[donor] == label, hosts[donor], host))
        come = [region for region in offered if random.random() < 0.5]
        if not stay and not come:
            come = offered
        filled = np.logical_or.reduce([np.zeros(own.shape, bool), *stay])
        for region in come:
            if not (ndimage.binary_dilation(region) & filled).any():
                filled |= region
        mixed.append((name, torch.from_numpy(np.where(filled, label, host))))
    return mixed


def without_labels(masks: Mask, labels: Collection[int]) -> Mask:
    """Label maps [N, H, W] with regions of these labels replaced by the nearest other label."""
    return torch.stack([torch.from_numpy(_without(mask.numpy(), labels)) for mask in masks])


def _without(mask: Labels, labels: Collection[int]) -> Labels:
    """The mask with regions of labels replaced by the nearest other label; 0 if there is none."""
    where = np.isin(mask, list(labels))
    if where.all():
        return np.zeros_like(mask)
    nearest: Any = ndimage.distance_transform_edt(
        where, return_distances=False, return_indices=True
    )
    filled: Labels = mask[tuple(nearest)]
    return filled


def _regions(where: Region) -> Iterator[Region]:
    numbered, count = ndimage.label(where)
    for number in range(1, count + 1):
        yield numbered == number


def _transplants(where: Region, theirs: Labels, ours: Labels) -> Iterator[Region]:
    """Regions of another mask, moved to where they lie in this one, as far as they fit."""
    start, end = _body(theirs)
    first, last = _body(ours)
    place = np.indices(ours.shape).reshape(2, -1).T
    source = (place - first) / np.maximum(last - first, 1) * (end - start) + start
    source = np.rint(source).astype(int)
    inside = ((source >= 0) & (source < np.array(theirs.shape))).all(1)
    rows, columns = source.clip(0, np.array(theirs.shape) - 1).T
    for region in _regions(where):
        moved = (region[rows, columns] & inside).reshape(ours.shape)
        if moved.any() and np.isin(ours[moved], theirs[region]).mean() >= FITS:
            yield moved


def _body(mask: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last index of the pixels that are not 0; of the whole mask if all are 0."""
    found = np.argwhere(mask)
    if not len(found):
        return np.zeros(2, np.int64), np.array(mask.shape) - 1
    return found.min(0), found.max(0)
