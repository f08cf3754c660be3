"""Discriminators that judge by the features of a pretrained, frozen network."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndgan.arrays import Condition, Images
from asyndgan.models.discriminators import PatchNetwork, Verdict, given, merged
from asyndgan.models.pretrained import features_of
from asyndgan.models.sizes import Sizes
from asyndgan.recipe import DiscriminatorSection

CHANNELS: Final = (16, 24, 40, 112, 320)  # Of the features, from half the size to a 32nd
MIXED: Final = (32, 48, 64, 96)  # channels of the mixed features, from a quarter of the size
HALVINGS: Final = (2, 1, 1, 0)  # Strided convolutions of each head
BESIDE: Final = 32  # Features of the mask that heads see beside those of the image
SPREAD: Final = (12.0, 11.0, 8.0, 4.5, 1.6)  # typical deviations, by which features are divided
SEED: Final = 1  # of the random mixtures; all sites have the same


@final
@dataclass(frozen=True)
class Seen:
    """What the frozen network sees in images, the same for both halves of a site's patients."""

    found: list[Tensor]  # its features, from half the size of the enlarged images to a 32nd
    mixed: list[Tensor]  # those of a quarter of the size and less, mixed

    def of(self, rows: Tensor) -> "Seen":
        """What it sees in some of the images."""
        return Seen([maps[rows] for maps in self.found], [maps[rows] for maps in self.mixed])


@cache
def _mixtures(channels: int, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Fixed random weights: 1x1 over the channels of each scale, 3x3 from each scale to a finer."""
    random, views = torch.Generator().manual_seed(SEED), -(-channels // 3)

    def weights(target: int, source: int, side: int) -> Tensor:
        drawn = torch.randn(target, source, side, side, generator=random)
        return (drawn / (source * side * side) ** 0.5).to(device)

    across = [weights(n, views * own, 1) for n, own in zip(MIXED, CHANNELS[1:], strict=True)]
    between = [weights(fine, coarse, 3) for fine, coarse in pairwise(MIXED)]
    return across, between


def features(images: Images) -> Seen:
    """What the frozen network sees in images (b, c, rows, columns).

    Features are mixed across channels and then scales by fixed random convolutions (Sauer et al.
    2021, "Projected GANs", section 3.2).
    """
    scales = [
        maps / spread for maps, spread in zip(features_of("lite1", images), SPREAD, strict=True)
    ]
    across, between = _mixtures(images.shape[1], images.device)
    with torch.autocast(images.device.type, enabled=False):
        mixed = [F.conv2d(maps, own) for maps, own in zip(scales[1:], across, strict=True)]
        for level in reversed(range(len(between))):
            coarse = F.interpolate(mixed[level + 1], size=mixed[level].shape[2:], mode="bilinear")
            mixed[level] = mixed[level] + F.conv2d(coarse, between[level], padding=1)
    return Seen(scales, mixed)


@final
class Head(nn.Module):
    """Judges the features of one scale, told the mask beside them and where it judges (`given`)."""

    def __init__(self, source: int, labels: int, width: int, halvings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.beside = nn.Conv2d(labels, BESIDE, 3, padding=1) if labels else None
        source += BESIDE if labels else 0
        for _ in range(halvings):
            layers += [
                nn.Conv2d(source, 2 * width, 4, stride=2, padding=1, bias=False),
                nn.GroupNorm(1, 2 * width),
                nn.LeakyReLU(0.2),
            ]
            source = 2 * width
        layers += [nn.Conv2d(source, 2 * width, 3, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.told = nn.Conv2d(labels, 2 * width, 1) if labels else None
        self.judge = nn.Conv2d(2 * width, 1, 1)

    def forward(self, maps: Tensor, condition: Condition) -> Tensor:
        """(b, source, *space) to realness logits (b, 1, *patches)."""
        if self.beside is not None:
            mask = F.interpolate(condition, size=maps.shape[2:], mode="area")
            maps = torch.cat([maps, F.leaky_relu(self.beside(mask), 0.2)], dim=1)
        features = self.layers(maps)
        if self.told is not None:
            features = given(features, condition, self.told)
        score: Tensor = self.judge(features)
        return score


@final
class Judges(nn.Module):
    """A head for each scale, which all count the same, and a patch network that sees the image."""

    def __init__(self, labels: int, channels: int, section: DiscriminatorSection) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            Head(source, labels, section.width, halvings)
            for source, halvings in zip(MIXED, HALVINGS, strict=True)
        )
        self.patches = PatchNetwork(2, channels, section)
        last = section.width * 2**section.layers
        self.told = nn.Conv2d(labels, last, 1) if labels else None

    def forward(self, images: Images, condition: Condition, mixed: list[Tensor]) -> Tensor:
        """Images and their mixed features to realness logits (b, scales, *patches)."""
        scores = [head(maps, condition) for head, maps in zip(self.heads, mixed, strict=True)]
        *layers, judge = self.patches
        features = images
        for layer in layers:
            features = layer(features)
        if self.told is not None:
            features = given(features, condition, self.told)
        scores.append(judge(features))
        size = scores[0].shape[2:]
        return torch.cat([F.interpolate(score, size=size) for score in scores], dim=1)


class ProjectedDiscriminator(nn.Module):
    """Judges by features of a frozen network, and by patches (Sauer et al. 2021, section 3)."""

    see = staticmethod(features)

    def __init__(self, sizes: Sizes, section: DiscriminatorSection) -> None:
        super().__init__()
        self.judges = Judges(sizes.labels, sizes.modalities, section)

    def forward(self, images: Images, condition: Condition, seen: Seen | None = None) -> Verdict:
        """Judges images, given what they were painted from; `seen`: `features` of the images."""
        seen = seen or features(images)
        return Verdict(score=self.judges(images, condition, seen.mixed))


@final
class ProjectedSegmentationDiscriminator(ProjectedDiscriminator):
    """A `ProjectedDiscriminator` that also segments the image, from the same features."""

    def __init__(self, sizes: Sizes, section: DiscriminatorSection) -> None:
        super().__init__(sizes, section)
        width = section.width // 2
        views = -(-sizes.modalities // 3)
        sources = [width, *(views * channels for channels in CHANNELS)]
        self.fine = nn.Conv2d(sizes.modalities, width, 3, padding=1)
        self.lateral = nn.ModuleList(nn.Conv2d(source, width, 1) for source in sources)
        self.merge = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in sources)
        self.classify = nn.Conv2d(width, sizes.labels, 1)

    def forward(self, images: Images, condition: Condition, seen: Seen | None = None) -> Verdict:
        """Judges images, given what they were painted from, and segments them without it."""
        seen = seen or features(images)
        fine = F.leaky_relu(self.fine(images), 0.2)
        found = merged([fine, *seen.found], self.lateral, self.merge)
        score = self.judges(images, condition, seen.mixed)
        return Verdict(score=score, segmentation=self.classify(found))
