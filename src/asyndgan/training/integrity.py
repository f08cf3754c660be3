"""Against a site that sends feedback to spoil the generator.

Sites judge different images, so their feedback cannot be compared pixel by pixel. Its length can
be (`bounded`), and so can what it does to the generator's weights (`aggregate`: coordinate-wise
median or trimmed mean, Yin et al. 2018). The latter costs a backward pass for each site, counts all
sites alike whatever their shares, and takes a minority that differs from the rest for an outlier.
"""

from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor, nn

from asyndgan.recipe import IntegritySection
from asyndgan.training.painting import Painting

LEAST_SITES = 3
"""Fewer have no majority, so nothing is shortened and nobody is reported."""


def bounded(
    feedback: Mapping[str, Tensor], section: IntegritySection
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Feedback of each site, none longer than the recipe lets.

    Args:
        feedback: by site.
        section: bound and alarm.

    Returns:
        By site; and how many times the median length the feedback of those was that are to be
        reported.
    """
    lengths = {site: float(own.norm()) for site, own in feedback.items()}
    middle = median(lengths.values()) if len(lengths) >= LEAST_SITES else 0.0
    if not middle:
        return dict(feedback), {}
    times = {site: length / middle for site, length in lengths.items()}
    shortened = {
        site: own * min(1.0, section.bound / times[site])
        if section.bound and times[site] > section.bound
        else own
        for site, own in feedback.items()
    }
    return shortened, {site: ratio for site, ratio in times.items() if ratio > section.alarm}


def aggregate(
    generator: nn.Module, painting: Painting, parts: Mapping[str, Tensor], kind: str
) -> None:
    """Puts an aggregate of the sites' gradients into the generator.

    Args:
        generator: whose parameters have no gradients yet.
        painting: of all sites' images.
        parts: by site: feedback of the whole painting's shape, zero but for its own images.
        kind: `median` or `trimmed`: the mean without the largest and the smallest.
    """
    parameters = list(generator.parameters())
    gradients: list[list[Tensor]] = []
    for feedback in parts.values():
        painting.backward(feedback, again=True)
        gradients.append(
            [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        )
        generator.zero_grad(set_to_none=True)
    for parameter, own in zip(parameters, zip(*gradients, strict=True), strict=True):
        stacked = torch.stack(own)
        if kind == "trimmed" and len(own) >= LEAST_SITES:
            stacked = stacked.sort(dim=0).values[1:-1].mean(0)
        else:
            # Of an even number torch's median is the lower one; this is the mean of both.
            stacked = stacked.quantile(0.5, dim=0)
        parameter.grad = stacked
