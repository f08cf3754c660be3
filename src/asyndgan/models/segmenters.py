"""MONAI's segmentation networks, by name; a translator of modalities is built of one as well."""

from collections.abc import Callable, Sequence

from torch import nn

from asyndgan.errors import DataError
from asyndgan.models.layout import channels_last

HALVINGS = 4  # how often the U-Net does; sides of images are multiples of 2**HALVINGS


def build_segmenter(
    channels: int, classes: int, *, network: str = "unet", width: int, space: tuple[int, ...]
) -> nn.Module:
    """Builds one of MONAI's networks for images of this space; `width`: of its first level."""
    return channels_last(NETWORKS[network](channels, classes, width, space))


def _unet(channels: int, classes: int, width: int, space: tuple[int, ...]) -> nn.Module:
    from monai.networks.nets import BasicUNet  # slow to import

    return BasicUNet(
        spatial_dims=len(space),
        in_channels=channels,
        out_channels=classes,
        features=(width, width, 2 * width, 4 * width, 8 * width, width),
        act=("LeakyReLU", {"negative_slope": 0.1}),
        norm=("instance", {"affine": True}),
        bias=False,  # an instance norm follows every convolution (docs/architecture.md, traps)
        upsample="nontrainable",
    )


def _segresnet(channels: int, classes: int, width: int, space: tuple[int, ...]) -> nn.Module:
    from monai.networks.nets import SegResNet

    return SegResNet(
        spatial_dims=len(space),
        init_filters=width,
        in_channels=channels,
        out_channels=classes,
        norm="INSTANCE",
    )


def _unetr(channels: int, classes: int, width: int, space: tuple[int, ...]) -> nn.Module:
    from monai.networks.nets import UNETR

    return UNETR(
        in_channels=channels,
        out_channels=classes,
        img_size=space,
        feature_size=max(4, 2 * width // 3),
        hidden_size=8 * width,
        mlp_dim=16 * width,
        num_heads=4,
        spatial_dims=len(space),
        norm_name="instance",
    )


Build = Callable[[int, int, int, tuple[int, ...]], nn.Module]

NETWORKS: dict[str, Build] = {"unet": _unet, "segresnet": _segresnet, "unetr": _unetr}


def check_size(
    space: Sequence[int], what: str, remedy: str = "Change image.size in the recipe."
) -> None:
    """Checks that networks can be trained on images (`what`) of a size; may raise `DataError`."""
    side = 2**HALVINGS
    # At least twice that, since an instance norm of a single value is undefined.
    if any(length % side or length < 2 * side for length in space):
        raise DataError(
            f"{what} measure {tuple(space)}; the network needs multiples of {side} from "
            f"{2 * side}. {remedy}"
        )
