"""Lower bounds of epsilon, from how well members were distinguished from others."""

import math
from typing import Any, Final

from asyndgan.lazy import Late

stats: Any = Late("scipy.stats")  # a second that most commands need not wait for

ERROR: Final = 0.05
"""Probability that a bound is too high."""


def epsilon_of_guesses(correct: int, guesses: int, candidates: int, *, delta: float) -> float:
    """Lower bound of epsilon from one training with about half of many candidates.

    The method is that of Steinke et al. 2023. Each candidate took part with probability 1/2. Under
    (epsilon, delta)-differential privacy the number of correct guesses hardly exceeds a binomial
    one with probability 1 / (1 + exp(-epsilon)) (theorem 5.2).

    Args:
        correct: number of correct guesses.
        guesses: number of candidates for whom it was guessed whether they took part.
        candidates: number of all candidates.
        delta: delta of the guarantee.

    Returns:
        A lower bound of epsilon that holds with 95 % confidence; 0 if nothing can be shown.
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
    slack = total = 0.0
    for fewer in range(1, correct + 1):
        total += float(stats.binom.pmf(correct - fewer, guesses, right))
        slack = max(slack, total / fewer)
    return float(stats.binom.sf(correct - 1, guesses, right)) + 2 * candidates * delta * slack
