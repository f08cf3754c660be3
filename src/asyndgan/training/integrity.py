"""Bounds feedback by its L2 norm: sites judge different images, so pixels cannot be compared."""

from collections.abc import Mapping
from statistics import median

from torch import Tensor

from asyndgan.recipe import IntegritySection

LEAST_SITES = 3  # Fewer sites have no majority: nothing is shortened or reported then


def bounded(
    feedback: Mapping[str, Tensor], section: IntegritySection
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Shortens feedback whose L2 norm exceeds the recipe's multiple of the median norm.

    Returns the feedback by site, and the multiple of the median of each site to be reported.
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
