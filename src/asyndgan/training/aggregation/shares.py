"""Equation 4: each site judges its own images, and its feedback counts by its share.

Source: Chang et al. 2020 (AsynDGAN), equation 4. The generator minimises
sum_j pi_j E[loss_j(G(x, z))]. Each site sends d loss_j / d image for its own images. Multiplied by
pi_j, this is the gradient of the sum with respect to the images, and the chain rule carries it into
the generator.
"""

from collections.abc import Collection, Mapping
from typing import final

import torch
from torch import Tensor

from asyndgan.arrays import Images
from asyndgan.data import Batch
from asyndgan.errors import ProtocolError
from asyndgan.training.aggregation.seam import Aggregation
from asyndgan.training.member import Members, Weights
from asyndgan.training.objective import Losses, Objective
from asyndgan.training.scope import Scope
from asyndgan.wire import Card, Judge, Judgement, StepRequest

LEAST_PART = 0.01
"""Smallest fraction of cases with a modality that a weight makes up for. Without it, a site that
declares next to none would have an unbounded weight."""


@final
class Shares(Aggregation[Judge, Judgement]):
    """The sum of the sites' feedback, weighted by shares (`weights_of`)."""

    request = Judge
    answer = Judgement

    def pull(
        self, images: Images, members: Members, answers: Mapping[str, Judgement], shares: Weights
    ) -> Images:
        """Gradient of sum_j pi_j loss_j with respect to G(x, z), the images of all members."""
        weights = weights_of(members, shares, images.shape[1], by=self.recipe.shares.by)
        pull = torch.zeros_like(images)
        for own, (site, member) in zip(pull.chunk(len(members)), members.items(), strict=True):
            if site in answers:
                pi = weights[site].reshape(-1, *[1] * (images.ndim - 2))
                own[:, member.channels] = (pi * answers[site].feedback).to(pull.device)
        return pull

    def requests(
        self, run: str, step: int, members: Members, shares: Weights, images: Images
    ) -> Mapping[str, Judge]:
        """Asks each member about the images of its own conditions, in its own modalities."""
        batches = images.split(self.recipe.training.batch)
        return {
            site: Judge(run=run, step=step, batch=member.batch, images=own[:, member.channels])
            for (site, member), own in zip(members.items(), batches, strict=True)
        }

    def shown(self, request: StepRequest, offered: Batch, labels: int) -> Batch:
        """The images of the batch that this site chose."""
        if not isinstance(request, Judge):
            raise ProtocolError("this recipe asks no site for odds.")
        if request.images.shape != offered.images.shape:
            raise ProtocolError(
                f"synthetic images of shape {tuple(request.images.shape)} came; "
                f"this site judges {tuple(offered.images.shape)}."
            )
        return Batch(request.images, offered.conditions, offered.halves, offered.present)

    def learn(self, objective: Objective, real: Batch, synthetic: Batch, request: Judge) -> Losses:
        """One update against the synthetic images of the same conditions."""
        return objective.learn(real, synthetic)

    def ask(
        self, objective: Objective, synthetic: Batch, real: Batch | None
    ) -> tuple[Losses, dict[str, Tensor]]:
        """The site's loss, and its gradient with respect to the images."""
        synthetic.images.requires_grad_()
        loss, terms = objective.ask(synthetic, real)
        (feedback,) = torch.autograd.grad(loss, synthetic.images)
        return terms, {"feedback": feedback.cpu()}

    def batches(self, sites: int) -> int:
        """Its own."""
        return 1

    def check(self, site: str, answer: Judgement) -> None:
        """Feedback alone has nothing particular."""

    def check_sites(self, count: int) -> None:
        """There may be any number of sites."""

    def check_card(self, site: str, card: Card, scope: Scope, members: Collection[str]) -> None:
        """Accepts every card: a site judges the modalities that it holds."""


def weights_of(members: Members, shares: Weights, modalities: int, *, by: str) -> dict[str, Tensor]:
    """Weight of each site's feedback, (channels,): pi_j, or its counterpart per modality.

    A site's loss is a mean over the modalities that it judges, whereas the total is a mean over all
    painted modalities: hence the ratio of the two counts. Where each site holds one modality, the
    weighted feedback is the gradient of mean_c sum_j pi_jc loss_jc; else, by modality, it is not
    the gradient of any loss, since a discriminator judges all modalities together.

    Args:
        members: all that take part.
        shares: of the sites that answered.
        modalities: number of painted modalities.
        by: `site` or `modality`: whether shares are taken among all sites, or among those that hold
            the same modality.
    """
    weights = {site: torch.full((len(members[site].channels),), shares[site]) for site in shares}
    if by == "modality":
        # Cases that lack a modality give no feedback in it: a site already counts for less there.
        held = torch.zeros(modalities)
        for site, own in weights.items():
            parts = torch.tensor(members[site].parts).clamp(min=LEAST_PART)
            held[members[site].channels] += own * parts
        for site, own in weights.items():
            own *= len(own) / len(held) / held[members[site].channels]
    return weights
