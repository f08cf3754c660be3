"""What a coordinator that paints what it likes can read out of a site."""

from collections.abc import Callable, Mapping
from typing import Final, final

import torch
from torch import Tensor
from torch.func import functional_call

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Images, Scalar
from asyndgan.data import derived_seed
from asyndgan.errors import ProtocolError, RunError
from asyndgan.models import Verdict, arithmetic
from asyndgan.models.augment import disturbed
from asyndgan.protocol import Endpoint
from asyndgan.recipe import Recipe
from asyndgan.training.objective import Objective
from asyndgan.wire import ANSWERS, Card, Judge, Judgement, Message, Open, pack, unpack
from asyndgan.wire.codec import Coding

Ask = Callable[[Images], Tensor]
"""Feedback on these images, always for the same conditions."""

SOFTNESS: Final = 0.3
"""Of the sign in Adam's first step, in mean gradients, where a slope through it is wanted."""

TINY: Final = 1e-8
"""Adam's epsilon."""


def bisected(ask: Ask, shape: tuple[int, ...], *, parts: int = 32, rounds: int = 2) -> Images:
    """The images that an L1 term in a site's loss compares with, pixel by pixel.

    The gradient of |synthetic - target| is its sign: it jumps where the synthetic pixel becomes
    the brighter one. Each round cuts the range in which a pixel lies into parts, all pixels at
    once, and keeps the part across which feedback jumps most. Looking at the jump and not at the
    sign keeps the adversarial term out, which changes little from one mark to the next.

    Args:
        ask: gives feedback.
        shape: of the images.
        parts: that a range is cut into; each round asks one question more than that.
        rounds: the later ones look a little beyond the part that was found.

    Returns:
        The middle of what is left of each range. Where the loss has no L1 term it shows what the
        discriminator would rather see.
    """
    low, high = torch.full(shape, IMAGE_LOW), torch.full(shape, IMAGE_HIGH)
    for _ in range(rounds):
        width = (high - low) / parts
        said = torch.stack([ask(low + width * mark) for mark in range(parts + 1)])
        low = low + width * said.diff(dim=0).argmax(dim=0)
        low, high = low - width / 2, low + 1.5 * width
    return (low + high) / 2


@final
class RolledBack:
    """Asks a site again and again about the batch that it offers first after a step.

    A site that is told that the run stands at an earlier step goes back to its state of then, and
    offers the same batch: that is how runs resume, and how a malicious coordinator has one batch
    judged as often as it likes.

    Args:
        endpoint: of the site.
        run: that the site is in, or a new one.
        recipe: digest of it.
        step: to go back to; the site has a checkpoint of it, or it is 0.
        images: coding of images on the wire.
        limit: of answers, in bytes.
    """

    def __init__(
        self, endpoint: Endpoint, *, run: str, recipe: str, step: int, images: Coding, limit: int
    ) -> None:
        self.endpoint = endpoint
        self.opening = Open(run=run, recipe=recipe, step=step)
        self.images = images
        self.limit = limit
        self.card = self._opened()

    def __call__(self, images: Images) -> Tensor:
        """Feedback on images for the conditions of `card`."""
        return self.judged(images).feedback

    def judged(self, images: Images) -> Judgement:
        """The whole answer on images for the conditions of `card`."""
        card = self._opened()
        request = Judge(run=card.run, step=card.step, batch=card.batch, images=images)
        answer = self._asked(request)
        if not isinstance(answer, Judgement):
            raise ProtocolError(
                f"the site did not judge: {getattr(answer, 'reason', answer.kind)}."
            )
        return answer

    def _opened(self) -> Card:
        card = self._asked(self.opening)
        if not isinstance(card, Card):
            raise ProtocolError(f"the site did not open: {getattr(card, 'reason', card.kind)}.")
        return card

    def _asked(self, request: Message) -> Message:
        payload = pack(request, {"images": self.images}, level=1)
        return unpack(self.endpoint.answer(payload), ANSWERS, limit=self.limit)


