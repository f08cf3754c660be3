"""Tensor shapes and intensity ranges shared by all modules.

The shape strings are checked in tests only (see tests/conftest.py); at run time they only document.
`*space` has one axis per spatial dimension: (height, width) or (depth, height, width).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from asyndgan.intensities import IMAGE_HIGH as IMAGE_HIGH
from asyndgan.intensities import IMAGE_LOW as IMAGE_LOW

CPU = torch.device("cpu")

Image = Float[Tensor, "c *space"]
Images = Float[Tensor, "b c *space"]
Mask = Int[Tensor, "*space"]
Masks = Int[Tensor, "b *space"]
Condition = Float[Tensor, "b k *space"]
Noise = Float[Tensor, "b z *space"]
Window = Float[Tensor, "b c *window"]  # of images: all of them, or half the sides
WindowCondition = Float[Tensor, "b k *window"]  # what lies on it
Scalar = Float[Tensor, ""]
