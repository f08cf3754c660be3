"""A coordinator that computes a site's first step, to tell whose images it has seen.

It knows the initial discriminator, as it does if a policy says `allows.known_start`.
"""

from typing import Final, final

import torch
from torch import Tensor

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Images, Scalar
from asyndgan.auditing.pixel_attacks import TINY
from asyndgan.recipe import Recipe
from asyndgan.store import derived_seed
from asyndgan.training.objective import Objective
from asyndgan.wire.messages import Card

SOFTNESS: Final = 0.3
"""Width of the softened sign that `_sign` differentiates, in units of the mean gradient."""


@final
class Rehearsal:
    """Simulates a site's first step, for a coordinator that knows the initial discriminator.

    If a site's policy says `allows.known_start`, its initial discriminator and the random shifts of
    images before they are judged follow from the recipe's seed and the site's name. Adam's first
    step is the sign of the gradient (Kingma and Ba 2015, section 2.1), so the site's answer can be
    computed for any real images and compared with its actual answer.

    Args:
        recipe: the run's.
        name: name of the site.
        card: the card that the site sent.
        images: synthetic images, (b, c, *space), that the site was sent.
        halves: halves of the patients of the batch, (b,), if the discriminator is cross-fitted; an
            attacker has to guess them.
    """

    def __init__(
        self, recipe: Recipe, name: str, card: Card, images: Images, halves: Tensor | None = None
    ) -> None:
        self.recipe = recipe
        self.objective = Objective(
            self.recipe,
            modalities=len(card.modalities),
            labels=max(map(int, card.labels)) + 1,
            space=tuple(card.space),
            seed=derived_seed(recipe.training.seed, "site", name),
        )
        self.maps = self.objective.maps(card.conditions.long())
        self.images = images
        if (halves is None) == self.recipe.discriminator.cross_fitted:
            raise ValueError("halves are of a cross-fitted discriminator, which needs them.")
        self.halves = None if halves is None else torch.cat([halves, halves])

    def feedback(self, real: Images) -> Tensor:
        """The site's feedback if these were its real images; differentiable with respect to them.

        Of a loss it knows what the discriminator asks for, and no term that looks at other images.
        """
        known = dict(self.objective.discriminator.named_parameters())
        rate = self.recipe.optimiser.discriminator_rate
        self.objective.begin_step(0)  # reproduces the site's shifts
        maps = torch.cat([self.maps, self.maps])
        shown = torch.cat([real, self.images])
        said, seen = self.objective.judged(shown, maps, halves=self.halves)
        learned = self.objective.lesson(said, seen, len(real))
        weights = list(known.values())
        # A network that learns from the other half of the patients does not move in this step.
        slopes = torch.autograd.grad(learned, weights, create_graph=True, allow_unused=True)
        moved = {
            name: weight if slope is None else weight - rate * _sign(slope)
            for (name, weight), slope in zip(known.items(), slopes, strict=True)
        }
        asked = self.images.clone().requires_grad_()
        said, seen = self.objective.judged(asked, self.maps, self.objective.shown, moved)
        terms = [weight * value for _, weight, value in self.objective.wanted(said, seen)]
        (feedback,) = torch.autograd.grad(torch.stack(terms).sum(), asked, create_graph=True)
        return feedback

    def mismatch(self, real: Images, answer: Tensor) -> Scalar:
        """Squared difference of simulated and actual answer, relative to the actual one squared."""
        return (self.feedback(real) - answer).square().sum() / answer.square().sum()


def _sign(slope: Tensor) -> Tensor:
    """Adam's first step; the backward pass uses a softened sign, which has a useful gradient."""
    soft = slope / (slope.abs() + SOFTNESS * slope.detach().abs().mean())
    return soft + (slope / (slope.abs() + TINY) - soft).detach()


def inverted(rehearsal: Rehearsal, answer: Tensor, start: Images, *, steps: int = 200) -> Images:
    """Finds real images that explain an answer, by gradient descent (Zhu et al. 2019, section 3).

    Args:
        rehearsal: simulation of the step that was answered.
        answer: the site's feedback, of the shape of the images.
        start: initial guess, such as images that a generator paints from the masks.
        steps: number of steps of Adam.
    """
    hidden = torch.atanh(start.clamp(0.98 * IMAGE_LOW, 0.98 * IMAGE_HIGH)).requires_grad_()
    optimiser = torch.optim.Adam([hidden], lr=0.01)
    for _ in range(steps):
        gap = rehearsal.mismatch(torch.tanh(hidden), answer)
        (hidden.grad,) = torch.autograd.grad(gap, hidden)
        optimiser.step()
    return torch.tanh(hidden).detach()
