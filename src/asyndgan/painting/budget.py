"""How a translator is trained; apart from its training, which needs torch."""

from dataclasses import dataclass
from typing import final


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
