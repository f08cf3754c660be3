"""Search for near copies of training patients among synthetic images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from asyndgan.auditing.distances import thumbnails, to_next_patient
from asyndgan.auditing.membership import LEVEL
from asyndgan.auditing.schema import Number, Whole
from asyndgan.errors import DataError
from asyndgan.judging.metrics import fraction_interval
from asyndgan.store import Case

SAME: Final = 1e-6
"""Mean squared difference below which two images are one."""

FLAT: Final = 0.05
"""Standard deviation of an image in which there is nothing to recognise."""

COPY: Final = 0.2
"""Relative distance below which an image is taken for a copy: a 25th of the squared difference to
the next patient. `default` came no nearer than 0.32, generators overfitted on purpose to 0.07."""

TAIL: Final = 10
"""Most patients whose distances say how fast ever smaller distances become rare."""


@final
@dataclass(frozen=True)
class NearCopies:
    """Whether a synthetic image lies nearer to a member than patients resemble each other.

    Distances are relative to that of the next other patient's image: 0 is a copy, 1 an image as
    near as patients come.
    """

    found: Whole  # members to whom a synthetic image comes too near
    nearest: Number  # smallest distance of a member to a synthetic image
    nearest_other: Number  # smallest distance of another patient
    p_value: Number  # of the one-sided test that `nearest` is too small
    members: Whole
    others: Whole

    def __post_init__(self) -> None:
        if not 0 < self.members >= self.found:
            raise ValueError("more are found than there are members")

    @property
    def passes(self) -> bool:
        """Whether a set may be released as far as near copies are concerned; nan counts as no.

        However near the others are: they may be members of a site that this audit does not name.
        """
        near = min(self.nearest, self.nearest_other)
        return not self.found and self.p_value >= LEVEL and near >= COPY

    @property
    def most(self) -> float:
        """Upper end of the 95 % interval of the fraction of patients who are copied."""
        return fraction_interval(self.found, self.members)[1]

    @property
    def verdict(self) -> str:
        """A sentence for readers without statistical training."""
        found = (
            f"the smallest distance of a synthetic image is {self.nearest:.2f} to a member and "
            f"{self.nearest_other:.2f} to another patient, where 0 is a copy, 1 is how far that "
            f"patient is from the most similar fellow patient, and below {COPY:g} counts as a copy"
        )
        if self.found:
            if self.nearest >= COPY:
                found = f"too near to be chance (p {self.p_value:.3f}), {found}"
            return (
                f"NEAR COPIES of {self.found} of {self.members} members: {found}; up to "
                f"{self.most:.0%} of such patients may be copied (97.5 % confidence)"
            )
        if not self.passes:
            return f"NEAR COPIES of others, so the generator learned from them elsewhere: {found}"
        return (
            f"no near copy of the {self.members} members, mirrored or not (turned, scaled or "
            f"shifted ones are not searched for): {found}"
        )


def near_copies(members: NDArray[np.float64], others: NDArray[np.float64]) -> NearCopies:
    """Searches for near copies of members, with a rate of false alarms of at most `LEVEL`.

    An image nearer than `COPY` always counts as a copy. Without copies a member is nearer than the
    k-th nearest of n others with probability k / (n + 1). Beyond that, small distances follow a
    power law (Levina and Bickel 2005), so their logarithms are exponential (Hill 1975), and the k -
    1 nearer others say how fast they fall off. The bound over all members is Bonferroni's.
    Distances are the smallest ones of each patient, 0 or more; those of two others at least.
    """
    near, far = (-np.log(np.clip(group, 1e-6, None)) for group in (members, others))
    far = np.sort(far)[::-1]
    tail = max(1, min(TAIL, len(far) // 2))
    spread = max(float((far[:tail] - far[tail]).sum()), 1e-12)
    beyond = np.clip(near - far[tail], 0, None) / spread
    p_values = len(near) * (tail + 1) / (len(far) + 1) * (1 + beyond) ** -tail
    p_values[beyond == 0] = 1.0
    copied = (p_values < LEVEL) | (members < COPY)
    return NearCopies(
        int(copied.sum()), float(members.min()), float(others.min()),
        min(1.0, float(p_values.min())), len(members), len(others),
    )  # fmt: skip


def check_once(real: Sequence[Case]) -> None:
    """Refuses cases of two patients with one image, mirrored or not.

    They would make the groups alike, or a copy look as near as the next patient.
    """
    # Empty slices are the same in everybody, whatever a modality's background is.
    varied = thumbnails(real).flatten(2).std(dim=2).amax(dim=1) > FLAT
    twice = int(((to_next_patient(real) < SAME) & varied).sum())
    if twice:
        raise DataError(
            f"{twice} cases have an image that another patient has as well, so an audit could not "
            "tell members from others, nor copies from patients. Take out who is there twice."
        )
