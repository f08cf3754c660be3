"""How a translator is trained; apart from its training, which needs torch."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class TranslationBudget:
    """Training settings of a translator; the defaults suit images of 64 to 128 pixels.

    Attributes:
        steps: number of updates; the rate falls linearly to zero over the last half of them.
        batch: images per step.
        rate: learning rate of Adam.
        width: filters of the U-Net's first level.
        images: training images painted per mask, each from the mask moved at random.
        unmasked: fraction of the images whose mask is hidden, to prepare for cases without one.
    """

    steps: int = 2000
    batch: int = 16
    rate: float = 3e-3
    width: int = 16
    images: int = 6
    unmasked: float = 0.2
