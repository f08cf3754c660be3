"""FedAvg (McMahan et al. 2017, algorithm 1): sites average the weights of one segmentation network.

Each site's optimiser stays there.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import nn

from asyndgan.data import Case, derived_seed
from asyndgan.evaluation.segmentation import SegmentationBudget, SegmentationTraining
from asyndgan.training.quorum import normalised

LOCAL_STEPS: Final = 20
"""Updates at each site between two averagings."""


def average_weights(networks: Sequence[nn.Module], shares: Sequence[float]) -> None:
    """Gives every network the share-weighted mean of all.

    Args:
        networks: of one architecture.
        shares: that sum to one, in the same order.
    """
    states = [network.state_dict() for network in networks]
    with torch.no_grad():
        for key, first in states[0].items():
            if first.is_floating_point():
                parts = [share * state[key] for share, state in zip(shares, states, strict=True)]
                mean = torch.stack(parts).sum(0)
            else:
                mean = first.clone()  # counters, which a network of another package may have
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
    """One segmentation network that all sites train together by averaging its weights.

    Every site does all steps of the budget, so the network sees as many images as there are sites
    times more than a model that is trained in one place.

    Args:
        sites: real cases of each site; its share is their number.
        classes: labels, background included.
        budget: of each site.
        seed: of the weights, which all sites begin with, and of each site's draws.
        on_progress: called after every step with the steps done and the mean loss of the sites.
        device: where to train.

    Returns:
        The network, in evaluation mode.

    Raises:
        DataError: as `SegmentationTraining`.
        NotFiniteError: as `SegmentationTraining.step`.
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
    """Bytes of a network in float32, as it would travel."""
    return 4 * sum(tensor.numel() for tensor in network.state_dict().values())
