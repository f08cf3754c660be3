"""Generators: they turn a condition and noise into images in [-1, 1], all modalities at once.

Each is made from its `Sizes` and the recipe's `section`. Norms act on one image at a time: sites
come and go, and a chunked step must equal an unchunked one.

For `training.inheriting`, each has `reads`: what the input channels of its layers stand for, by
the name of each layer that reads the condition, the noise or codes; and `paints`: the layers
whose output channels are the modalities.
"""

from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndgan.arrays import Condition, Images, Noise
from asyndgan.models.sizes import Sizes
from asyndgan.recipe import GeneratorSection

SLOPE = 0.2

Channel = tuple[str, int]  # label, noise, style, latent, feature or one, and its number
ONE: Final[Channel] = ("one", 0)  # The channel of a map that is 1 everywhere


def numbered(**counts: int) -> tuple[Channel, ...]:
    """Channels in this order: `numbered(label=2, noise=1)`."""
    return tuple((part, number) for part, count in counts.items() for number in range(count))


def convolution(
    dims: int, source: int, target: int, kernel: int = 3, *, stride: int = 1, bias: bool
) -> nn.Module:
    """A convolution that keeps the size if its stride is 1; reflects at the edges."""
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    # No bias before an instance norm: the norm cancels it, and its gradient is only noise.
    return conv(
        source,
        target,
        kernel,
        stride=stride,
        padding=kernel // 2,
        bias=bias,
        padding_mode="reflect" if kernel > 1 else "zeros",
    )


def smooth(dims: int) -> str:
    """Torch's name for linear interpolation over this many axes."""
    return "bilinear" if dims == 2 else "trilinear"


def within_range(painted: Tensor) -> Images:
    """Images in [-1, 1] of the last layer's output.

    In float32: in bfloat16 tanh is 1 beyond 3.1, without a gradient, so that what became white in
    the first steps would stay white.
    """
    return torch.tanh(painted.float())


def instance_norm(dims: int, channels: int, *, affine: bool = True) -> nn.Module:
    """A norm of each image's features by themselves."""
    norm = nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d
    return norm(channels, affine=affine)


