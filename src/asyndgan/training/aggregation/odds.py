"""Combines the sites' discriminators into the discriminator of the mixture of all sites.

Source: Zhang et al. 2021 (UA-GAN), section 3. An optimal discriminator has the odds
p_j(x, y) / q(x, y), so the odds weighted by shares add up to those of the mixture,
Phi = sum_j pi_j odds_j = p / q, and Phi / (1 + Phi) is the discriminator that training on all real
images together would give. A sum of feedback weighted by shares instead finds a centroid of the
sites, in which large sites count for more than their share where the sites hardly overlap.

Each site returns log odds and their gradients. With the non-saturating loss log(1 + 1 / Phi) of
an image the chain rule gives
    d / d image = -1 / (1 + Phi) * sum_j (pi_j odds_j / Phi) * d log odds_j / d image.
"""

from collections.abc import Collection, Mapping
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from asyndgan.arrays import Images
from asyndgan.data import Batch
from asyndgan.errors import CohortError, ProtocolError, RunError, WireError
from asyndgan.training.aggregation.seam import Aggregation
from asyndgan.training.member import Members, Weights
from asyndgan.training.objective import Losses, Objective, update
from asyndgan.training.scope import Scope
from asyndgan.wire import Appraisal, Appraise, Card, StepRequest

MOST_LOG_ODDS = 1e4
"""Largest absolute log odds accepted from a site; larger ones are meaningless as floats."""


