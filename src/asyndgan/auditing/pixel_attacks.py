"""Attacks by a malicious coordinator that reconstruct a site's images from its feedback."""

from collections.abc import Callable
from typing import Final, final

import torch
from torch import Tensor

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Images
from asyndgan.errors import ProtocolError
from asyndgan.protocol import Endpoint
from asyndgan.wire.codec import Coding
from asyndgan.wire.messages import ANSWERS, Card, Judge, Judgement, Message, Open, pack, unpack

Ask = Callable[[Images], Tensor]
"""Returns the feedback on images, always for the same conditions."""

PARTS: Final = 32
ROUNDS: Final = 2
STEPS: Final = 60
QUESTIONS: Final = ROUNDS * (PARTS + 1) + STEPS
"""Questions of `bisected` and `followed` together."""

TINY: Final = 1e-8
"""Adam's epsilon."""


def bisected(
    ask: Ask, shape: tuple[int, ...], *, parts: int = PARTS, rounds: int = ROUNDS
) -> Images:
    """Recovers, pixel by pixel, the target images of an L1 term in a site's loss.

    The gradient of |synthetic - target| is a sign: it jumps where the synthetic pixel becomes
    brighter than the target. Each round divides every pixel's range into parts, asks `parts + 1`
    questions, and keeps the part across which the feedback increases most, extended by half its
    width each way. Unlike the sign, the increase excludes the adversarial term, which changes
    little. Returns the middle of each pixel's range. Without an L1 term it reflects what the
    discriminator prefers.
    """
    low, high = torch.full(shape, IMAGE_LOW), torch.full(shape, IMAGE_HIGH)
    for _ in range(rounds):
        width = (high - low) / parts
        # A range that was extended may pass what a site takes.
        marks = (low + width * mark for mark in range(parts + 1))
        said = torch.stack([ask(mark.clamp(IMAGE_LOW, IMAGE_HIGH)) for mark in marks])
        low = low + width * said.diff(dim=0).argmax(dim=0)
        low, high = low - width / 2, low + 1.5 * width
    return (low + high) / 2


def followed(ask: Ask, start: Images, *, questions: int = STEPS) -> Images:
    """Images that follow a site's feedback by Adam, as an unconstrained generator would.

    With a paired loss they come nearer to the real images, otherwise to what the discriminator
    prefers.
    """
    hidden = torch.atanh(start.clamp(0.98 * IMAGE_LOW, 0.98 * IMAGE_HIGH)).requires_grad_()
    optimiser = torch.optim.Adam([hidden], lr=0.03, eps=TINY**2)  # feedback may be tiny all over
    for _ in range(questions):
        images = torch.tanh(hidden)
        (hidden.grad,) = torch.autograd.grad(images, hidden, ask(images.detach()))
        optimiser.step()
    return torch.tanh(hidden).detach()


@final
class RolledBack:
    """Makes a site judge the same batch repeatedly by rolling it back to an earlier step.

    A site that is told that the run is at an earlier step, of which it has a checkpoint, or at 0,
    restores its state of that step and offers the same batch. Runs resume in this way.
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
        """Feedback on images painted from the conditions of `card`."""
        return self.judged(images).feedback

    def judged(self, images: Images) -> Judgement:
        """The site's full answer on images painted from the conditions of `card`."""
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
        payload = pack(request, {"images": self.images})
        return unpack(self.endpoint.answer(payload), ANSWERS, limit=self.limit)


def psnr(images: Images, other: Images) -> float:
    """Peak signal-to-noise ratio in decibels between images in [-1, 1], mean over images."""
    square = (images - other).square().flatten(1).mean(1).clamp(min=1e-12)
    return float((10 * torch.log10((IMAGE_HIGH - IMAGE_LOW) ** 2 / square)).mean())
