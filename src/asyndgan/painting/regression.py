"""Linear regression between modalities: few parameters, so it holds on other images as well."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Image
from asyndgan.store import Case

FEWEST: Final = 100
"""Pixels from which a label has a regression of its own; fewer are fitted too closely."""


@final
@dataclass(frozen=True, eq=False)
class Regression:
    """Predicts each pixel's modalities from the others by least squares, separately for each label.

    Attributes:
        moments: second moments of the modalities and a constant 1, over the pixels of each label,
            (labels, channels + 1, channels + 1) in float64: all that any such regression is fitted
            to, whichever modalities are there.
    """

    moments: Tensor

    @classmethod
    def of(cls, complete: Sequence[Case], labels: int) -> "Regression":
        """Fits to cases with all modalities, whose masks have values below `labels`."""
        channels = len(complete[0].image)
        moments = torch.zeros(labels, channels + 1, channels + 1, dtype=torch.float64)
        for case in complete:
            pixels = F.pad(case.image.flatten(1).T.double(), (0, 1), value=1.0)
            place = case.mask.flatten()
            for label in place.unique().tolist():
                own = pixels[place == label]
                moments[label] += own.T @ own
        return cls(moments)

    def predicted(self, case: Case, *, masked: bool) -> Image:
        """Predicts all modalities [c, *sides] of a case from those that it has.

        If the mask is not known, and where its label was hardly ever seen, one regression serves
        all pixels.
        """
        weights = self._weights(case.present)
        place = case.mask if masked else torch.full_like(case.mask, len(self.moments))
        place = place.clamp(max=len(self.moments))
        pixels = F.pad(case.image.movedim(0, -1).double(), (0, 1), value=1.0)
        found = torch.einsum("...k,...kc->c...", pixels, weights[place])
        return found.clamp(IMAGE_LOW, IMAGE_HIGH).to(case.image)

    def _weights(self, present: tuple[bool, ...]) -> Tensor:
        """Weights of each label's regression, and of all pixels' as the last."""
        shown = torch.tensor([*present, True], dtype=torch.float64)
        together = self.moments.sum(0)
        seen = self.moments[:, -1, -1].ge(FEWEST)[:, None, None]
        moments = torch.cat([torch.where(seen, self.moments, together), together[None]])
        inputs = moments * shown[:, None] * shown  # what is absent has no weight
        return torch.linalg.pinv(inputs, hermitian=True) @ (moments * shown[:, None])[..., :-1]
