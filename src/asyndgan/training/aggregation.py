"""Equation 4: each site judges its own images, and its feedback counts by its share.

Source: Chang et al. 2020 (AsynDGAN), equation 4. The generator minimises
sum_j pi_j E[loss_j(G(x, z))]. Each site sends d loss_j / d image for its own images. Multiplied by
pi_j, this is the gradient of the sum with respect to the images, and the chain rule carries it into
the generator.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor

from asyndgan.arrays import Images
from asyndgan.recipe import IntegritySection
from asyndgan.wire.messages import NO_CONDITIONS, Judge, Judgement

LEAST_SITES = 3  # Fewer sites have no majority: nothing is shortened or reported then
ALARM = 10.0  # Longer feedback, as a multiple of the median length, is reported

LEAST_PART = 0.01
"""Smallest fraction of cases with a modality that a weight makes up for. Without it, a site that
declares next to none would have an unbounded weight."""


@final
@dataclass
class Member:
    """A site that takes part, as the coordinator knows it."""

    share: float  # its declared weight
    cases: int  # its number of cases
    channels: list[int]  # which of the generator's channels it judges
    parts: list[float]  # fraction of its cases that have each of these modalities
    batch: int  # number of its next batch
    conditions: Tensor  # of that batch
    labels: dict[int, str]  # name of each of its labels, by number
    keep: bool  # whether its conditions may be kept
    since: int  # step that its discriminator was at when it was taken in
    few: bool = False  # whether it has too few patients to teach masks


Members = Mapping[str, Member]
Weights = Mapping[str, float]  # Normalised shares by site; they sum to one


def requests_of(
    run: str,
    step: int,
    members: Members,
    images: Images,
    given: Mapping[str, Tensor] = MappingProxyType({}),
) -> dict[str, Judge]:
    """Asks each member about the images of its conditions, in its own modalities.

    Images are of all members, in their order, the same number for each; `given` are conditions that
    sites do not know.
    """
    return {
        site: Judge(
            run=run, step=step, batch=member.batch, images=part[:, member.channels],
            conditions=given.get(site, NO_CONDITIONS),
        )
        for part, (site, member) in zip(images.chunk(len(members)), members.items(), strict=True)
    }  # fmt: skip


def pull(
    images: Images, members: Members, answers: Mapping[str, Judgement], shares: Weights, *, by: str
) -> Images:
    """Gradient of sum_j pi_j loss_j with respect to G(x, z), the images of all members.

    Images are in the members' order, the same number for each. Shares are of those that answered,
    and sum to one; another contributes nothing.
    """
    weights = weights_of(members, shares, images.shape[1], by=by)
    gradient = torch.zeros_like(images)
    for part, (site, member) in zip(gradient.chunk(len(members)), members.items(), strict=True):
        if site in answers:
            pi = weights[site].reshape(-1, *[1] * (images.ndim - 2))
            part[:, member.channels] = (pi * answers[site].feedback).to(gradient.device)
    return gradient


def weights_of(members: Members, shares: Weights, modalities: int, *, by: str) -> dict[str, Tensor]:
    """Weight of each site's feedback, (channels,): pi_j, or its counterpart per modality.

    A site's loss is a mean over the modalities that it judges, whereas the total is a mean over all
    painted modalities: hence the ratio of the two counts. Where each site holds one modality, the
    weighted feedback is the gradient of mean_c sum_j pi_jc loss_jc; else, by modality, it is not
    the gradient of any loss, since a discriminator judges all modalities together.

    `shares` are of the sites that answered. `by` is `site` or `modality`: whether shares are taken
    among all sites, or among those that hold the same modality.
    """
    weights = {site: torch.full((len(members[site].channels),), shares[site]) for site in shares}
    if by == "modality":
        # Cases that lack a modality give no feedback in it: a site already counts for less there.
        held = torch.zeros(modalities)
        for site, weight in weights.items():
            parts = torch.tensor(members[site].parts).clamp(min=LEAST_PART)
            held[members[site].channels] += weight * parts
        for site, weight in weights.items():
            weight *= len(weight) / len(held) / held[members[site].channels]
    return weights


def bounded(
    feedback: Mapping[str, Tensor], section: IntegritySection
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Shortens feedback whose L2 norm exceeds the recipe's multiple of the median norm.

    Returns the feedback by site, and the multiple of the median of each site to be reported.
    """
    lengths = {site: float(gradient.norm()) for site, gradient in feedback.items()}
    if len(lengths) < LEAST_SITES:
        return dict(feedback), {}
    middle = median(lengths.values()) or 1e-30  # most send nothing: any other is too long
    times = {site: length / middle for site, length in lengths.items()}
    shortened = {
        site: gradient * min(1.0, section.bound / times[site])
        if section.bound and times[site] > section.bound
        else gradient
        for site, gradient in feedback.items()
    }
    return shortened, {site: ratio for site, ratio in times.items() if ratio > ALARM}
