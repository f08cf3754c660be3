"""The synthetic images that arrive at a site: are they any, and did they come before?"""

import hashlib
from typing import Final, final

import torch

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Images
from asyndgan.errors import NotFiniteError, ProtocolError

CODING_ERROR: Final = 1e-3  # How far rounding on the wire may take an image beyond its range
KEPT_DIGESTS: Final = 2**18  # images that a site remembers, to note what is asked again


def check_range(images: Images, what: str) -> None:
    """Refuses images that no generator paints, before anything is learned from them.

    The discriminator would not recover from some, and others might reveal something of patients.
    Raises `NotFiniteError` or `ProtocolError`.
    """
    if not torch.isfinite(images).all():
        raise NotFiniteError(f"{what} are not finite.")
    beyond = float(images.abs().max()) - IMAGE_HIGH
    if beyond > CODING_ERROR:
        raise ProtocolError(
            f"{what} lie outside {IMAGE_LOW:g} to {IMAGE_HIGH:g}, which no generator paints."
        )


@final
class Arrivals:
    """Remembers which images came in which step, also of another run."""

    def __init__(self) -> None:
        self._came: dict[bytes, int] = {}

    def count(self, images: Images, step: int) -> int:
        """How many of these images came in another step before, such as one that was lost."""
        known = self._came
        digests = [hashlib.sha256(each.detach().numpy().tobytes()).digest() for each in images]
        count = sum(known.get(digest, step) != step for digest in digests)
        for digest in digests:
            known.setdefault(digest, step)
        while len(known) > KEPT_DIGESTS:
            known.pop(next(iter(known)))
        return count
