"""Loss terms. All are means, so that a weight means the same at any batch and image size."""

from collections.abc import Collection
from typing import Protocol, final, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from asyndgan.arrays import Images, Masks, Scalar


@runtime_checkable
class AdversarialLoss(Protocol):
    """The losses of a discriminator and of a generator on realness logits.

    A discriminator minimises half the sum of `real` and `synthetic`; they are separate so that
    under differential privacy only the first has to be clipped and noised.
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
    """Hinge loss (Lim and Ye 2017; SPADE, section 3)."""

    def real(self, logits: Tensor) -> Scalar:
        """Distance to a margin of 1."""
        return F.relu(1 - logits).mean()

    def synthetic(self, logits: Tensor) -> Scalar:
        """Distance to a margin of -1."""
        return F.relu(1 + logits).mean()

    def generator(self, logits: Tensor) -> Scalar:
        """Minus the logits."""
        return -logits.mean()


def balanced_cross_entropy(
    logits: Tensor, target: Masks, present: Masks, counted: Collection[int] | None = None
) -> Scalar:
    """Cross-entropy in which every label of `present` counts the same, however few its pixels.

    Args:
        logits: (b, labels, *space).
        target: label of each pixel, (b, *space).
        present: label maps whose frequencies give the weights; `target` itself, or the masks where
            every target is "synthetic".
        counted: labels of `present` that count; None: all. The loss is 0 where none occurs.

    Source: Schoenfeld et al. 2021, equation 2 (weights are inverse per-pixel frequencies).
    """
    each = present.flatten()
    pixels = logits.new_zeros(logits.shape[1]).scatter_add_(0, each, logits.new_ones(len(each)))
    if counted is not None:
        for label in set(range(len(pixels))).difference(counted):
            pixels[label] = 0
    found = (pixels > 0).sum()
    weight = torch.where(pixels > 0, pixels.sum() / (found * pixels.clamp(min=1)), 0.0)
    loss = F.cross_entropy(logits, target, reduction="none")
    return (loss * weight[present]).mean()


def balanced_l1(images: Images, target: Images, conditions: Tensor, balance: float) -> Scalar:
    """Mean absolute difference, averaged partly over labels and partly over pixels.

    Args:
        images: (b, c, *space).
        target: the same shape.
        conditions: label maps (b, *space) if `balance` is above 0, else not used.
        balance: 0 for the mean over pixels, 1 for the mean over the labels that occur.
    """
    gap = (images - target).abs()
    if not balance:
        return gap.mean()
    pixels = torch.bincount(conditions.flatten()).to(gap.dtype)
    even = 1 / ((pixels > 0).sum() * pixels.clamp(min=1))  # weights of one label sum to 1 / labels
    weight = (1 - balance) / conditions.numel() + balance * even[conditions]
    return (gap.mean(1) * weight).sum()


def class_moments(images: Images, masks: Masks, labels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the intensities of each label, over a batch.

    Returns:
        (labels, channels, 2) moments, zero where a label does not occur, and (labels,) booleans:
        which labels occur.
    """
    pixels = images.movedim(1, -1).reshape(-1, images.shape[1])
    members = F.one_hot(masks.flatten(), labels).to(pixels.dtype)
    count = members.sum(0)
    mean = members.T @ pixels / count.clamp(min=1)[:, None]
    square = members.T @ pixels.square() / count.clamp(min=1)[:, None]
    deviation = (square - mean.square()).clamp(min=1e-6).sqrt()
    occurs = count > 0
    return torch.stack([mean, deviation], dim=-1) * occurs[:, None, None], occurs


def moments_distance(images: Images, masks: Masks, real: Images, real_masks: Masks) -> Scalar:
    """L1 between the class-wise moments of two unpaired batches, over the labels in both."""
    labels = int(max(masks.max(), real_masks.max())) + 1
    ours, here = class_moments(images, masks, labels)
    theirs, there = class_moments(real, real_masks, labels)
    both = here & there
    return (ours - theirs)[both].abs().mean() if both.any() else images.sum() * 0


def features_distance(synthetic: list[Tensor], real: list[Tensor]) -> Scalar:
    """L1 between batch means of features of two unpaired batches (Salimans et al. 2016, 3.1)."""
    gaps = [
        (ours.mean(0) - theirs.mean(0)).abs().mean()
        for ours, theirs in zip(synthetic, real, strict=True)
    ]
    return torch.stack(gaps).mean()
