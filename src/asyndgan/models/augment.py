"""Differentiable augmentation of the images that a discriminator sees, real and synthetic."""

from collections.abc import Sequence
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from asyndgan.arrays import IMAGE_LOW, Condition, Images

Disturbance = Literal["intensity", "shift", "cutout", "dropout"]

SHIFT: Final = 0.125
"""Largest shift, as a fraction of the image's side."""

DROPOUT: Final = 0.5
"""Fraction of a record's numbers that are set to 0."""

CUTOUT: Final = 0.5
"""Side of the square that is cut out, as a fraction of the image's side."""


def disturbed(
    images: Images, maps: Condition, kinds: Sequence[Disturbance], random: Generator
) -> tuple[Images, Condition]:
    """Changes the intensities of images, shifts them and cuts out squares; conditions follow.

    A discriminator that sees few patients memorises them, unless it sees them disturbed in many
    ways. Synthetic images are disturbed too, so the generator does not learn to paint disturbances.
    Source: Zhao et al. 2020 (Differentiable Augmentation for Data-Efficient GAN Training), section
    3.2, with their ranges.

    Args:
        images: (b, c, *space) in [-1, 1].
        maps: (b, labels, *space).
        kinds: in the order in which they are applied: `intensity` (brightness and contrast of each
            modality), `shift` (by an eighth of the side at most), `cutout` (a square of half the
            side), `dropout` (of records: numbers set to 0).
        random: on the CPU; generators in equal states disturb alike.

    Returns:
        Images and maps of the same shapes. Where nothing is left, images are -1 and maps 0.
        Gradients reach `images`.
    """
    b, channels, *space = images.shape

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, *[1] * len(space), generator=random).to(images.device)

    for kind in kinds:
        if kind == "intensity":
            middle = images.mean(dim=tuple(range(2, images.ndim)), keepdim=True)
            contrast, brightness = drawn(b, channels) + 0.5, drawn(b, channels) - 0.5
            images = (images - middle) * contrast + middle + brightness
            continue
        if kind == "dropout":
            images = images * (torch.rand(images.shape, generator=random) >= DROPOUT).to(
                images.device
            )
            continue
        both = torch.cat([images - IMAGE_LOW, maps], dim=1)
        if kind == "shift":
            by = torch.rand(b, len(space), 1, generator=random) * 2 - 1
            placement = torch.cat([torch.eye(len(space)).repeat(b, 1, 1), 2 * SHIFT * by], dim=2)
            grid = F.affine_grid(placement.to(images.device), list(both.shape), align_corners=False)
            both = F.grid_sample(both, grid, mode="nearest", align_corners=False)
        else:
            both = both * _holes(b, space, random).to(images.device)
        images, maps = both[:, :channels] + IMAGE_LOW, both[:, channels:]
    return images, maps


def _holes(count: int, space: Sequence[int], random: Generator) -> Tensor:
    """Factors (count, 1, *space): 0 in one square of each image, 1 elsewhere."""
    inside = torch.ones(count, 1, *[1] * len(space), dtype=torch.bool)
    for axis, side in enumerate(space):
        middle = torch.rand(count, generator=random) * side
        far = (torch.arange(side) - middle[:, None]).abs() > CUTOUT * side / 2
        shape = [count, 1, *[1] * len(space)]
        shape[2 + axis] = side
        inside = inside & ~far.reshape(shape)
    return (~inside).float()
