"""Membership inference: an attacker who has images of a patient infers whether they took part.

Each attack scores patients; the area under the ROC curve (AUC) is the probability that a random
member scores above a random other patient, 0.5 being chance.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import StrictBool
from torch import Tensor

from asyndgan.auditing.distances import by_patient, painting_gaps, pairwise, thumbnails
from asyndgan.auditing.schema import Number, Whole
from asyndgan.judging.metrics import area_under_curve
from asyndgan.lazy import Late
from asyndgan.runs import RunFolder
from asyndgan.store import Case
from asyndgan.texts import Line

stats: Any = Late("scipy.stats")  # a second that most commands need not wait for

DELTA: Final = 1e-5
"""Delta of the bounds of epsilon."""

ERROR: Final = 0.05
"""Probability that a lower bound of epsilon is too high."""

LEVEL: Final = 0.05
"""Significance level of the tests, and of the intervals (both ends together)."""

SURE: Final = 0.7
"""AUC that the interval must lie below before a set is released: with few patients, finding no
membership signal proves nothing."""


BY_MASK: Final = ("mask", "picture")
"""Names of the attacks on masks (`auditing.masks`)."""

ATTACKS: Final = ("painting", "nearest", "density", *BY_MASK)
"""Names of the attacks on a generator of images and the masks that it paints from."""


@final
@dataclass(frozen=True)
class Attack:
    """Result of one way of telling members from other patients.

    Names: `painting` (similarity of a patient's image to what the generator paints from their own
    mask), `nearest` (similarity to the nearest synthetic image), `density` (how many synthetic
    images are near), `mask` (overlap of the patient's mask with the nearest mask of the set) and
    `picture` (the same of a mask that is found in the image).
    """

    name: Line
    auc: Number  # area under the ROC curve over patients, with its 95 % bootstrap interval
    low: Number
    high: Number
    p_value: Number  # of the one-sided test (Mann and Whitney) that members score higher
    members: Whole
    others: Whole
    # lower bound of the generator's, valid if members were chosen by chance, as many as others
    epsilon: Number
    corrected: Number  # `p_value`, corrected for the number of attacks (Holm)
    explained: StrictBool  # whether another difference between the groups may explain the result

    @property
    def tells(self) -> bool:
        """Whether this attack by itself found a sign of membership; nan counts as yes."""
        return not self.p_value >= LEVEL

    @property
    def alarms(self) -> bool:
        """Whether members were distinguished from others, and by nothing but membership."""
        return not (self.corrected >= LEVEL or self.low <= 0.5 or self.explained)

    @property
    def comparable(self) -> bool:
        """Whether the members do not score reliably below others, as membership cannot cause."""
        return not self.high < 0.5

    @property
    def sure(self) -> bool:
        """Whether there are enough patients to rule out an AUC of `SURE` or more.

        An AUC below 0.5 counts as 0.5.
        """
        return max(self.auc, 0.5) + self.high - self.auc < SURE

    @property
    def passes(self) -> bool:
        """Whether a set may be released as far as this attack is concerned."""
        return self.comparable and self.sure and not self.tells and not self.explained

    def objection(self, decided: Callable[[str], str] = str) -> str:
        """Why a set may not be released as far as this attack is concerned; empty if it may."""
        if self.passes:
            return ""
        if not (self.tells or self.explained or not self.comparable):
            return f"TOO FEW PATIENTS to be sure of less than {SURE:g}: {self._found}"
        return f"{self.name}: {decided(self.verdict)}"

    @property
    def verdict(self) -> str:
        """A sentence for readers without statistical training."""
        if self.alarms:
            return f"MEMBERS CAN BE TOLD: {self._found}"
        if self.explained:
            return f"undecided, since members and others are not alike: {self._found}"
        if not self.comparable:
            return (
                "NOT COMPARABLE, members score below others, which membership cannot cause; take "
                f"others of the members' own hospitals: {self._found}"
            )
        if self.tells:
            return (
                f"undecided, a weak sign of membership that may be chance (p {self.corrected:.2f} "
                f"after correction for the number of attacks): {self._found}"
            )
        if not self.sure:
            return (
                "undecided, too few patients: no sign of membership, but the AUC may still be "
                f"{SURE:g} or more: {self._found}"
            )
        return f"no sign of membership: {self._found}"

    @property
    def _found(self) -> str:
        return (
            f"AUC {self.auc:.2f} (95 % interval {self.low:.2f} to {self.high:.2f}, 0.5 is "
            f"guessing; {self.members} members, {self.others} others)"
        )


def patient_scores(
    run: RunFolder, real: Sequence[Case], synthetic: Sequence[Case], gaps: Tensor | None = None
) -> dict[str, dict[str, float]]:
    """Membership score of each patient by attack, mean over the patient's cases; higher: member."""
    gaps = painting_gaps(run, real) if gaps is None else gaps
    apart = pairwise(thumbnails(real), thumbnails(synthetic))
    scale = float(apart.min(dim=1).values.median())
    by_case = {
        "painting": -gaps.min(dim=1).values,
        "nearest": -apart.min(dim=1).values,
        "density": torch.exp(-apart / max(scale, 1e-12)).mean(dim=1).log(),
    }
    return {
        name: {patient: float(mean) for patient, mean in by_patient(real, scores).items()}
        for name, scores in by_case.items()
    }


def attack(name: str, members: NDArray[np.float64], others: NDArray[np.float64]) -> Attack:
    """Computes an attack's statistics from its scores of patients, as if there were no other."""
    random = np.random.default_rng(0)
    drawn = [
        area_under_curve(random.choice(members, len(members)), random.choice(others, len(others)))
        for _ in range(2000)
    ]
    low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
    p_value = float(stats.mannwhitneyu(members, others, alternative="greater").pvalue)
    return Attack(
        name, area_under_curve(members, others), float(low), float(high), p_value,
        len(members), len(others), _epsilon(members, others, random), p_value, explained=False,
    )  # fmt: skip


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979); nan stays nan and counts as the smallest."""
    order = sorted(range(len(p_values)), key=lambda place: np.nan_to_num(p_values[place]))
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        value = p_values[place] * (len(p_values) - rank)
        least = max(least, 0.0 if math.isnan(value) else min(value, 1.0))
        corrected[place] = math.nan if math.isnan(value) else least
    return corrected


def _epsilon(
    members: NDArray[np.float64], others: NDArray[np.float64], random: np.random.Generator
) -> float:
    """Lower bound of epsilon, from guessing that the half with higher scores took part."""
    size = min(len(members), len(others))
    scores = np.concatenate(
        [random.choice(members, size, replace=False), random.choice(others, size, replace=False)]
    )
    # Ties are broken at random, not by order.
    guessed = np.lexsort((random.random(2 * size), scores))[size:]
    correct = 2 * int((guessed < size).sum())
    return epsilon_of_guesses(correct, 2 * size, 2 * size, delta=DELTA)


def epsilon_of_guesses(correct: int, guesses: int, candidates: int, *, delta: float) -> float:
    """Lower bound of epsilon, with 95 % confidence, from one training with half of many candidates.

    The method is that of Steinke et al. 2023. Each candidate took part with probability 1/2. Under
    (epsilon, delta)-differential privacy the number of correct guesses hardly exceeds a binomial
    one with probability 1 / (1 + exp(-epsilon)) (theorem 5.2).
    """
    low, high = 0.0, 20.0
    if _chance(low, correct, guesses, candidates, delta) > ERROR:
        return 0.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        beyond = _chance(middle, correct, guesses, candidates, delta) <= ERROR
        low, high = (middle, high) if beyond else (low, middle)
    return low


def _chance(epsilon: float, correct: int, guesses: int, candidates: int, delta: float) -> float:
    """Upper bound of the probability of at least `correct` correct guesses."""
    right = 1 / (1 + math.exp(-epsilon))
    fewer = np.arange(1, correct + 1)
    totals = stats.binom.pmf(correct - fewer, guesses, right).cumsum()
    slack = float((totals / fewer).max(initial=0.0))
    return float(stats.binom.sf(correct - 1, guesses, right)) + 2 * candidates * delta * slack
