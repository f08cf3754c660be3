"""Discriminators: each site owns one, and it never leaves the site.

Each is made from its `Sizes` and the recipe's `section`, of which it takes `width` of the first
layer and `layers`. It returns a `Verdict`; outputs that it does not have are None.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndgan.arrays import Condition, Images, Masks
from asyndgan.models.sizes import Sizes
from asyndgan.recipe import DiscriminatorSection


@final
@dataclass(frozen=True)
class Verdict:
    """A discriminator's output for a batch of images."""

    # realness logits, (b, 1, *patches); None if the network has no such output
    score: Tensor | None = None
    # label logits, (b, labels, *space); None if the network does not segment
    segmentation: Tensor | None = None

    def float(self) -> "Verdict":
        """The verdict in float32, in which losses are computed."""
        return self._each(Tensor.float)

    def of(self, images: slice | Tensor) -> "Verdict":
        """The verdict on some of the images."""
        return self._each(lambda said: said[images])

    @classmethod
    def joined(cls, verdicts: Sequence["Verdict"]) -> "Verdict":
        """The verdicts of one network, or of equal ones, on one batch after the other."""
        scores = [said.score for said in verdicts if said.score is not None]
        segmented = [said.segmentation for said in verdicts if said.segmentation is not None]
        return cls(
            torch.cat(scores) if scores else None, torch.cat(segmented) if segmented else None
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Verdict":
        return Verdict(
            None if self.score is None else change(self.score),
            None if self.segmentation is None else change(self.segmentation),
        )


def labels_in(maps: Condition) -> Masks:
    """Label maps of one-hot maps; 0 where a disturbance has left nothing, as the image is black."""
    # Not by `argmax`, which takes 6 ms for two such maps at 128 pixels if channels come first.
    numbers = torch.arange(maps.shape[1], dtype=maps.dtype, device=maps.device)
    return torch.einsum("bl...,l->b...", maps, numbers).long()


@final
class CrossFitted(nn.Module):
    """Two networks, each trained on half of the patients; the less convinced or the mean judges.

    Not in the papers: several discriminators of which the generator follows the harshest (Durugkar
    et al. 2017, section 3.1), and parts of the data that are kept apart (Chernozhukov et al. 2018).
    """

    def __init__(self, networks: Sequence[nn.Module], *, mean: bool = False) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.mean = mean
        # labels that each half's patients have, (2, labels) booleans; None: all. If only one half
        # has a label, that half's network decides.
        self.taught: Tensor | None = None

    def forward(
        self, images: Images, condition: Condition, halves: Tensor | None = None
    ) -> Verdict:
        """Judges images (b, c, *space), given conditions (b, labels, *space).

        `halves` (b,) zeros and ones: the network that judges each image, as in learning. None: the
        less convinced, patch by patch and pixel by pixel.
        """
        # What a frozen network sees is the same for both, so it looks once.
        see = getattr(self.networks[0], "see", None)
        seen = see(images) if see else None
        if halves is None:
            first, second = (_judge(network, images, condition, seen) for network in self.networks)
            if self.mean and first.score is not None and second.score is not None:
                return Verdict((first.score + second.score) / 2)
            return _harsher(first, second, labels_in(condition), self.taught)
        rows = [torch.nonzero(halves == half).flatten() for half in range(len(self.networks))]
        said = [
            _judge(network, images[own], condition[own], seen and seen.of(own))
            for network, own in zip(self.networks, rows, strict=True)
            if len(own)
        ]
        return Verdict.joined(said).of(torch.cat(rows).argsort())


def _judge(network: nn.Module, images: Images, condition: Condition, seen: Any) -> Verdict:
    verdict: Verdict = network(images, condition, *(() if seen is None else (seen,)))
    return verdict


def _harsher(one: Verdict, other: Verdict, masks: Masks, taught: Tensor | None) -> Verdict:
    """The less convinced of two verdicts on the same images, patch by patch and pixel by pixel."""
    score, segmentation = one.score, one.segmentation
    if score is not None and other.score is not None:
        score = torch.minimum(score, other.score)
    if segmentation is not None and other.segmentation is not None:
        losses = [
            F.cross_entropy(logits.float(), masks, reduction="none")
            for logits in (segmentation, other.segmentation)
        ]
        worse = losses[1] > losses[0]
        if taught is not None:
            first, second = taught.to(masks.device)[:, masks]
            worse = second & (worse | ~first)
        segmentation = torch.where(worse[:, None], other.segmentation, segmentation)
    return Verdict(score, segmentation)


@final
class PatchNetwork(nn.Sequential):
    """The network of a PatchGAN, named and drawn as MONAI's, which takes long to import."""

    def __init__(self, dims: int, channels: int, section: DiscriminatorSection) -> None:
        flat = dims == 2
        conv, by_channel = (
            (nn.Conv2d, nn.InstanceNorm2d) if flat else (nn.Conv3d, nn.InstanceNorm3d)
        )

        def norm(count: int) -> nn.Module:
            if section.norm == "layer":
                return nn.GroupNorm(1, count)
            return by_channel(count, affine=True)

        def layer(source: int, target: int, stride: int, *, normed: bool) -> nn.Module:
            rest: dict[str, nn.Module] = {"N": norm(target)} if normed else {}
            rest["A"] = nn.LeakyReLU(0.2)
            convolution = conv(source, target, 4, stride=stride, padding=1, bias=not normed)
            return _named(conv=convolution, adn=_named(**rest))

        widths = [section.width * 2**level for level in range(section.layers + 1)]
        layers = {"initial_conv": layer(channels, widths[0], 2, normed=False)}
        for level, (source, target) in enumerate(pairwise(widths)):
            stride = 1 if level == section.layers - 1 else 2
            layers[str(level)] = layer(source, target, stride, normed=True)
        layers["final_conv"] = _named(conv=conv(widths[-1], 1, 4, padding=1))
        super().__init__(OrderedDict(layers))
        for module in self.modules():
            # To draw on the meta device, where weights are counted, torch imports its compiler.
            if isinstance(module, conv) and not module.weight.is_meta:
                nn.init.normal_(module.weight, 0.0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Features (b, channels, *space) to the output of every layer, realness logits last."""
        return list(accumulate(self, lambda found, layer: layer(found), initial=features))[1:]


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


@final
class PatchDiscriminator(nn.Module):
    """PatchGAN on image and condition together (Isola et al. 2017, section 3.2.2)."""

    def __init__(self, sizes: Sizes, section: DiscriminatorSection) -> None:
        super().__init__()
        self.network = PatchNetwork(sizes.dims, sizes.labels + sizes.modalities, section)

    def forward(self, images: Images, condition: Condition) -> Verdict:
        """Judges images, given what they were painted from."""
        return Verdict(score=self.network(torch.cat([images, condition], dim=1))[-1])


@final
class PatchSegmentationDiscriminator(nn.Module):
    """A PatchGAN that also segments the image, from the same features, which see no mask.

    The mask modulates the last of them before realness is judged (`given`).
    """

    def __init__(self, sizes: Sizes, section: DiscriminatorSection) -> None:
        super().__init__()
        self.network = PatchNetwork(sizes.dims, sizes.modalities, section)
        width = section.width
        sources = [width * 2**level for level in range(section.layers + 1)]
        conv = nn.Conv2d if sizes.dims == 2 else nn.Conv3d
        self.lateral = nn.ModuleList(
            conv(source, width, 1) for source in [sizes.modalities, *sources]
        )
        self.merge = nn.ModuleList(conv(width, width, 3, padding=1) for _ in [0, *sources])
        self.classify = conv(width, sizes.labels, 1)
        self.told = conv(sizes.labels, sources[-1], 1)

    def forward(self, images: Images, condition: Condition) -> Verdict:
        """Judges images, given what they were painted from, and segments them without it."""
        *features, _ = self.network(images)
        judge = self.network.get_submodule("final_conv")
        score = judge(given(features[-1], condition, self.told))
        found = merged([images, *features], self.lateral, self.merge)
        return Verdict(score=score, segmentation=self.classify(found))


def given(features: Tensor, condition: Condition, told: nn.Module) -> Tensor:
    """Features modulated by what is told of the condition (Miyato and Koyama 2018, section 2)."""
    return features * (1 + told(F.interpolate(condition, size=features.shape[2:], mode="area")))


def merged(levels: Sequence[Tensor], lateral: nn.ModuleList, merge: nn.ModuleList) -> Tensor:
    """Features of all levels at the size of the first, the finest (Lin et al. 2017, section 3)."""
    features: Tensor | None = None
    for level, across, together in reversed(list(zip(levels, lateral, merge, strict=True))):
        here: Tensor = across(level)
        if features is not None:
            here = here + F.interpolate(features, size=here.shape[2:], mode="nearest")
        features = F.leaky_relu(together(here), 0.2)
    assert features is not None
    return features


@final
class DCGANDiscriminator(nn.Module):
    """Judges an image as a whole, after DCGAN (Radford et al. 2016): for small images.

    It has no norms: instance norms would remove how much of a label an image holds, and batch norms
    would let one patient's image influence another's verdict.
    """

    GRID = 4

    def __init__(self, sizes: Sizes, section: DiscriminatorSection) -> None:
        super().__init__()
        conv, pool = (
            (nn.Conv2d, nn.AdaptiveAvgPool2d)
            if sizes.dims == 2
            else (nn.Conv3d, nn.AdaptiveAvgPool3d)
        )
        source, layers = sizes.labels + sizes.modalities, nn.ModuleList()
        for level in range(section.layers):
            layers.append(conv(source, section.width * 2**level, 4, stride=2, padding=1))
            source = section.width * 2**level
        self.layers = layers
        self.pool = pool(self.GRID)
        self.judge = nn.Linear(source * self.GRID**sizes.dims, 1)

    def forward(self, images: Images, condition: Condition) -> Verdict:
        """Judges images, given what they were painted from."""
        return Verdict(score=self.whole(self.features(images, condition)))

    def features(self, images: Images, condition: Condition) -> Tensor:
        """Of images of any size: (b, channels, *places)."""
        features = torch.cat([images, condition], dim=1)
        for layer in self.layers:
            features = F.leaky_relu(layer(features), 0.2)
        return features

    def whole(self, features: Tensor) -> Tensor:
        """Realness logits of whole images: (b, 1, 1, 1), with an axis for each of the space."""
        score: Tensor = self.judge(self.pool(features).flatten(1))
        return score.reshape(-1, 1, *[1] * (features.ndim - 2))


@final
class MaskDiscriminator(nn.Module):
    """A `DCGANDiscriminator` that judges each place too: small shapes, and where they lie."""

    def __init__(self, sizes: Sizes, section: DiscriminatorSection) -> None:
        super().__init__()
        self.body = DCGANDiscriminator(sizes, section)
        conv = nn.Conv2d if sizes.dims == 2 else nn.Conv3d
        self.near = conv(section.width * 2 ** (section.layers - 1), 1, 1)

    def forward(self, images: Images, condition: Condition) -> Verdict:
        """Judges images, given what they were painted from: (b, 2, *places)."""
        features = self.body.features(images, condition)
        near = self.near(features)
        whole = self.body.whole(features).expand_as(near)
        return Verdict(score=torch.cat([whole, near], dim=1))
