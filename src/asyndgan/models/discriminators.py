"""Discriminators: each site owns one, and it never leaves the site.

Every discriminator returns a `Verdict`; outputs that it does not have are None.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndgan.arrays import Condition, Images
from asyndgan.recipe import DiscriminatorSection


@final
@dataclass(frozen=True)
class Verdict:
    """A discriminator's output for a batch of images.

    Attributes:
        score: realness logits, (b, 1, *patches), or with one channel per modality; None if the
            network has no such output.
        segmentation: label logits, (b, labels, *space), or with one more channel for the class
            "synthetic"; None if the network does not segment.
        features: inner activations, for feature matching.
    """

    score: Tensor | None = None
    segmentation: Tensor | None = None
    features: list[Tensor] = field(default_factory=list)

    def float(self) -> "Verdict":
        """The verdict in float32, in which losses are computed."""
        return self._each(Tensor.float)

    def of(self, images: slice) -> "Verdict":
        """The verdict on some of the images."""
        return self._each(lambda said: said[images])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Verdict":
        return Verdict(
            None if self.score is None else change(self.score),
            None if self.segmentation is None else change(self.segmentation),
            [change(feature) for feature in self.features],
        )


@final
class EachModality(nn.Module):
    """One network per modality, which judges it alone; losses are means over all modalities.

    Args:
        networks: of one channel each, in the order of the site's modalities.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Images, condition: Condition) -> Verdict:
        """Judges each channel; the scores are concatenated along the channel axis."""
        said: list[Verdict] = [
            network(channel, condition)
            for network, channel in zip(self.networks, images.split(1, dim=1), strict=True)
        ]
        scores = [verdict.score for verdict in said if verdict.score is not None]
        return Verdict(
            score=torch.cat(scores, dim=1) if scores else None,
            features=[feature for verdict in said for feature in verdict.features],
        )


def _patch_network(spatial_dims: int, channels: int, section: DiscriminatorSection) -> nn.Module:
    from monai.networks.nets import PatchDiscriminator  # slow to import; only training needs it

    return PatchDiscriminator(
        spatial_dims=spatial_dims,
        channels=section.width,
        in_channels=channels,
        num_layers_d=section.layers,
        norm=("INSTANCE", {"affine": True}),
    )


@final
class PatchDiscriminator(nn.Module):
    """PatchGAN on image and condition together (Isola et al. 2017, section 3.2.2), MONAI's network.

    Args:
        condition_channels: channels of the condition's maps.
        image_channels: modalities that the site holds.
        spatial_dims: 2 or 3.
        section: `width` and `layers`; 3 layers judge patches of 70x70 pixels.
    """

    def __init__(
        self,
        *,
        condition_channels: int,
        image_channels: int,
        spatial_dims: int,
        section: DiscriminatorSection,
    ) -> None:
        super().__init__()
        self.network = _patch_network(spatial_dims, condition_channels + image_channels, section)

    def forward(self, images: Images, condition: Condition) -> Verdict:
        """Judges images, given what they were painted from."""
        *features, score = self.network(torch.cat([images, condition], dim=1))
        return Verdict(score=score, features=features)


