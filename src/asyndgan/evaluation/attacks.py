"""What a coordinator that paints what it likes can read out of a site."""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Images
from asyndgan.errors import ProtocolError
from asyndgan.protocol import Endpoint
from asyndgan.wire import ANSWERS, Card, Judge, Judgement, Message, Open, pack, unpack
from asyndgan.wire.codec import Coding

Ask = Callable[[Images], Tensor]
"""Feedback on these images, always for the same conditions."""


def bisected(ask: Ask, shape: tuple[int, ...], *, questions: int = 10) -> Images:
    """The images that an L1 term in a site's loss compares with, pixel by pixel.

    The gradient of |synthetic - target| is its sign: positive where the synthetic pixel is
    brighter. Each question halves the range in which every pixel lies, all at once.

    Args:
        ask: gives feedback.
        shape: of the images.
        questions: how many; each gives one bit of every pixel.

    Returns:
        The middle of what is left of each range. Where the loss has no L1 term it shows what the
        discriminator would rather see.
    """
    low, high = torch.full(shape, IMAGE_LOW), torch.full(shape, IMAGE_HIGH)
    for _ in range(questions):
        middle = (low + high) / 2
        brighter = ask(middle) > 0
        low, high = torch.where(brighter, low, middle), torch.where(brighter, middle, high)
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
        card = self._opened()
        request = Judge(run=card.run, step=card.step, batch=card.batch, images=images)
        answer = self._asked(request)
        if not isinstance(answer, Judgement):
            raise ProtocolError(
                f"the site did not judge: {getattr(answer, 'reason', answer.kind)}."
            )
        return answer.feedback

    def _opened(self) -> Card:
        card = self._asked(self.opening)
        if not isinstance(card, Card):
            raise ProtocolError(f"the site did not open: {getattr(card, 'reason', card.kind)}.")
        return card

    def _asked(self, request: Message) -> Message:
        payload = pack(request, {"images": self.images}, level=1)
        return unpack(self.endpoint.answer(payload), ANSWERS, limit=self.limit)


def psnr(images: Images, other: Images) -> float:
    """Peak signal-to-noise ratio in decibels of images in [-1, 1], mean over images."""
    square = (images - other).square().flatten(1).mean(1).clamp(min=1e-12)
    return float((10 * torch.log10((IMAGE_HIGH - IMAGE_LOW) ** 2 / square)).mean())
