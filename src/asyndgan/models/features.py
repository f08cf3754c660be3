"""Image features that need no trained network, and a distance between sets of images.

Random convolutions with a fixed seed capture texture and structure; handcrafted features capture
intensities, edges and how modalities correlate. Both are cheap, need no download, and mean the same
on every machine. The distance is Frechet's between normal distributions, feature by feature: the
few hundred images that sites have cannot determine a covariance of hundreds of features. It is
meant to compare runs with each other and with the floor between two sets of real images; it is not
FID (Heusel et al. 2017).
"""

from dataclasses import dataclass
from typing import Final, Self, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from asyndgan.arrays import Images
from asyndgan.texts import LARGEST_NUMBER

SEED: Final = 1
"""Seed of the random convolutions; another seed would give another measure."""

WIDTHS: Final = (32, 64, 64)
"""Filters of the random convolutions, each of which halves the size."""

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
BANDS: Final = 3
"""Number of scales, each half the one before, at which detail is measured separately."""


class Features(nn.Module):
    """Computes features [b, size] of images [b, channels, h, w] in [-1, 1].

    Args:
        channels: number of modalities of an image.

    Attributes:
        size: number of features of an image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(SEED)
        self.filters = nn.ParameterList()
        before = channels
        for width in WIDTHS:
            scale = (2 / (9 * before)) ** 0.5  # keeps the variance through a rectifier (He 2015)
            weight = scale * torch.randn(width, before, 3, 3, generator=random)
            self.filters.append(nn.Parameter(weight, requires_grad=False))
            before = width
        pairs = channels * (channels - 1) // 2
        self.size = 2 * sum(WIDTHS) + channels * (4 + len(QUANTILES) + BANDS) + pairs

    @torch.no_grad()
    def forward(self, images: Images) -> Float[Tensor, "b size"]:
        """All features of each image."""
        return torch.cat([self._random(images), _by_hand(images)], 1)

    def _random(self, images: Images) -> Float[Tensor, "b random"]:
        maps, found = images, []
        for weight in self.filters:
            maps = F.leaky_relu(F.conv2d(maps, weight, stride=2, padding=1), 0.2)
            found += [maps.mean((2, 3)), maps.std((2, 3))]
        return torch.cat(found, 1)


def features_in_parts(images: Images, *, batch: int = 64) -> Float[Tensor, "b size"]:
    """Features of any number of images, computed `batch` at a time."""
    features = Features(images.shape[1])
    return torch.cat([features(part) for part in images.split(batch)])


def _by_hand(images: Images) -> Float[Tensor, "b hand"]:
    flat = images.flatten(2)
    down = images.diff(dim=2).abs()
    across = images.diff(dim=3).abs()
    found = [
        flat.mean(2),
        flat.std(2),
        down.mean((2, 3)) + across.mean((2, 3)),
        (down.square().mean((2, 3)) + across.square().mean((2, 3))).sqrt(),
        *torch.quantile(flat, torch.tensor(QUANTILES, device=images.device), dim=2),
    ]
    rest = images
    for _ in range(BANDS):
        low = F.avg_pool2d(rest, 2)
        found.append((rest - F.interpolate(low, rest.shape[2:], mode="nearest")).std((2, 3)))
        rest = low
    centred = F.normalize(flat - flat.mean(2, keepdim=True), dim=2)
    together = centred @ centred.transpose(1, 2)
    first, second = torch.triu_indices(images.shape[1], images.shape[1], 1, device=images.device)
    return torch.cat([*found, together[:, first, second]], 1)


@final
@dataclass(frozen=True)
class Moments:
    """All that the distance needs of a set of images.

    Attributes:
        count: number of images.
        total: sum of their features [size].
        squares: sum of the features' squares [size].
    """

    count: float
    total: Float[Tensor, " size"]
    squares: Float[Tensor, " size"]

    @classmethod
    def of(cls, features: Float[Tensor, "b size"]) -> Self:
        """Moments of a set with these features."""
        values = features.double()
        return cls(float(len(values)), values.sum(0), values.square().sum(0))

    @property
    def mean(self) -> Float[Tensor, " size"]:
        """Mean of each feature."""
        return self.total / self.count

    @property
    def deviation(self) -> Float[Tensor, " size"]:
        """Standard deviation of each feature (divided by the count)."""
        return (self.squares / self.count - self.mean.square()).clamp(min=0).sqrt()


def distance(of: Moments, reference: Moments, *, unit: Float[Tensor, " size"]) -> float:
    """Mean over features of the squared Frechet distance, in given units.

    Args:
        of: the set to judge.
        reference: real images.
        unit: of each feature: its standard deviation in real images.

    Returns:
        0 or more; 0 for equal moments, 1 where means are a standard deviation off. Two sets of n
        independent images from one distribution are about 3 / n apart. Slices of a patient are not
        independent, so report the floor between sets of real patients beside it.
    """
    seen = unit > 1e-6  # a feature that is equal in all real images has none
    gap = (of.mean - reference.mean).square() + (of.deviation - reference.deviation).square()
    return min(float((gap[seen] / unit[seen].square()).mean()), LARGEST_NUMBER)