@final
class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with an identity shortcut."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(dims, channels, channels, bias=False),
            instance_norm(dims, channels),
            nn.ReLU(),
            convolution(dims, channels, channels, bias=False),
            instance_norm(dims, channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Same shape in and out."""
        return features + self.body(features)


@final
class ResNetGenerator(nn.Module):
    """The generator of AsynDGAN (section 3.4): c7s1-k, d2k, d4k, n residual blocks, u2k, uk, c7s1.

    After Johnson et al. 2016 as used by CycleGAN, with instance norms. Of the section it takes
    `width` k and `blocks` n.
    """

    def __init__(self, sizes: Sizes, section: GeneratorSection) -> None:
        super().__init__()
        k = section.width
        layers: list[nn.Module] = [
            convolution(sizes.dims, sizes.labels, k, 7, bias=False),
            instance_norm(sizes.dims, k),
            nn.ReLU(),
        ]
        for wide in (k, 2 * k):
            layers += [
                convolution(sizes.dims, wide, 2 * wide, stride=2, bias=False),
                instance_norm(sizes.dims, 2 * wide),
                nn.ReLU(),
            ]
        layers += [ResidualBlock(sizes.dims, 4 * k) for _ in range(section.blocks)]
        for wide in (4 * k, 2 * k):
            layers += [
                # The paper uses a transposed convolution, but its uneven overlap left a grid of
                # dots in the images (Odena et al. 2016).
                nn.Upsample(scale_factor=2, mode=smooth(sizes.dims), align_corners=False),
                convolution(sizes.dims, wide, wide // 2, bias=False),
                instance_norm(sizes.dims, wide // 2),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.paint = convolution(sizes.dims, k, sizes.modalities, 7, bias=True)
        self.reads = {"body.0": numbered(label=sizes.labels)}
        self.paints = ("paint",)

    def forward(self, condition: Condition, noise: Noise) -> Images:
        """Paints images in [-1, 1] of the condition's height and width (multiples of 4)."""
        return within_range(self.paint(self.body(condition)))


@final
class DCGANGenerator(nn.Module):
    """Paints an image from one vector, after DCGAN (Radford et al. 2016).

    Each layer also sees `noise`. Of the section it takes `width` of the last layer, `style`,
    `latent` and `noise`. The condition is the same everywhere.
    """

    GRID = 4

    def __init__(self, sizes: Sizes, section: GeneratorSection) -> None:
        super().__init__()
        k = section.width
        self.noise = section.noise
        read = sizes.labels + section.code
        self.start = nn.Linear(read, 8 * k * self.GRID**sizes.dims)
        widths = [8 * k, 4 * k, 2 * k, k]
        sources = [8 * k, *widths[:-1]]
        self.layers = nn.ModuleList(
            nn.Sequential(
                convolution(sizes.dims, source + section.noise, target, bias=True),
                # Over groups of channels: per-channel norms would lose how much there is of each.
                nn.GroupNorm(min(4, target), target),
                nn.ReLU(),
            )
            for source, target in zip(sources, widths, strict=True)
        )
        self.paint = convolution(sizes.dims, k, sizes.modalities, bias=True)
        self.smooth = smooth(sizes.dims)
        code = numbered(label=sizes.labels, style=section.style, latent=section.latent)
        self.reads = {"start": code} | {
            f"layers.{level}.0": (*numbered(feature=source), *numbered(noise=section.noise))
            for level, source in enumerate(sources)
        }
        self.paints = ("paint",)

    def forward(self, condition: Condition, noise: Noise) -> Images:
        """Paints images in [-1, 1] of the noise's height and width (multiples of 8)."""
        return within_range(self.logits(condition, noise))

    def logits(self, condition: Condition, noise: Noise) -> Tensor:
        """The output of `forward` before tanh, of the same shape."""
        grain, code = noise[:, : self.noise], noise[:, self.noise :]
        space = noise.shape[2:]
        vector = torch.cat([condition, code], dim=1).flatten(2).mean(2)  # the same everywhere
        features = self.start(vector).reshape(len(vector), -1, *[self.GRID] * len(space))
        for level, layer in enumerate(self.layers):
            halvings = len(self.layers) - 1 - level
            size = [max(self.GRID, side // 2**halvings) for side in space]
            features = F.interpolate(features, size=size, mode=self.smooth)
            if self.noise:  # of one pixel each, not a mean
                here = F.interpolate(grain, size=size, mode="nearest")
                features = torch.cat([features, here], dim=1)
            features = layer(features)
        painted: Tensor = self.paint(features)
        return painted


@final
class MaskGenerator(nn.Module):
    """Paints masks of twice the space with a `DCGANGenerator`: each label's share of each pixel.

    Each place of the mask takes one label, with the gradient of the softmax over labels (the
    straight-through estimator of Bengio, Leonard and Courville 2013). Logits are bounded: else the
    softmax saturates, and nothing brings back a rare label.
    """

    BOUND = 2.0

    def __init__(self, sizes: Sizes, section: GeneratorSection) -> None:
        super().__init__()
        self.body = DCGANGenerator(sizes, section)
        self.reads = {f"body.{layer}": channels for layer, channels in self.body.reads.items()}
        self.paints = tuple(f"body.{layer}" for layer in self.body.paints)
        self.smooth = smooth(sizes.dims)

    def forward(self, condition: Condition, noise: Noise) -> Images:
        """Paints one channel per label, -1 (none of it) to 1, of the noise's space."""
        bounded = self.BOUND * (self.body.logits(condition, noise) / self.BOUND).tanh()
        likely = F.interpolate(bounded, scale_factor=2.0, mode=self.smooth).softmax(1)
        best = likely.max(1).indices  # six times faster than argmax
        chosen = F.one_hot(best, likely.shape[1]).movedim(-1, 1)
        mask = chosen + (likely - likely.detach())
        return 2 * F.interpolate(mask, size=noise.shape[2:], mode="area") - 1
