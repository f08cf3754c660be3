"""Differentiable augmentation of the images that a discriminator sees, real and synthetic."""

from collections.abc import Sequence
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Generator

from asyndgan.arrays import IMAGE_LOW, Condition, Images

Disturbance = Literal["shift", "dropout"]

SHIFT: Final = 0.125  # Largest shift, as a fraction of the image's side
DROPOUT: Final = 0.5  # Fraction of a record's numbers that are set to 0


def disturbed(
    images: Images, maps: Condition, kinds: Sequence[Disturbance], random: Generator
) -> tuple[Images, Condition]:
    """Shifts images, which conditions follow, and drops numbers of records, real or synthetic.

    Source: Zhao et al. 2020 (Differentiable Augmentation for Data-Efficient GAN Training), section
    3.2.

    Images (b, c, *space) in [-1, 1] and maps (b, labels, *space) keep their shapes; gradients
    reach the images. Where nothing is left, images are -1 and maps 0. Generators in equal states
    disturb alike.
    """
    b, channels, *space = images.shape
    for kind in kinds:
        if kind == "dropout":
            kept = torch.rand(images.shape, generator=random) >= DROPOUT
            images = images * kept.to(images.device)
            continue
        both = torch.cat([images - IMAGE_LOW, maps], dim=1)
        by = torch.rand(b, len(space), 1, generator=random) * 2 - 1
        placement = torch.cat([torch.eye(len(space)).repeat(b, 1, 1), 2 * SHIFT * by], dim=2)
        grid = F.affine_grid(placement.to(images.device), list(both.shape), align_corners=False)
        both = F.grid_sample(both, grid, mode="nearest", align_corners=False)
        images, maps = both[:, :channels] + IMAGE_LOW, both[:, channels:]
    return images, maps
