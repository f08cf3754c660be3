"""Defences against sites that send feedback to spoil the generator.

Sites judge different images, so their feedback cannot be compared pixel by pixel. Its L2 norm can
(`bounded`), and so can its effect on the generator's weights (`aggregate`: coordinate-wise median
or trimmed mean, Yin et al. 2018). The latter costs a backward pass per site, counts all sites
equally whatever their shares, and treats a minority that differs from the rest as outliers.
"""

from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor, nn

from asyndgan.recipe import IntegritySection
from asyndgan.training.painting import Painting

LEAST_SITES = 3
"""Fewer sites have no majority: nothing is shortened, trimmed or reported then."""


def bounded(
    feedback: Mapping[str, Tensor], section: IntegritySection
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Shortens feedback whose L2 norm exceeds the recipe's multiple of the median norm.

    Args:
        feedback: by site.
        section: bound and alarm.

    Returns:
        The feedback by site; and, for each site to be reported, its feedback's original norm as a
        multiple of the median.
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
        generator: its parameters must not have gradients yet.
        painting: the images of all sites.
        parts: feedback by site, of the whole painting's shape and zero outside the site's images.
        kind: `median`, or `trimmed`: the mean without the largest and the smallest value, or the
            median if there are fewer than `LEAST_SITES`.
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
            # Of an even number torch.median gives the lower middle value; this averages the two.
            stacked = stacked.quantile(0.5, dim=0)
        parameter.grad = stacked