@final
class Rehearsal:
    """A site's first step, played by a coordinator that knows the initial discriminator.

    It follows from the recipe's seed and the site's name where a policy says `allows.known_start`,
    and so does how images are shifted before they are judged.
    Adam's first step is the sign of the gradient (Kingma and Ba 2015, section 2.1), so what the
    site would answer can be computed for any real images, and compared with what it did answer.

    Args:
        recipe: with a discriminator that does not segment.
        name: of the site.
        card: that it sent.
        images: synthetic ones, (b, c, *space), that it was sent.
    """

    def __init__(self, recipe: Recipe, name: str, card: Card, images: Images) -> None:
        self.recipe = recipe.at_site(name)
        self.objective = Objective(
            self.recipe,
            modalities=len(card.modalities),
            labels=max(map(int, card.labels)) + 1,
            space=tuple(card.space),
            seed=derived_seed(recipe.training.seed, "site", name),
        )
        self.network = self.objective.discriminator
        self.maps = self.objective.maps(card.conditions.long())
        self.images = images

    def feedback(self, real: Images) -> Tensor:
        """What the site would answer if these were its real images; has a slope by them."""
        known = dict(self.network.named_parameters())
        adversarial, rate = self.objective.adversarial, self.recipe.optimiser.discriminator_rate
        self.objective.begin_step(0)  # the shifts are those of the site, too
        both = torch.cat([real, self.images])
        own, painted = self._score(known, both, self.objective.random).chunk(2)
        learned = 0.5 * (adversarial.real(own) + adversarial.synthetic(painted))
        slopes = torch.autograd.grad(learned, list(known.values()), create_graph=True)
        moved = {
            name: weight - rate * _sign(slope)
            for (name, weight), slope in zip(known.items(), slopes, strict=True)
        }
        asked = self.images.clone().requires_grad_()
        wanted = adversarial.generator(self._score(moved, asked, self.objective.shown))
        loss = self.recipe.loss.adversarial_weight * wanted
        (feedback,) = torch.autograd.grad(loss, asked, create_graph=True)
        return feedback

    def mismatch(self, real: Images, answer: Tensor) -> Scalar:
        """Squared gap between what would be answered and what was, as a part of the latter."""
        return (self.feedback(real) - answer).square().sum() / answer.square().sum()

    def _score(
        self, weights: Mapping[str, Tensor], images: Images, random: torch.Generator
    ) -> Tensor:
        maps = torch.cat([self.maps] * (len(images) // len(self.maps)))
        shifted = disturbed(images, maps, self.recipe.discriminator.augment, random)
        with arithmetic(self.recipe.training.precision, images.device):
            verdict: Verdict = functional_call(self.network, dict(weights), shifted)
        score = verdict.float().score
        if score is None:
            raise RunError("this discriminator has no realness logits; a rehearsal needs them.")
        return score


def _sign(slope: Tensor) -> Tensor:
    """Adam's first step; backwards a softer one, since a sign has no slope."""
    soft = slope / (slope.abs() + SOFTNESS * slope.detach().abs().mean())
    return soft + (slope / (slope.abs() + TINY) - soft).detach()


def inverted(rehearsal: Rehearsal, answer: Tensor, start: Images, *, steps: int = 200) -> Images:
    """Real images that would explain an answer, by descent (Zhu et al. 2019, section 3).

    Args:
        rehearsal: of the step that was answered.
        answer: feedback, of the shape of the images.
        start: a guess, such as what a generator paints for the masks.
        steps: of Adam.
    """
    hidden = torch.atanh(start.clamp(0.98 * IMAGE_LOW, 0.98 * IMAGE_HIGH)).requires_grad_()
    optimiser = torch.optim.Adam([hidden], lr=0.01)
    for _ in range(steps):
        gap = rehearsal.mismatch(torch.tanh(hidden), answer)
        (hidden.grad,) = torch.autograd.grad(gap, hidden)
        optimiser.step()
    return torch.tanh(hidden).detach()


def psnr(images: Images, other: Images) -> float:
    """Peak signal-to-noise ratio in decibels of images in [-1, 1], mean over images."""
    square = (images - other).square().flatten(1).mean(1).clamp(min=1e-12)
    return float((10 * torch.log10((IMAGE_HIGH - IMAGE_LOW) ** 2 / square)).mean())
