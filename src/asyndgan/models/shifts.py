"""Differentiable augmentation of the images that a discriminator sees, real and synthetic."""

from collections.abc import Sequence
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from asyndgan.arrays import IMAGE_LOW, Condition, Images, Window, WindowCondition

Disturbance = Literal["shift", "window", "dropout"]

SHIFT: Final = 0.125  # Largest shift, as a fraction of the image's side
DROPOUT: Final = 0.5  # Fraction of a record's numbers that are set to 0
WHOLE: Final = 0.5  # Chance of an image to be seen whole, at half the size, and not by a window


def disturbed(
    images: Images, maps: Condition, kinds: Sequence[Disturbance], random: Generator
) -> tuple[Window, WindowCondition]:
    """Shifts images, which conditions follow, and drops numbers of records, real or synthetic.

    With "window" each image becomes a window of it, or all of it at half the size: half the sides,
    so a discriminator needs a quarter of the time (of volumes an eighth).

    Source: Zhao et al. 2020 (Differentiable Augmentation for Data-Efficient GAN Training), section
    3.2. Windows: "Any-resolution Training" (Chai et al. 2022, section 3.2).

    Images (b, c, *space) in [-1, 1] and maps (b, labels, *space) otherwise keep their shapes;
    gradients reach the images. Where nothing is left, images are -1 and maps 0. Generators in equal
    states disturb alike.
    """
    b, channels, *space = images.shape
    for kind in kinds:
        if kind == "dropout":
            kept = torch.rand(images.shape, generator=random) >= DROPOUT
            images = images * kept.to(images.device)
            continue
        if kind == "window":
            images, maps = _windows(images, maps, random)
            continue
        both = torch.cat([images - IMAGE_LOW, maps], dim=1)
        by = torch.rand(b, len(space), 1, generator=random) * 2 - 1
        placement = torch.cat([torch.eye(len(space)).repeat(b, 1, 1), 2 * SHIFT * by], dim=2)
        grid = F.affine_grid(placement.to(images.device), list(both.shape), align_corners=False)
        both = F.grid_sample(both, grid, mode="nearest", align_corners=False)
        images, maps = both[:, :channels] + IMAGE_LOW, both[:, channels:]
    return images, maps


def _windows(images: Images, maps: Condition, random: Generator) -> tuple[Window, WindowCondition]:
    """Half the sides of each image: a window of it, or, with a chance of 1 in 2, all of it.

    Along each side half of the windows lie at an end: else corners, which few windows show, turn
    white.
    """
    b, _, *space = images.shape
    sides = [side // 2 for side in space]
    whole = torch.rand(b, generator=random) < WHOLE
    room = torch.tensor([side - half for side, half in zip(space, sides, strict=True)])
    at = ((2 * torch.rand(b, len(space), generator=random) - 0.5).clamp(0, 1) * room).round().long()
    # Of two pixels that become one, either gives the label.
    either = torch.randint(2, at.shape, generator=random).tolist()
    seen: list[tuple[Tensor, Tensor]] = []
    for image, own, small, first, of in zip(images, maps, whole, at.tolist(), either, strict=True):
        every = (..., *[slice(n, 2 * side, 2) for n, side in zip(of, sides, strict=True)])
        window = (..., *[slice(n, n + side) for n, side in zip(first, sides, strict=True)])
        seen.append(
            (F.interpolate(image[None], size=sides, mode="area")[0], own[every])
            if small
            else (image[window], own[window])
        )
    shown, lying = zip(*seen, strict=True)
    return torch.stack(shown), torch.stack(lying)
