"""A generator begins with the weights of another: channels are matched by what they stand for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor, nn

from asyndgan.errors import RunError
from asyndgan.texts import LONGEST_NEWS
from asyndgan.training.scope import Scope

Named = tuple[str, int | str]  # a channel's part, and its number or label or modality
Axes = dict[int, list[Named]]  # channels along the axes that depend on what is painted


@final
@dataclass(frozen=True)
class Inherited:
    """What a generator took from another one."""

    layers: int  # number of its layers that hold weights
    whole: int  # layers that it took
    part: int  # layers of which it took the channels that both have
    new: tuple[str, ...]  # its labels and modalities that the other does not have
    left: tuple[str, ...]  # labels and modalities that the other alone has

    def told(self, run: str) -> str:
        """One line for a person."""
        line = f"took {self.whole + self.part} of {self.layers} layers of {run}"
        line += f", {self.part} of them in part" if self.part else ""
        for word, names in (("new", self.new), ("not taken over", self.left)):
            line += f"; {word}: {', '.join(names)}" if names else ""
        return line[:LONGEST_NEWS]


def inherit(network: nn.Module, scope: Scope, other: nn.Module, others: Scope) -> Inherited:
    """Puts all weights that fit of `other`, a generator of scope `others`, into another one.

    Raises `RunError` if a generator of another package does not say what its channels stand for,
    and the scopes differ in a label or a modality.
    """
    own, given = _axes(network, scope), _axes(other, others)
    same = (scope.labels, scope.modalities) == (others.labels, others.modalities)
    if not same and not hasattr(network, "reads"):
        raise RunError(
            f"{type(network).__name__}, a generator of another package, does not say what its "
            "channels stand for, and the run to start from has other labels or modalities. Start "
            "from a run with the same ones, or without one."
        )
    source = other.state_dict()
    taken: dict[str, list[float]] = {}
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            part = _take(tensor, source.get(name), own.get(name, {}), given.get(name, {}))
            taken.setdefault(name.rpartition(".")[0], []).append(part)
    ours, theirs = _names(own), _names(given)
    return Inherited(
        layers=len(taken),
        whole=sum(min(parts) == 1 for parts in taken.values()),
        part=sum(max(parts) > 0 and min(parts) < 1 for parts in taken.values()),
        new=tuple(name for name in ours if name not in theirs),
        left=tuple(name for name in theirs if name not in ours),
    )


def _axes(network: nn.Module, scope: Scope) -> dict[str, Axes]:
    """The named axes of a generator's tensors, by the tensor's name."""
    reads: Mapping[str, Sequence[tuple[str, int]]] = getattr(network, "reads", {})
    paints: Sequence[str] = getattr(network, "paints", ())
    axes: dict[str, Axes] = {}
    for layer, channels in reads.items():
        axes[f"{layer}.weight"] = {
            1: [
                (part, scope.labels.get(number, number) if part == "label" else number)
                for part, number in channels
            ]
        }
    for layer in paints:
        for tensor in ("weight", "bias"):
            named: Axes = axes.setdefault(f"{layer}.{tensor}", {})
            named[0] = [("modality", name) for name in scope.modalities]
    return axes


def _names(axes: Mapping[str, Axes]) -> list[str]:
    """Labels and modalities of all these axes; numbers of labels that nobody named are none."""
    found = [one for named in axes.values() for channels in named.values() for one in channels]
    return [f"{part} {name}" for part, name in dict.fromkeys(found) if isinstance(name, str)]


def _take(tensor: Tensor, source: Tensor | None, own: Axes, given: Axes) -> float:
    """Copies the channels that both tensors have; returns the part of the tensor that they are."""
    if source is None or source.ndim != tensor.ndim or own.keys() != given.keys():
        return 0.0
    unnamed = [axis for axis in range(tensor.ndim) if axis not in own]
    if any(tensor.shape[axis] != source.shape[axis] for axis in unnamed):
        return 0.0
    if any(_features(own[axis]) != _features(given[axis]) for axis in own):
        return 0.0
    if not own:
        tensor.copy_(source)
        return 1.0
    shape = tensor.shape[:2]
    pairs = [
        _pairs(own[axis], given[axis]) if axis in own else [(n, n) for n in range(size)]
        for axis, size in enumerate(shape)
    ]
    into, out_of = (
        torch.meshgrid(
            [torch.tensor([pair[side] for pair in axis], dtype=torch.int64) for axis in pairs],
            indexing="ij",
        )
        for side in (0, 1)
    )
    tensor[into] = source[out_of].to(tensor)
    return prod(map(len, pairs)) / prod(shape)


def _pairs(own: Sequence[Named], given: Sequence[Named]) -> list[tuple[int, int]]:
    """Places of the channels that stand for the same on both sides."""
    places = {channel: place for place, channel in enumerate(given)}
    return [(n, places[one]) for n, one in enumerate(own) if one in places]


def _features(channels: Sequence[Named]) -> list[Named]:
    """Channels of a layer below: they mean the same only if all are there."""
    return [channel for channel in channels if channel[0] == "feature"]
