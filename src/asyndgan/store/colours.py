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
    """Limits of the random changes.

    Attributes:
        intensity: largest relative change of each channel's gain; half of it is the largest shift
            of intensities scaled to [0, 1].
        gamma: largest relative change of the exponent (gamma) of each channel's intensity.
        noise: largest standard deviation of the added noise, in intensities from -1 to 1.
    """

    intensity: float = 0.15
    gamma: float = 0.3
    noise: float = 0.05


def recoloured(images: Images, how: Colours, random: Generator) -> Images:
    """Applies random gamma, gain and shift to each channel of each image, then noise.

    Args:
        images: (b, c, *space) in [-1, 1].
        how: limits of the changes.
        random: generator on the CPU; equal states give equal results.

    Returns:
        Images in [-1, 1].
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
