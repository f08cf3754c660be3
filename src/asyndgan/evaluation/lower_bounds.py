"""How much privacy was lost at the least, from how well members were told from others."""

import math
from typing import Final

from scipy.stats import beta, binom

ERROR: Final = 0.05
"""Probability with which a bound is too high."""


def epsilon_of_rates(
    hits: int, members: int, false_alarms: int, others: int, *, delta: float
) -> float:
    """Epsilon that is left after many trainings with a patient and many without.

    (epsilon, delta) promises: rate of hits <= exp(epsilon) * rate of false alarms + delta (Kairouz
    et al. 2015). Each rate is taken from the worse end of its Clopper-Pearson interval.

    Args:
        hits: trainings with the patient that were taken for such.
        members: trainings with the patient.
        false_alarms: trainings without that were taken for one with.
        others: trainings without.
        delta: that is promised.

    Returns:
        A lower bound of epsilon that is right with 95 % confidence; 0 where nothing is shown.
    """
    least = float(beta.ppf(ERROR / 2, hits, members - hits + 1)) if hits else 0.0
    most = 1.0
    if false_alarms < others:
        most = float(beta.ppf(1 - ERROR / 2, false_alarms + 1, others - false_alarms))
    return max(0.0, math.log((least - delta) / most)) if least > delta else 0.0


def epsilon_of_guesses(correct: int, guesses: int, candidates: int, *, delta: float) -> float:
    """Epsilon that is left after one training with half of many candidates (Steinke et al. 2023).

    Each candidate took part by the toss of a coin. Under (epsilon, delta) the number of correct
    guesses is hardly larger than a binomial one of probability 1 / (1 + exp(-epsilon)) (theorem
    5.2).

    Args:
        correct: guesses that were right.
        guesses: who took part and who did not; for the others nobody guessed.
        candidates: in all.
        delta: that is promised.

    Returns:
        A lower bound of epsilon that is right with 95 % confidence; 0 where nothing is shown.
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
    """The most that so many correct guesses may be likely."""
    right = 1 / (1 + math.exp(-epsilon))
    slack = total = 0.0
    for fewer in range(1, correct + 1):
        total += float(binom.pmf(correct - fewer, guesses, right))
        slack = max(slack, total / fewer)
    return float(binom.sf(correct - 1, guesses, right)) + 2 * candidates * delta * slack
