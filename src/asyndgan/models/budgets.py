"""How segmentation networks and translators are trained; apart from training, which needs torch."""

from dataclasses import dataclass
from typing import final

from asyndgan.errors import DataError


@final
@dataclass(frozen=True)
class SegmentationBudget:
    """Training settings of a segmentation network; the defaults suit images of 64 to 128 pixels."""

    network: str = "unet"  # one of `NETWORKS`
    # number of updates; the learning rate follows a cosine down to zero over them
    steps: int = 1000
    batch: int = 16  # images per step
    rate: float = 2e-3  # highest learning rate of AdamW, reached after a twentieth of the steps
    weight_decay: float = 1e-3  # weight decay of AdamW
    width: int = 12  # filters of the network's first level
    # spatial axes to mirror at random, as negative indices (-1: left to right)
    flips: tuple[int, ...] = (-1,)
    rotation: float = 20.0  # largest angle in degrees, in the plane of rows and columns
    zoom: float = 0.2  # largest relative change of size
    translation: float = 0.08  # largest shift, as a fraction of the image's side
    # largest relative change of each channel's gain; half of it is the largest shift of intensities
    # scaled to [0, 1]
    intensity: float = 0.15
    # largest relative change of the exponent (gamma) of each channel's intensity
    gamma: float = 0.3
    # largest standard deviation of the added noise, in intensities from -1 to 1
    noise: float = 0.05
    # whether label 0 means that nobody labelled a pixel. Such pixels are in no loss and in no
    # score.
    unlabelled: bool = False

    def __post_init__(self) -> None:
        from asyndgan.models.segmenters import NETWORKS  # here: it imports torch

        if min(self.steps, self.batch, self.width) < 1 or self.rate <= 0:
            raise ValueError("steps, batch and width must be 1 or more and rate above 0")
        if self.network not in NETWORKS:
            raise DataError(
                f"there is no segmentation network '{self.network}'; choose one of "
                f"{', '.join(NETWORKS)}."
            )


@final
@dataclass(frozen=True)
class TranslationBudget:
    """Training settings of a translator; the defaults suit images of 64 to 128 pixels."""

    steps: int = 2000  # updates; the rate falls linearly to zero over the last half of them
    batch: int = 16  # images per step
    rate: float = 3e-3  # learning rate of Adam
    width: int = 16  # filters of the U-Net's first level
    images: int = 6  # painted per mask, each from the mask moved at random
    unmasked: float = 0.2  # fraction of images with a hidden mask, to prepare for cases without one
