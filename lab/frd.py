"""Frechet radiomic distance (FRD) of images from real ones, by figures of brightness and texture.

Source: Konz et al. 2024 (Frechet Radiomic Distance): the Frechet distance of radiomic features that
are scaled by those of the real images. The features are those of first order and of co-occurrence
that PyRadiomics defines (van Griethuysen et al. 2017), of an image and of its four Haar bands. No
network is involved, so none can have been trained on what is judged. Compare values with each other
only, not with published ones, which use more features.
"""

from typing import Final

import torch
from torch import Tensor

from asyndgan.arrays import Images
from lab.kid import Features

LEVELS: Final = 16
"""Levels of intensity between which co-occurrences are counted."""

DETAIL: Final = 4.0
"""Factor of the Haar bands that hold detail, which is weaker than the image."""

NEIGHBOURS: Final = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Rows and columns to the neighbour: at 0, 90, 45 and 135 degrees."""

AT_ONCE: Final = 32
"""Channels of images that are looked at together."""

TINY: Final = 1e-9


@torch.no_grad()
def radiomics(images: Images) -> Features:
    """Radiomic features of each channel: 20 of the image and of each of its Haar bands.

    Args:
        images: (n, channels, rows, columns), in [-1, 1].

    Returns:
        (n, 100 x channels), float64, one channel after the other.
    """
    found = []
    for some in images.flatten(0, 1).double().split(AT_ONCE):
        parts = [some, *_bands(some)]
        own = [torch.cat([_first_order(part), _texture(part)], dim=1) for part in parts]
        found.append(torch.cat(own, dim=1))
    return torch.cat(found).reshape(len(images), -1)


def frechet(one: Features, reference: Features) -> float:
    """Squared Frechet distance of features, scaled by the mean and deviation of the reference.

    Raises:
        ValueError: a set has fewer than two images.
    """
    if min(len(one), len(reference)) < 2:
        raise ValueError("a Frechet distance compares sets of two images or more.")
    middle, spread = reference.mean(0), reference.std(0)
    kept = spread > TINY
    own, other = (((f - middle) / spread)[:, kept] for f in (one, reference))
    means = (own.mean(0) - other.mean(0)).square().sum()
    # The trace of the root of C1 C2 is the sum of the singular values of X1 X2', without either.
    own, other = ((f - f.mean(0)) / (len(f) - 1) ** 0.5 for f in (own, other))
    both = torch.linalg.svdvals(own @ other.T).sum()
    return float(means + own.square().sum() + other.square().sum() - 2 * both)


def _bands(images: Tensor) -> list[Tensor]:
    """Haar bands of (n, rows, columns): their mean, and details along columns, rows and both."""
    rows, columns = (side - side % 2 for side in images.shape[1:])
    a, b = images[:, 0:rows:2, 0:columns:2], images[:, 0:rows:2, 1:columns:2]
    c, d = images[:, 1:rows:2, 0:columns:2], images[:, 1:rows:2, 1:columns:2]
    details = (a - b + c - d, a + b - c - d, a - b - c + d)
    return [(a + b + c + d) / 4, *((DETAIL * detail / 4).clamp(-1, 1) for detail in details)]


def _first_order(images: Tensor) -> Tensor:
    """(n, rows, columns) to (n, 12)."""
    flat = images.flatten(1)
    ends = torch.quantile(flat, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]).double(), dim=1)
    middle = flat.mean(1)
    away = flat - middle[:, None]
    spread = away.square().mean(1).sqrt()
    shares = _histogram(_levels(flat), LEVELS)
    figures = [
        middle, spread, away.pow(3).mean(1) / (spread.pow(3) + TINY),
        away.pow(4).mean(1) / (spread.pow(4) + TINY), ends[0], ends[2], ends[4], ends[3] - ends[1],
        flat.amax(1) - flat.amin(1), away.abs().mean(1), _entropy(shares), shares.square().sum(1),
    ]  # fmt: skip
    return torch.stack(figures, dim=1)


def _texture(images: Tensor) -> Tensor:
    """Means over the four directions of figures of co-occurrence: (n, rows, columns) to (n, 8)."""
    levels = _levels(images)
    rows, columns = levels.shape[1:]
    i, j = torch.meshgrid(*[torch.arange(LEVELS).double()] * 2, indexing="ij")
    found = []
    for down, right in NEIGHBOURS:
        one = levels[:, : rows - down, max(0, -right) : columns - max(0, right)]
        other = levels[:, down:, max(0, right) : columns - max(0, -right)]
        shares = _histogram((one * LEVELS + other).flatten(1), LEVELS**2)
        table = shares.reshape(-1, LEVELS, LEVELS)
        table = (table + table.mT) / 2  # in either order

        def over(weights: Tensor, table: Tensor = table) -> Tensor:
            return (table * weights).sum((1, 2))

        middle = over(i)[:, None, None]
        variance = over((i - middle).square())
        sums = i + j - 2 * middle
        found.append(
            torch.stack(
                [
                    over((i - j).square()), over((i - j).abs()), over(1 / (1 + (i - j).square())),
                    over((i - middle) * (j - middle)) / (variance + TINY),
                    table.square().sum((1, 2)), _entropy(table.flatten(1)),
                    over(sums.pow(3)), over(sums.pow(4)),
                ],
                dim=1,
            )
        )  # fmt: skip
    return torch.stack(found).mean(0)


def _levels(values: Tensor) -> Tensor:
    return ((values + 1) / 2 * LEVELS).long().clamp(0, LEVELS - 1)


def _histogram(values: Tensor, bins: int) -> Tensor:
    """Share of each bin in (n, values): (n, bins)."""
    counts = torch.zeros(len(values), bins).double()
    counts.scatter_add_(1, values, torch.ones_like(values).double())
    return counts / values.shape[1]


def _entropy(shares: Tensor) -> Tensor:
    return -(shares * (shares + TINY).log2()).sum(1)