@final
class Odds(Aggregation[Appraise, Appraisal]):
    """Every site judges the images of all sites, and sends the odds that they are its own."""

    request = Appraise
    answer = Appraisal

    def pull(
        self, images: Images, members: Members, answers: Mapping[str, Appraisal], shares: Weights
    ) -> Images:
        """Gradient of the mixture's loss with respect to the images of all members.

        All sites that answered contribute to every image; images painted from a site's masks are
        weighted by that site's share.
        """
        odds = {site: said.odds.to(images) for site, said in answers.items()}
        gradients = {site: torch.zeros_like(images) for site in answers}
        for site, said in answers.items():
            gradients[site][:, members[site].channels] = said.feedback.to(images.device)
        pull = feedback_of_mixture(odds, gradients, shares)
        batch = len(images) // len(members)
        # Images from the masks of a site that did not answer count for nothing.
        counts = torch.tensor([shares.get(site, 0.0) / batch for site in members])
        counts = counts.repeat_interleave(batch).reshape(-1, *[1] * (pull.ndim - 1))
        return counts.to(pull) * pull

    def requests(
        self, run: str, step: int, members: Members, shares: Weights, images: Images
    ) -> Mapping[str, Appraise]:
        """Asks each member about the images of all of them, in its own modalities."""
        conditions = torch.cat([member.conditions for member in members.values()])
        return {
            site: Appraise(
                run=run,
                step=step,
                batch=member.batch,
                place=place,
                shares=list(shares.values()),
                images=images[:, member.channels],
                conditions=conditions,
            )
            for place, (site, member) in enumerate(members.items())
        }

    def shown(self, request: StepRequest, offered: Batch, labels: int) -> Batch:
        """The images of all sites, among them those of the batch that this site chose."""
        if not isinstance(request, Appraise):
            raise ProtocolError("this recipe asks no site for feedback alone.")
        size, sites = self.recipe.training.batch, len(request.shares)
        wanted = (sites * size, *offered.images.shape[1:])
        whose = (sites * size, *offered.conditions.shape[1:])
        if sites > self.recipe.shares.sites or abs(sum(request.shares) - 1) > 1e-6:
            raise ProtocolError(
                f"images of {sites} sites came, with shares that sum to {sum(request.shares):g}; "
                f"the recipe lets {self.recipe.shares.sites} sites judge each other, and shares "
                "sum to one."
            )
        if tuple(request.images.shape) != wanted or tuple(request.conditions.shape) != whose:
            raise ProtocolError(
                f"synthetic images of shape {tuple(request.images.shape)} and conditions of shape "
                f"{tuple(request.conditions.shape)} came; this site judges {wanted} and {whose}."
            )
        own = request.conditions[request.place * size : (request.place + 1) * size]
        if not torch.equal(own.long(), offered.conditions.long()):
            raise ProtocolError("the images at this site's place are not of the batch it offered.")
        if int(request.conditions.max()) >= labels:
            raise ProtocolError("a condition with a label that this site does not know.")
        return Batch(request.images, request.conditions.long())

    def learn(
        self, objective: Objective, real: Batch, synthetic: Batch, request: Appraise
    ) -> Losses:
        """One update against the images of all sites, weighted by shares."""
        judged = objective.judged(synthetic.images, objective.maps(synthetic.conditions))[0].score
        own = objective.judged(real.images, objective.maps(real.conditions))[0].score
        if judged is None or own is None:
            raise TypeError("odds need a discriminator with realness logits.")
        chunks = judged.chunk(len(request.shares))
        painted = [objective.adversarial.synthetic(chunk) for chunk in chunks]
        weights = torch.tensor(request.shares, device=judged.device)
        loss = 0.5 * (objective.adversarial.real(own) + (weights * torch.stack(painted)).sum())
        update(objective.discriminator_optimiser, loss)
        return {"discriminator": loss.detach()}

    def ask(
        self, objective: Objective, synthetic: Batch, real: Batch | None
    ) -> tuple[Losses, dict[str, Tensor]]:
        """The log odds, and their gradient with respect to the images."""
        synthetic.images.requires_grad_()
        odds = log_odds(objective, synthetic)
        (gradients,) = torch.autograd.grad(odds.sum(), synthetic.images)
        return {}, {"odds": odds.detach().cpu().double(), "feedback": gradients.cpu()}

    def batches(self, sites: int) -> int:
        """Those of all members."""
        return sites

    def check(self, site: str, answer: Appraisal) -> None:
        """Checks that there are odds of every image, and that they are bearable as floats."""
        odds = answer.odds
        if len(odds) != len(answer.feedback) or not (odds.abs() <= MOST_LOG_ODDS).all():
            raise WireError(f"site {site}: odds of {len(odds)} images, or beyond all sense.")

    def check_sites(self, count: int) -> None:
        """Checks that no more sites take part than may judge each other's images."""
        if count > self.recipe.shares.sites:
            raise RunError(
                f"{count} sites take part at once, and shares.sites lets {self.recipe.shares.sites}"
                " judge each other's images. Raise it at all ends."
            )

    def check_card(self, site: str, card: Card, scope: Scope, members: Collection[str]) -> None:
        """Checks that a site can judge every site's images, and that it is not one too many."""
        if len(card.modalities) < len(scope.modalities):
            raise CohortError(
                f"site {site} holds {', '.join(card.modalities)} alone, so it has no odds of whole "
                "images. Set shares.by to 'site' or 'modality', or leave it out."
            )
        if {int(number) for number in card.labels} != set(scope.labels):
            raise CohortError(
                f"site {site} knows the labels {', '.join(card.labels.values())}, and cannot judge "
                f"masks with {', '.join(scope.labels.values())}. Name all of them in its "
                "dataset.json, or set shares.by to 'site'."
            )
        if site not in members and len(members) >= self.recipe.shares.sites:
            raise CohortError(
                f"site {site} would be one more than shares.sites ({self.recipe.shares.sites}) "
                "lets judge each other's images. Raise it at all ends."
            )


def feedback_of_mixture(
    log_odds: Mapping[str, Float[Tensor, " b"]], gradients: Mapping[str, Images], shares: Weights
) -> Images:
    """Gradient of each image's loss with respect to that image.

    Args:
        log_odds: by site: that each image is one of the site's real images.
        gradients: by site: of the log odds, with respect to the images.
        shares: of the sites; they sum to one.
    """
    sites = list(log_odds)
    weighted = torch.stack([log_odds[s] + torch.tensor(shares[s]).log() for s in sites])
    together = torch.logsumexp(weighted, dim=0)  # log Phi
    parts = torch.softmax(weighted, dim=0)  # pi_j odds_j / Phi
    pull = -torch.sigmoid(-together)
    shape = (-1, *[1] * (gradients[sites[0]].ndim - 1))
    return torch.stack(
        [(pull * part).reshape(shape) * gradients[s] for part, s in zip(parts, sites, strict=True)]
    ).sum(0)


def log_odds(objective: Objective, synthetic: Batch) -> Tensor:
    """Log odds that each image is real, (b,): the mean over the discriminator's patches."""
    maps = objective.maps(synthetic.conditions)
    score = objective.judged(synthetic.images, maps, objective.shown)[0].score
    if score is None:
        raise TypeError("odds need a discriminator with realness logits.")
    return score.flatten(1).mean(1)
