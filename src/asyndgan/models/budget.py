"""How a segmentation network is trained; apart from its training, which needs torch."""

from dataclasses import dataclass
from typing import final

from asyndgan.errors import DataError


@final
@dataclass(frozen=True)
class SegmentationBudget:
    """Training settings of a segmentation network; the defaults suit images of 64 to 128 pixels.

    Attributes:
        network: one of `NETWORKS`.
        steps: number of updates; the learning rate follows a cosine down to zero over them.
        batch: images per step.
        rate: highest learning rate of AdamW, reached after a twentieth of the steps.
        weight_decay: weight decay of AdamW.
        width: filters of the network's first level.
        flips: spatial axes to mirror at random, as negative indices (-1: left to right).
        rotation: largest angle in degrees, in the plane of rows and columns.
        zoom: largest relative change of size.
        translation: largest shift, as a fraction of the image's side.
        intensity: largest relative change of each channel's gain; half of it is the largest shift
            of intensities scaled to [0, 1].
        gamma: largest relative change of the exponent (gamma) of each channel's intensity.
        noise: largest standard deviation of the added noise, in intensities from -1 to 1.
        unlabelled: whether label 0 means that nobody labelled a pixel. Such pixels are in no loss
            and in no score.
    """

    network: str = "unet"
    steps: int = 1000
    batch: int = 16
    rate: float = 2e-3
    weight_decay: float = 1e-3
    width: int = 12
    flips: tuple[int, ...] = (-1,)
    rotation: float = 20.0
    zoom: float = 0.2
    translation: float = 0.08
    intensity: float = 0.15
    gamma: float = 0.3
    noise: float = 0.05
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
