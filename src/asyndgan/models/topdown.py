"""A generator that paints from a code downward, told the mask at every scale."""

import math
from itertools import pairwise
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndgan.arrays import Condition, Images, Noise
from asyndgan.models.generators import (
    ONE,
    SLOPE,
    convolution,
    instance_norm,
    numbered,
    smooth,
    within_range,
)
from asyndgan.models.sizes import Sizes
from asyndgan.recipe import GeneratorSection

GRID: Final = 4  # Rows and columns of the map that the code becomes
TOLD: Final = 16  # Features of the mask that modulate a level
HIDDEN: Final = 64  # Length of the code after its mapping


def positions(like: Tensor) -> Tensor:
    """Coordinates of each pixel, -1 to 1 along each axis: (b, axes, *space) for (b, c, *space)."""
    axes = [torch.linspace(-1, 1, side) for side in like.shape[2:]]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    # So neither a device nor a number of images becomes a constant when this is traced.
    return grid.type_as(like).expand(like.shape[0], *grid.shape)


def softened(maps: Condition, deviation: float) -> Condition:
    """Maps blurred by a Gaussian of this standard deviation in pixels; the same shape."""
    if not deviation:
        return maps
    radius = math.ceil(3 * deviation)
    places = torch.arange(-radius, radius + 1).type_as(maps)
    weights = torch.softmax(-0.5 * (places / deviation).square(), 0)
    flat = maps.flatten(0, 1)[:, None]
    blur, side = (F.conv2d, 2) if maps.ndim == 4 else (F.conv3d, 3)
    for axis in range(side):
        shape = [1] * side
        shape[axis] = len(weights)
        ends = [radius * (number // 2 == side - 1 - axis) for number in range(2 * side)]
        flat = blur(F.pad(flat, ends, mode="replicate"), weights.reshape(1, 1, *shape))
    return flat.reshape(maps.shape)


@final
class ModulatedLayer(nn.Module):
    """Convolution, norm, scale and shift by mask and code, noise, rectifier.

    As in SPADE (Park et al. 2019, section 3) for the mask, and as in StyleGAN (Karras et al. 2019,
    section 2) for the code and the noise, which each feature weighs for itself.
    """

    def __init__(self, dims: int, source: int, target: int, noise: int) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.conv = convolution(dims, source, target, bias=False)
        self.norm = instance_norm(dims, target, affine=False)
        self.told = conv(TOLD, 2 * target, 1)
        self.code = nn.Linear(HIDDEN, 2 * target)
        self.grain = conv(noise, target, 1, bias=False) if noise else None
        for layer in filter(None, (self.told, self.grain)):
            if not layer.weight.is_meta:  # without memory, torch imports its compiler to draw
                nn.init.normal_(layer.weight, std=0.05)

    def forward(self, features: Tensor, told: Tensor, code: Tensor, grain: Tensor) -> Tensor:
        """(b, source, *space) to (b, target, *space)."""
        features = self.norm(self.conv(features))
        by_code = self.code(code)
        change = self.told(told) + by_code.reshape(*by_code.shape, *[1] * (features.ndim - 2))
        scale, shift = change.chunk(2, dim=1)
        features = features * (1 + scale) + shift
        if self.grain is not None:
            features = features + self.grain(grain)
        return F.leaky_relu(features, SLOPE)


@final
class Level(nn.Module):
    """Two modulated layers at one size, and what they are told of the mask there."""

    def __init__(self, dims: int, maps: int, source: int, target: int, noise: int) -> None:
        super().__init__()
        self.tell = convolution(dims, maps, TOLD, bias=True)
        self.first = ModulatedLayer(dims, source, target, noise)
        self.second = ModulatedLayer(dims, target, target, noise)

    def forward(self, features: Tensor, maps: Tensor, code: Tensor, grain: Tensor) -> Tensor:
        """Features (b, source, *space) to (b, target, *space); maps and noise are of full size."""
        by = maps.shape[2] // features.shape[2]
        if by > 1:
            pool = F.avg_pool2d if maps.ndim == 4 else F.avg_pool3d
            maps = pool(maps, by)
            grain = grain[..., ::by, ::by]
            grain = (grain if maps.ndim == 4 else grain[:, :, ::by]).contiguous()
        told = F.leaky_relu(self.tell(maps), SLOPE)
        features = self.first(features, told, code, grain)
        painted: Tensor = self.second(features, told, code, grain)
        return painted


@final
class TopDownGenerator(nn.Module):
    """Paints from the lowest size upward, from a code, positions and the mask.

    The code is the site's style, the image's latent numbers and what an encoder finds in the whole
    mask (Zhao et al. 2021, "co-modulation", section 3.3). Each level has twice the size of the one
    before.

    Of the section it takes `levels`, `soften`, `noise`, `style`, `latent` and `width` k: levels
    have 4k, 4k, 2k, k, k/2 and k/4 features.
    """

    def __init__(self, sizes: Sizes, section: GeneratorSection) -> None:
        super().__init__()
        k, dims = section.width, sizes.dims
        self.noise, self.soften = section.noise, section.soften
        maps = sizes.labels + 1  # and one that is 1 everywhere, for those without a condition
        widths = (4 * k, 4 * k, 2 * k, k, k // 2, k // 4)[: section.levels]
        seen = (*(width // 2 for width in widths[-2:0:-1]), widths[0])  # of the mask, by level
        found = (maps, *seen)
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.encoder = nn.ModuleList(
            conv(source, target, 4, stride=2, padding=1) for source, target in pairwise(found)
        )
        self.mapping = nn.Sequential(
            nn.Linear(section.code + found[-1], HIDDEN), nn.LeakyReLU(SLOPE),
            nn.Linear(HIDDEN, HIDDEN), nn.LeakyReLU(SLOPE),
        )  # fmt: skip
        self.start = nn.Linear(HIDDEN, 2 * k * GRID**dims)
        beside = (*seen[-2::-1], 0)
        above = zip(widths, beside, strict=False)
        sources = (2 * k + seen[-1] + dims, *(width + mask for width, mask in above))
        self.levels = nn.ModuleList(
            Level(dims, maps, source, target, section.noise)
            for source, target in zip(sources, widths, strict=True)
        )
        last = widths[-1] + maps + section.noise
        self.paint = convolution(dims, last, sizes.modalities, bias=True)
        self.smooth = smooth(dims)
        told, noise = (*numbered(label=sizes.labels), ONE), numbered(noise=section.noise)
        code = numbered(style=section.style, latent=section.latent, feature=found[-1])
        self.reads = {"encoder.0": told, "mapping.0": code}
        self.reads["paint"] = (*numbered(feature=widths[-1]), *told, *noise)
        for name, _ in self.levels.named_modules():
            if name.endswith(("tell", "grain")):
                self.reads[f"levels.{name}"] = told if name.endswith("tell") else noise
        self.paints = ("paint",)

    def forward(self, condition: Condition, noise: Noise) -> Images:
        """Paints images in [-1, 1] of the condition's size, a multiple of 2 ** (levels - 1)."""
        grain, codes = noise[:, : self.noise], noise[:, self.noise :]
        found = [F.pad(2 * condition - 1, (*[0, 0] * (condition.ndim - 2), 0, 1), value=1.0)]
        for layer in self.encoder:
            found.append(F.leaky_relu(layer(found[-1]), SLOPE))
        # Without codes nothing is joined: ONNX Runtime reshapes no array of no channel.
        told = [each.flatten(2).mean(2) for each in (codes, found[-1]) if each.shape[1]]
        code = self.mapping(torch.cat(told, dim=1))
        start = self.start(code).reshape(code.shape[0], -1, *[GRID] * (condition.ndim - 2))
        features = self._resized(start, found[-1].shape[2:])
        features = torch.cat([features, found[-1], positions(features)], dim=1)
        mask = softened(found[0], self.soften)
        # Beside the features from above: nothing at the lowest size, which has them, nor at full
        # size, where the mask itself modulates.
        beside = (None, *found[-2:0:-1], None)
        for level, paint in enumerate(self.levels):
            if level:
                features = self._resized(features, found[-1 - level].shape[2:])
            seen = beside[level]
            features = features if seen is None else torch.cat([features, seen], dim=1)
            features = paint(features, mask, code, grain)
        return within_range(self.paint(torch.cat([features, mask, grain], dim=1)))

    def _resized(self, features: Tensor, space: torch.Size) -> Tensor:
        return F.interpolate(features, size=space, mode=self.smooth, align_corners=False)
