"""Combines the sites' feedback into one gradient with respect to the generator's images.

Source: Chang et al. 2020 (AsynDGAN), equation 4. The generator minimises
sum_j pi_j E[loss_j(G(x, z))]. Each site sends d loss_j / d image for its own images. Multiplied by
pi_j, this is the gradient of the sum with respect to the images, and the chain rule carries it into
the generator.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from asyndgan.arrays import Images
from asyndgan.training.odds import feedback_of_mixture
from asyndgan.training.roster import Member
from asyndgan.training.scope import Scope
from asyndgan.wire import Appraisal

LEAST_PART = 0.01
"""A modality that fewer of a site's cases have is not made up for further: who declares next to
none would have a weight without limit."""


def pull_of(
    images: Images,
    members: Mapping[str, Member],
    feedback: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
) -> Images:
    """Gradient of sum_j pi_j loss_j (equation 4) with respect to G(x, z), the images of all sites.

    Args:
        images: of all members, in their order, the same number for each.
        members: the sites that the images were painted for.
        feedback: d loss_j / d image by site, for its own images and the channels that it judges.
        weights: pi_j, by site (`weights_of`).
    """
    pull = torch.zeros_like(images)
    for own, (site, member) in zip(pull.chunk(len(members)), members.items(), strict=True):
        if site in feedback:  # a site that did not answer contributes nothing
            own[:, member.channels] = (weights[site] * feedback[site]).to(pull.device)
    return pull


def weights_of(
    members: Mapping[str, Member], shares: Mapping[str, float], scope: Scope, *, by: str
) -> dict[str, Tensor]:
    """Weight of each site's feedback, (channels, 1, 1): pi_j, or its counterpart per modality.

    A site's loss is a mean over the modalities that it judges, whereas the total is a mean over all
    painted modalities: hence the ratio of the two counts. With one discriminator per modality
    (`discriminator.joint = false`) the weighted feedback is the gradient of
    mean_c sum_j pi_jc loss_jc; with a joint discriminator it is not the gradient of any loss.

    Args:
        members: all that take part.
        shares: of the sites that answered.
        scope: gives the painted modalities.
        by: `site` or `modality`: whether shares are taken among all sites, or among those that hold
            the same modality.
    """
    weights = {site: torch.full((len(members[site].channels),), shares[site]) for site in shares}
    if by == "modality":
        # Cases that lack a modality give no feedback in it: a site already counts for less there.
        held = torch.zeros(len(scope.modalities))
        for site, own in weights.items():
            parts = torch.tensor(members[site].parts).clamp(min=LEAST_PART)
            held[members[site].channels] += own * parts
        for site, own in weights.items():
            own *= len(own) / len(held) / held[members[site].channels]
    return {site: own.reshape(-1, *[1] * len(scope.space)) for site, own in weights.items()}


def by_odds(
    images: Images,
    members: Mapping[str, Member],
    appraisals: Mapping[str, Appraisal],
    shares: Mapping[str, float],
) -> Images:
    """Gradient of the mixture's loss (`training.odds`) with respect to the images of all sites.

    All sites that answered contribute to every image; images painted from a site's masks are
    weighted by that site's share.

    Args:
        images: of all members, in their order, the same number for each.
        members: the sites that the images were painted for.
        appraisals: from the sites that answered, each of all images in the channels that it judges.
        shares: of the sites that answered; they sum to one.
    """
    gradients = {site: torch.zeros_like(images) for site in appraisals}
    for site, said in appraisals.items():
        gradients[site][:, members[site].channels] = said.feedback.to(images.device)
    odds = {site: said.odds.to(images) for site, said in appraisals.items()}
    pull = feedback_of_mixture(odds, gradients, shares)
    batch = len(images) // len(members)
    # Images from the masks of a site that did not answer count for nothing.
    counts = torch.tensor([shares.get(site, 0.0) / batch for site in members])
    counts = counts.repeat_interleave(batch).reshape(-1, *[1] * (pull.ndim - 1))
    return counts.to(pull) * pull
