"""Memory layout of feature maps: on a CPU, convolutions are fastest with channels last."""

from copy import deepcopy
from typing import TypeVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


@final
class ImageNorm(nn.InstanceNorm2d):
    """Instance norm that keeps channels last on a CPU; Opacus needs torch's in private networks."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises features (b, channels, height, width); same shape in and out."""
        if input.device.type != "cpu" or input.ndim != 4:
            return super().forward(input)
        return torch.cat(
            [
                F.batch_norm(image, None, None, self.weight, self.bias, training=True, eps=self.eps)
                for image in _last(input).split(1)
            ]
        )


@final
class FullConv3d(nn.Conv3d):
    """Computes in float32 whatever the rest of its network does.

    In bfloat16 on CPUs, torch 2.13 now and then gives gradients of 1e28 to the weights of one
    output channel.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolves features (b, channels, *space)."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def channels_last(network: Network) -> Network:
    """Makes a network with instance norms compute with channels last on a CPU, and returns it.

    Results change by rounding alone. Layers that are wrong in bfloat16 become `FullConv3d`.
    """
    normed = False
    for module in list(network.modules()):
        if type(module) is nn.Conv3d and module.out_channels == 1:
            module.__class__ = FullConv3d
        for name, norm in module.named_children():
            if type(norm) is nn.InstanceNorm2d and not norm.track_running_stats:
                quick = ImageNorm(norm.num_features, eps=norm.eps, affine=norm.affine)
                quick.weight, quick.bias = norm.weight, norm.bias
                setattr(module, name, quick)
                normed = True
    if normed:
        network.register_forward_pre_hook(_with_channels_last)
    return network


def batch_free(network: Network) -> Network:
    """A copy whose layers have no step for each image, as tracing would count the images."""
    copied = deepcopy(network)
    for module in copied.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.__class__ = nn.InstanceNorm2d
    return copied


def _with_channels_last(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(_last(maps) for maps in inputs)


def _last(maps: Tensor) -> Tensor:
    on_cpu = maps.device.type == "cpu" and maps.ndim == 4
    return maps.contiguous(memory_format=torch.channels_last) if on_cpu else maps
