"""Loss terms. All are means, so that a weight means the same at any batch and image size."""

from collections.abc import Collection
from typing import Protocol, final, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from asyndgan.arrays import Masks, Scalar


@runtime_checkable
class AdversarialLoss(Protocol):
    """The losses of a discriminator and of a generator on realness logits.

    A discriminator minimises half the sum of `real` and `synthetic`; only the first is private.
    """

    def real(self, logits: Tensor) -> Scalar:
        """Small when logits of real images are high; a mean over images and patches."""
        ...

    def synthetic(self, logits: Tensor) -> Scalar:
        """Small when logits of synthetic images are low; a mean over images and patches."""
        ...

    def generator(self, logits: Tensor) -> Scalar:
        """Small when logits of synthetic images are high."""
        ...


@final
class BinaryCrossEntropy:
    """Goodfellow et al. 2014 with the non-saturating generator; AsynDGAN equation 2."""

    def real(self, logits: Tensor) -> Scalar:
        """-log D."""
        return F.softplus(-logits).mean()

    def synthetic(self, logits: Tensor) -> Scalar:
        """-log (1 - D)."""
        return F.softplus(logits).mean()

    def generator(self, logits: Tensor) -> Scalar:
        """-log D."""
        return F.softplus(-logits).mean()


@final
class LeastSquares:
    """LSGAN (Mao et al. 2017, equation 9): targets 1 and 0."""

    def real(self, logits: Tensor) -> Scalar:
        """Squared distance to 1."""
        return (logits - 1).square().mean()

    def synthetic(self, logits: Tensor) -> Scalar:
        """Squared distance to 0."""
        return logits.square().mean()

    def generator(self, logits: Tensor) -> Scalar:
        """Squared distance to 1."""
        return (logits - 1).square().mean()


@final
class Hinge:
    """The hinge loss (Lim and Ye 2017, "Geometric GAN"): only logits within a margin of 1 teach."""

    def real(self, logits: Tensor) -> Scalar:
        """How far below 1."""
        return F.relu(1 - logits).mean()

    def synthetic(self, logits: Tensor) -> Scalar:
        """How far above -1."""
        return F.relu(1 + logits).mean()

    def generator(self, logits: Tensor) -> Scalar:
        """The negative mean."""
        return -logits.mean()


def balanced_cross_entropy(
    logits: Tensor, masks: Masks, counted: Collection[int] | None = None
) -> Scalar:
    """Cross-entropy in which every label of `masks` counts the same, however few its pixels.

    Logits (b, labels, *space), masks (b, *space). `counted`: labels that count; None: all.
    Source: Schoenfeld et al. 2021, equation 2.
    """
    pixels = _pixels(logits, masks, counted)
    present = (pixels > 0).sum()
    weight = torch.where(pixels > 0, pixels.sum() / (present * pixels.clamp(min=1)), 0.0)
    loss = F.cross_entropy(logits, masks, reduction="none")
    return (loss * weight[masks]).mean()


def cross_entropy_by_label(
    logits: Tensor, masks: Masks, counted: Collection[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of each label's pixels, and which labels occur and count: (labels,)."""
    pixels = _pixels(logits, masks, counted)
    loss = F.cross_entropy(logits, masks, reduction="none").flatten()
    sums = torch.zeros_like(pixels).scatter_add(0, masks.flatten(), loss)
    return sums / pixels.clamp(min=1), pixels > 0


def _pixels(logits: Tensor, masks: Masks, counted: Collection[int] | None) -> Tensor:
    """Number of pixels of each label, (labels,), in the type of the logits; 0 if none count."""
    each = masks.flatten()
    pixels = logits.new_zeros(logits.shape[1]).scatter_add_(0, each, logits.new_ones(len(each)))
    if counted is not None:
        for label in set(range(len(pixels))).difference(counted):
            pixels[label] = 0
    return pixels
