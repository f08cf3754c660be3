"""FedAvg (McMahan et al. 2017, algorithm 1) for a segmentation network.

The sites' weights are averaged; each site keeps its own optimiser state.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import nn

from asyndgan.models.budgets import SegmentationBudget
from asyndgan.store import Case, derived_seed
from asyndgan.training.quorum import normalised
from asyndgan.training.segmentation import SegmentationTraining

LOCAL_STEPS: Final = 20
"""Updates at each site between two averagings."""


def average_weights(networks: Sequence[nn.Module], shares: Sequence[float]) -> None:
    """Sets the weights of every network to the share-weighted mean of all.

    Args:
        networks: networks of one architecture.
        shares: weight of each network, in the same order; they sum to 1.
    """
    states = [network.state_dict() for network in networks]
    with torch.no_grad():
        for key, first in states[0].items():
            if first.is_floating_point():
                parts = [share * state[key] for share, state in zip(shares, states, strict=True)]
                mean = torch.stack(parts).sum(0)
            else:
                mean = first.clone()  # integer counters, which other packages' networks may have
            for state in states:
                state[key].copy_(mean)


def train_fedavg(
    sites: Mapping[str, Sequence[Case]],
    *,
    classes: int,
    budget: SegmentationBudget,
    seed: int,
    on_progress: Callable[[int, float], None] | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Trains one segmentation network across all sites by averaging its weights.

    Every site takes all steps of the budget, so with n sites the network sees n times as many
    images as a model that is trained in one place.

    Args:
        sites: real cases of each site; a site's share is proportional to their number.
        classes: number of labels, background included.
        budget: training budget of each site.
        seed: seed of the initial weights, which all sites share, and of each site's random draws.
        on_progress: called after every step with the steps done and the mean loss of the sites.
        device: device to train on.

    Returns:
        The network, in evaluation mode.

    Raises:
        DataError: see `SegmentationTraining`.
        NotFiniteError: see `SegmentationTraining.step`.
    """
    trainings = [
        SegmentationTraining(
            cases,
            classes=classes,
            budget=budget,
            seed=seed,
            draws_seed=derived_seed(seed, "fedavg", name),
            device=device,
        )
        for name, cases in sites.items()
    ]
    shares = list(normalised({name: len(cases) for name, cases in sites.items()}).values())
    for done in range(1, budget.steps + 1):
        losses = [training.step() for training in trainings]
        if done % LOCAL_STEPS == 0 or done == budget.steps:
            average_weights([training.model for training in trainings], shares)
        if on_progress:
            on_progress(done, sum(losses) / len(losses))
    return trainings[0].model.eval()


def weight(network: nn.Module) -> int:
    """Size of a network's weights in bytes when sent as float32."""
    return 4 * sum(tensor.numel() for tensor in network.state_dict().values())
