"""Tensor shapes and intensity ranges shared by all modules.

The shape strings are checked in tests only (see tests/conftest.py); at run time they only document.
`*space` has one axis per spatial dimension: (height, width) or (depth, height, width).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

IMAGE_LOW = -1.0
"""Intensity that means "nothing" (air, background) in every prepared image."""

IMAGE_HIGH = 1.0
"""Brightest intensity of a prepared image; generators end in tanh to stay below it."""

CPU = torch.device("cpu")

Image = Float[Tensor, "c *space"]
Images = Float[Tensor, "b c *space"]
Mask = Int[Tensor, "*space"]
Masks = Int[Tensor, "b *space"]
Condition = Float[Tensor, "b k *space"]
Noise = Float[Tensor, "b z *space"]
Scalar = Float[Tensor, ""]
