"""Random changes of the intensities of images, whose label maps stay as they are."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Images


@final
@dataclass(frozen=True)
class Colours:
    """Limits of the random changes."""

    intensity: float = 0.15  # largest relative change of a channel's gain; of its shift, half of it
    gamma: float = 0.3  # largest relative change of a channel's exponent
    noise: float = 0.05  # largest standard deviation, in intensities from -1 to 1


def recoloured(images: Images, how: Colours, random: Generator) -> Images:
    """Random gamma, gain and shift of each channel of images (b, c, *space) in [-1, 1], then noise.

    Equal states of the generator, on the CPU, give equal results in [-1, 1].
    """
    shape = (*images.shape[:2], *[1] * (images.ndim - 2))

    def draw(largest: float) -> Tensor:
        drawn = torch.rand(shape, generator=random) * 2 - 1
        return (drawn * largest).to(images.device)

    scale = IMAGE_HIGH - IMAGE_LOW
    unit = ((images - IMAGE_LOW) / scale).clamp(0, 1)
    unit = unit ** torch.exp(draw(math.log1p(how.gamma)))
    unit = unit * torch.exp(draw(math.log1p(how.intensity))) + draw(how.intensity / 2)
    strength = torch.rand((shape[0], 1, *shape[2:]), generator=random) * how.noise
    noise = torch.randn(images.shape, generator=random) * strength
    return (unit * scale + IMAGE_LOW + noise.to(images.device)).clamp(IMAGE_LOW, IMAGE_HIGH)
