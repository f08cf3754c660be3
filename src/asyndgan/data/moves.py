"""Turned, scaled and shifted images, with their label maps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from asyndgan.arrays import IMAGE_LOW, Images, Masks


@final
@dataclass(frozen=True)
class Moves:
    """How far images are moved at random.

    Attributes:
        flips: spatial axes, counted from the last (-1: left to right), that are mirrored.
        rotation: largest angle, in degrees, in the plane of the last two axes.
        zoom: largest change of size: 0.2 is from 1 / 1.2 to 1.2 times.
        translation: largest shift, as a part of the image's side.
        rim: what comes in from beyond the image, as `grid_sample` has it: nothing ("zeros") or its
            reflection, labels alike.
    """

    flips: tuple[int, ...] = ()
    rotation: float = 15.0
    zoom: float = 0.15
    translation: float = 0.05
    rim: str = "zeros"


LIKE_PATIENTS: Final = Moves(rim="reflection")
"""As heads lie in scanners, and are small and large.

Reflected, since a generator would learn wedges of black that no mask announces.
"""


def moved(images: Images, masks: Masks, how: Moves, random: Generator) -> tuple[Images, Masks]:
    """Moves each image of a batch by its own draw.

    Args:
        images: (b, c, *space) in [-1, 1].
        masks: int64 labels (b, *space), moved along by nearest neighbour.
        how: how far.
        random: on the CPU; two equal ones give equal results.

    Returns:
        Images and their masks; -1 and 0 where nothing was, if the rim is of "zeros".
    """
    grid = F.affine_grid(
        _placements(len(images), images.shape[2:], how, random).to(images.device),
        [len(images), 1, *images.shape[2:]],
        align_corners=False,
    )
    sample = partial(F.grid_sample, grid=grid, padding_mode=how.rim, align_corners=False)
    shown = sample(images - IMAGE_LOW, mode="bilinear")
    labels = sample(masks[:, None].float(), mode="nearest")
    return shown + IMAGE_LOW, labels[:, 0].round().long()


def _placements(batch: int, space: Sequence[int], how: Moves, random: Generator) -> Tensor:
    """One affine matrix an image, [b, n, n + 1], as `affine_grid` takes it (x before y)."""

    def draw(largest: float, *shape: int) -> Tensor:
        return (torch.rand(batch, *shape, generator=random) * 2 - 1) * largest

    angle = draw(math.radians(how.rotation))
    zoom = torch.exp(draw(math.log1p(how.zoom)))
    signs = torch.ones(batch, len(space))
    for axis in how.flips:
        signs[:, -1 - axis] = (torch.rand(batch, generator=random) < 0.5) * 2.0 - 1
    matrix = torch.eye(len(space)).repeat(batch, 1, 1)
    # Coordinates run from -1 to 1 on every axis, so a rotation of oblong images needs their ratio.
    ratio = space[-2] / space[-1]
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 0, 1] = -angle.sin() * ratio
    matrix[:, 1, 0] = angle.sin() / ratio
    matrix = matrix * (signs * zoom[:, None])[:, None, :]
    return torch.cat([matrix, draw(2 * how.translation, len(space), 1)], 2)
