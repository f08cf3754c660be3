"""What the generator's images are pulled by: the sites' feedback, put together.

Source: Chang et al. 2020 (AsynDGAN), equation 4. The generator minimises
sum_j pi_j E[loss_j(G(x, z))]. Each site sends d loss_j / d image of its own images; pi_j times
that is the gradient of the sum by the images, and the chain rule carries it into the generator.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from asyndgan.arrays import Images
from asyndgan.training.odds import feedback_of_mixture
from asyndgan.training.roster import Member
from asyndgan.training.scope import Scope
from asyndgan.wire import Appraisal


def pull_of(
    images: Images,
    members: Mapping[str, Member],
    feedback: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
) -> Images:
    """Equation 4: sum_j pi_j loss_j, differentiated by G(x, z), the images of all sites.

    Args:
        images: of all members, as many of each, in their order.
        members: for whom they were painted.
        feedback: d loss_j / d image, by site: of its own images, in the channels that it judges.
        weights: pi_j, by site (`weights_of`).
    """
    pull = torch.zeros_like(images)
    for own, (site, member) in zip(pull.chunk(len(members)), members.items(), strict=True):
        if site in feedback:  # who did not answer pulls nothing
            own[:, member.channels] = (weights[site] * feedback[site]).to(pull.device)
    return pull


def weights_of(
    members: Mapping[str, Member], shares: Mapping[str, float], scope: Scope, *, by: str
) -> dict[str, Tensor]:
    """What each site's feedback counts, (channels, 1, 1): pi_j, or its like by modality.

    A site's loss is a mean over the modalities that it judges, and so is the sum of all over
    those that are painted: hence the ratio of the two numbers. With one discriminator a
    modality (`discriminator.joint = false`) the weighted feedback is the gradient of
    mean_c sum_j pi_jc loss_jc; with one for all of them it is no loss's gradient.

    Args:
        members: all that take part.
        shares: of those that answered.
        scope: says how many modalities are painted.
        by: `site` or `modality`: among whom shares are.
    """
    weights = {site: torch.full((len(members[site].channels),), shares[site]) for site in shares}
    if by == "modality":
        # A batch in which some cases lack a modality gives as much less feedback in it already.
        held = torch.zeros(len(scope.modalities))
        for site, own in weights.items():
            held[members[site].channels] += own * torch.tensor(members[site].parts)
        for site, own in weights.items():
            own *= len(own) / len(held) / held[members[site].channels]
    return {site: own.reshape(-1, *[1] * len(scope.space)) for site, own in weights.items()}


def by_odds(
    images: Images,
    members: Mapping[str, Member],
    appraisals: Mapping[str, Appraisal],
    shares: Mapping[str, float],
) -> Images:
    """Every image pulled by all sites that answered; images of a site's masks count by its share.

    Args:
        images: of all members, as many of each, in their order.
        members: for whom they were painted.
        appraisals: of those that answered: of all images, in the channels that they judge.
        shares: of these, which sum to one.
    """
    gradients = {site: torch.zeros_like(images) for site in appraisals}
    for site, said in appraisals.items():
        gradients[site][:, members[site].channels] = said.feedback.to(images.device)
    odds = {site: said.odds.to(images) for site, said in appraisals.items()}
    pull, _ = feedback_of_mixture(odds, gradients, shares)
    batch = len(images) // len(members)
    # Who did not answer has no word about his own masks either.
    counts = torch.tensor([shares.get(site, 0.0) / batch for site in members])
    counts = counts.repeat_interleave(batch).reshape(-1, *[1] * (pull.ndim - 1))
    return counts.to(pull) * pull
