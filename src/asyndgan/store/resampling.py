"""Resamples, crops and pads images and masks to a recipe's grid."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def resample(
    image: Tensor, size: tuple[int, int], resampling: Literal["linear", "nearest"]
) -> Tensor:
    """Resamples an image [C, h, w] to `size`."""
    if tuple(image.shape[-2:]) == size:
        return image
    if resampling == "nearest":
        return F.interpolate(image[None], size, mode="nearest-exact")[0]
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def resample_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resamples labels: when shrinking, each new pixel takes the label that covers most of it.

    The nearest label would not do then: halving averages four pixels, and the nearest of them lies
    half a pixel off their middle, so masks would be shifted against images.
    """
    height, width = labels.shape
    if size[0] >= height and size[1] >= width:
        return nearest(labels, size)
    # Label by label: masks may hold hundreds, and a stack of them all would not fit in memory.
    most = torch.full(size, -1.0)
    taken = torch.zeros(size, dtype=labels.dtype)
    for label in labels.unique():
        covers = resample((labels == label)[None].float(), size, "linear")[0]
        taken = torch.where(covers > most, label, taken)
        most = torch.maximum(covers, most)
    return taken


def nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resamples labels [h, w]: each new pixel takes the nearest label."""
    return resample(labels[None].double(), size, "nearest")[0].long()


def moved_into(image: Tensor, size: Sequence[int], offset: Sequence[int], fill: float) -> Tensor:
    """Places `image` [C, h, w] at `offset` in a new one of `size`, cropping what lies outside."""
    moved = image.new_full((len(image), *size), fill)
    (top, left), (height, width) = offset, image.shape[-2:]
    into = moved[:, max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    rows, columns = into.shape[-2:]
    from_top, from_left = max(-top, 0), max(-left, 0)
    into.copy_(image[:, from_top : from_top + rows, from_left : from_left + columns])
    return moved