@final
class PatchSegmentationDiscriminator(nn.Module):
    """A PatchGAN that also segments the image, from the same features.

    The features are of the image alone, or else the segmentation could copy the mask. The mask
    modulates the last of them before realness is judged, after the projection discriminator
    (Miyato and Koyama 2018, section 2), so that the verdict is on the image given its mask.

    Args:
        condition_channels: labels of the masks.
        image_channels: modalities that the site holds.
        spatial_dims: 2 or 3.
        section: `width` and `layers`.
    """

    def __init__(
        self,
        *,
        condition_channels: int,
        image_channels: int,
        spatial_dims: int,
        section: DiscriminatorSection,
    ) -> None:
        super().__init__()
        self.network = _patch_network(spatial_dims, image_channels, section)
        width = section.width
        sources = [width * 2**level for level in range(section.layers + 1)]
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.lateral = nn.ModuleList(
            conv(source, width, 1) for source in [image_channels, *sources]
        )
        self.merge = nn.ModuleList(conv(width, width, 3, padding=1) for _ in [0, *sources])
        self.classify = conv(width, condition_channels, 1)
        self.told = conv(condition_channels, sources[-1], 1)

    def forward(self, images: Images, condition: Condition) -> Verdict:
        """Judges images, given what they were painted from, and segments them without it."""
        *features, _ = self.network(images)
        told = self.told(F.interpolate(condition, size=features[-1].shape[2:], mode="area"))
        judge = self.network.get_submodule("final_conv")
        score = judge(features[-1] * (1 + told))
        merged: Tensor | None = None
        levels = zip([images, *features], self.lateral, self.merge, strict=True)
        for level, lateral, merge in reversed(list(levels)):
            here = lateral(level)
            if merged is not None:
                here = here + F.interpolate(merged, size=here.shape[2:], mode="nearest")
            merged = F.leaky_relu(merge(here), 0.2)
        return Verdict(score=score, segmentation=self.classify(merged), features=features)


@final
class UNetSegmentationDiscriminator(nn.Module):
    """A U-Net with one class more than there are labels (Schoenfeld et al. 2021, section 3.1).

    Real pixels belong to their label's class, synthetic ones to the last class; the generator aims
    to have its pixels classified as their label.

    Args:
        condition_channels: labels of the masks.
        image_channels: modalities that the site holds.
        spatial_dims: 2 or 3.
        section: `width` and `layers` (halvings).
    """

    def __init__(
        self,
        *,
        condition_channels: int,
        image_channels: int,
        spatial_dims: int,
        section: DiscriminatorSection,
    ) -> None:
        from monai.networks.nets import UNet

        super().__init__()
        widths = [section.width * 2 ** min(level, 3) for level in range(section.layers + 1)]
        self.network = UNet(
            spatial_dims=spatial_dims,
            in_channels=image_channels,
            out_channels=condition_channels + 1,
            channels=widths,
            strides=[2] * section.layers,
            norm=("INSTANCE", {"affine": True}),
            act=("LEAKYRELU", {"negative_slope": 0.2}),
            num_res_units=0,
            bias=False,
        )

    def forward(self, images: Images, condition: Condition) -> Verdict:
        """Segments images; `condition` is not used."""
        return Verdict(segmentation=self.network(images))


@final
class DCGANDiscriminator(nn.Module):
    """Judges an image as a whole, after DCGAN (Radford et al. 2016): for masks and small images.

    It has no norms: instance norms would remove how much of a label an image holds, and batch norms
    would let one patient's image influence another's verdict.

    Args:
        condition_channels: channels of the condition's maps.
        image_channels: modalities that the site holds.
        spatial_dims: 2 or 3.
        section: `width` of the first layer, `layers` halvings.
    """

    GRID = 4

    def __init__(
        self,
        *,
        condition_channels: int,
        image_channels: int,
        spatial_dims: int,
        section: DiscriminatorSection,
    ) -> None:
        super().__init__()
        conv, pool = (
            (nn.Conv2d, nn.AdaptiveAvgPool2d)
            if spatial_dims == 2
            else (nn.Conv3d, nn.AdaptiveAvgPool3d)
        )
        source, layers = condition_channels + image_channels, nn.ModuleList()
        for level in range(section.layers):
            layers.append(conv(source, section.width * 2**level, 4, stride=2, padding=1))
            source = section.width * 2**level
        self.layers = layers
        self.pool = pool(self.GRID)
        self.judge = nn.Linear(source * self.GRID**spatial_dims, 1)

    def forward(self, images: Images, condition: Condition) -> Verdict:
        """Judges images, given what they were painted from."""
        features = [torch.cat([images, condition], dim=1)]
        for layer in self.layers:
            features.append(F.leaky_relu(layer(features[-1]), 0.2))
        score = self.judge(self.pool(features[-1]).flatten(1))
        return Verdict(score=score.reshape(-1, 1, *[1] * (images.ndim - 2)), features=features[1:])
