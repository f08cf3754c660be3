"""Resamples, crops and pads images and masks to a recipe's grid."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from asyndgan.arrays import IMAGE_LOW, Images


def resample(image: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resamples an image [C, *sides] linearly, with antialiasing, to `size`: two or three sides."""
    if tuple(image.shape[1:]) == size:
        return image
    smoothly = partial(F.interpolate, mode="bilinear", antialias=True)
    if len(size) == 2:
        return smoothly(image[None], size)[0]
    # Of volumes torch smooths nothing: first in the planes, then across them.
    planes = smoothly(image.flatten(0, 1)[None], size[1:])[0].unflatten(0, image.shape[:2])
    across = smoothly(planes.flatten(2)[None], (size[0], size[1] * size[2]))[0]
    return across.unflatten(2, size[1:])


def resample_labels(labels: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resamples labels: when shrinking, each new pixel takes the label that covers most of it."""
    if all(to >= side for to, side in zip(size, labels.shape, strict=True)):
        return nearest(labels, size)
    # Label by label: masks may hold hundreds, and a stack of them all would not fit in memory.
    most = torch.full(size, -1.0)
    taken = torch.zeros(size, dtype=labels.dtype)
    for label in labels.unique():
        covers = resample((labels == label)[None].float(), size)[0]
        taken = torch.where(covers > most, label, taken)
        most = torch.maximum(covers, most)
    return taken


def nearest(labels: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resamples labels [*sides]: each new pixel takes the nearest label."""
    return F.interpolate(labels[None, None].double(), size, mode="nearest-exact")[0, 0].long()


def moved_into(image: Tensor, size: Sequence[int], offset: Sequence[int], fill: float) -> Tensor:
    """Places `image` [C, *sides] at `offset` in a new one of `size`, cropping what lies outside."""
    moved = image.new_full((len(image), *size), fill)
    sides = list(zip(offset, image.shape[1:], strict=True))
    into = moved[:, *(slice(max(start, 0), max(start + side, 0)) for start, side in sides)]
    begun = [max(-start, 0) for start, _ in sides]
    ends = map(sum, zip(begun, into.shape[1:], strict=True))
    into.copy_(image[:, *map(slice, begun, ends)])
    return moved


def label_shares(images: Images) -> Tensor:
    """How much of each pixel of half the size a label covers, from -1 to 1: (b, labels, *space).

    Of moved label maps (b, labels, *twice the space); each place counts for its likeliest label.
    """
    best = images.max(1, keepdim=True).indices  # six times faster than argmax
    sharp = torch.full_like(images, IMAGE_LOW).scatter_(1, best, 1.0)
    return F.interpolate(sharp, scale_factor=0.5, mode="area")
