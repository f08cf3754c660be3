"""Random rotation, scaling and shifting of images together with their label maps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from asyndgan.arrays import IMAGE_LOW, Images, Masks
from asyndgan.recipe import Recipe


@final
@dataclass(frozen=True)
class Moves:
    """Limits of the random moves."""

    flips: tuple[int, ...] = ()  # spatial axes to mirror, counted from the last (-1: left to right)
    rotation: float = 15.0  # largest angle, in degrees, in the plane of the last two axes
    zoom: float = 0.15  # largest change of size: 0.2 allows factors from 1 / 1.2 to 1.2
    translation: float = 0.05  # largest shift, as a fraction of the image's side
    # `padding_mode` of `grid_sample` beyond the edge: "zeros" (-1, label 0) or "reflection"
    rim: str = "zeros"


LIKE_PATIENTS: Final = Moves(rim="reflection")
"""Moves as large as the differences between patients in head position and size.

Edges are reflected, since a generator would learn black wedges that the mask does not show.
"""

COARSE: Final = 6
"""Pixels between two points at which a deformation is drawn."""


def mirrored(recipe: Recipe) -> tuple[int, ...]:
    """The axes along which a recipe's images are mirrored, as `Moves.flips` takes them."""
    return (-1,) if recipe.training.flip else ()


def moved(images: Images, masks: Masks, how: Moves, random: Generator) -> tuple[Images, Masks]:
    """Moves each image (b, c, *space) in [-1, 1] with its mask, int64 (b, *space).

    Labels are resampled by nearest neighbour. Equal states of the generator, on the CPU, give equal
    results.
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


def deformed(masks: Masks, by: float, random: Generator | None) -> Masks:
    """Deforms label maps (b, *space) smoothly, by `by` pixels (standard deviation) on each axis.

    Source: Simard et al. 2003 ("Best Practices for Convolutional Neural Networks", section 2):
    elastic deformations. Displacements are drawn on a grid of `COARSE` pixels a cell, by torch's
    own generator if `random` is None.
    """
    batch, *space = masks.shape
    coarse = [max(2, side // COARSE) for side in space]
    drawn = torch.randn(batch, len(space), *coarse, generator=random) * by
    smooth = "bilinear" if len(space) == 2 else "trilinear"
    # Coordinates run from -1 to 1 on every axis, and x comes before y.
    pixel = 2 / torch.tensor(space[::-1])
    far = F.interpolate(drawn, size=space, mode=smooth, align_corners=True).movedim(1, -1) * pixel
    still = torch.eye(len(space), len(space) + 1).expand(batch, -1, -1)
    grid = F.affine_grid(still, [batch, 1, *space], align_corners=False) + far
    flat = masks[:, None].float()
    found = F.grid_sample(
        flat, grid.type_as(flat), mode="nearest", padding_mode="border", align_corners=False
    )
    return found[:, 0].round().long()


def _placements(batch: int, space: Sequence[int], how: Moves, random: Generator) -> Tensor:
    """Draws one affine matrix per image, [b, n, n + 1], as `affine_grid` takes it (x before y)."""

    def draw(largest: float, *shape: int) -> Tensor:
        return (torch.rand(batch, *shape, generator=random) * 2 - 1) * largest

    angle = draw(math.radians(how.rotation))
    zoom = torch.exp(draw(math.log1p(how.zoom)))
    signs = torch.ones(batch, len(space))
    for axis in how.flips:
        signs[:, -1 - axis] = (torch.rand(batch, generator=random) < 0.5) * 2.0 - 1
    matrix = torch.eye(len(space)).repeat(batch, 1, 1)
    # Coordinates run from -1 to 1 on every axis, so rotating an oblong image needs its ratio.
    ratio = space[-2] / space[-1]
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 0, 1] = -angle.sin() * ratio
    matrix[:, 1, 0] = angle.sin() / ratio
    matrix = matrix * (signs * zoom[:, None])[:, None, :]
    return torch.cat([matrix, draw(2 * how.translation, len(space), 1)], 2)
