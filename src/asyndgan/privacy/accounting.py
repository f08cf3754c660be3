"""Accounts for the differential privacy that a site has spent in all runs; the total only grows.

The mechanism adds Gaussian noise to a Poisson sample of the site's patients (DP-SGD, Abadi et al.
2016; `training.private`). Neighbouring cohorts differ in whether one patient's cases count; the
number of patients is public ("zero-out" neighbours, Ponomareva et al. 2023, section 2.1).
Uses are composed numerically by privacy random variables (Gopi et al. 2021, by Opacus).
"""

import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, final

import numpy as np

from asyndgan.errors import PolicyError, WithheldError
from asyndgan.privacy.ledger import FEEDBACK, MASKS, Tally
from asyndgan.recipe import Recipe
from asyndgan.texts import bounded_text, parsed_json, replace_text

LARGE: Final = 50.0  # epsilon above which the Renyi bound, of small arrays, is enough
ORDERS: Final = (1.05, 1.1, 1.25, 1.5, 1.75, *range(2, 64))  # whole ones are fast

EPSILON_ERROR: Final = 0.01
"""Largest error of a computed epsilon of up to `MANY` uses; it is never too small. Beyond, it grows
with the root of their number: else arrays would, and noise might be chosen to stall a site."""

MANY: Final = 10_000

FINELY: Final = 1000  # `most_uses` is at most one part in so many too few


@final
@dataclass(frozen=True)
class Mechanism:
    """One noisy look at a site's patients."""

    # standard deviation of the noise, in units of the most that one patient can change
    noise: float
    rate: float  # probability with which each patient is drawn


def mechanism_of(recipe: Recipe, patients: int) -> Mechanism | None:
    """The mechanism of a recipe at a site with so many patients; None: nothing is private."""
    section = recipe.privacy
    if section.kind == "none":
        return None
    return Mechanism(section.noise, min(1.0, section.patients / patients))


def epsilon_of(spent: dict[Mechanism, int], delta: float) -> float:
    """Epsilon spent by mechanisms, each used a number of times; infinite without noise."""
    used = {mechanism: count for mechanism, count in spent.items() if count}
    if not used:
        return 0.0
    if any(mechanism.noise <= 0 for mechanism in used):
        return math.inf
    return _composed(tuple(used.items()), delta)


@lru_cache(4096)
def _composed(used: tuple[tuple[Mechanism, int], ...], delta: float) -> float:
    """Cached result of `epsilon_of`: it takes a second, and searches ask often."""
    # Slow to import; only private runs need it.
    from opacus.accountants import PRVAccountant, RDPAccountant

    # Opacus's advice on its accountants would be taken for ours.
    warnings.filterwarnings("ignore", "Optimal order is the")
    warnings.filterwarnings("ignore", "Discrete mean differs")
    history = [(one.noise, one.rate, count) for one, count in used]
    rough, exact = RDPAccountant(), PRVAccountant()
    rough.history = exact.history = history
    with np.errstate(all="ignore"):  # logarithms of zero at the edge of the grid
        try:
            bound = float(rough.get_epsilon(delta, [*ORDERS]))
        except (ArithmeticError, ValueError):
            return math.inf
        if not bound <= LARGE:
            return math.inf if math.isnan(bound) else bound
        error = EPSILON_ERROR * math.sqrt(max(1.0, sum(count for _, count in used) / MANY))
        try:
            return min(bound, float(exact.get_epsilon(delta, eps_error=error)))
        except (ArithmeticError, MemoryError, RuntimeError, ValueError):
            return bound  # which is valid too, only looser


def most_uses(
    spent: dict[Mechanism, int], mechanism: Mechanism, *, epsilon: float, delta: float
) -> int:
    """How many more times a mechanism may surely be used within `epsilon`; at most 2**24."""

    def within(uses: int) -> bool:
        more = spent | {mechanism: spent.get(mechanism, 0) + uses}
        return epsilon_of(more, delta) <= epsilon

    if not within(1):
        return 0
    low, high = 1, 2
    while within(high):
        low, high = high, 2 * high
        if high > 2**24:
            return low
    while high - low > max(1, low // FINELY):
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low


@final
class Account:
    """A site's budget, kept in a file (None: tests) and written before each use.

    A use counts as soon as it is announced: a crash loses none, and going back refunds nothing.
    Without `epsilon` there is no limit. Raises `PolicyError` if the file is no account.
    """

    def __init__(
        self, path: Path | None, mechanism: Mechanism | None, *, epsilon: float | None, delta: float
    ) -> None:
        self.path = path
        self.mechanism = mechanism
        self.limit = epsilon
        self.delta = delta
        self.spent: dict[Mechanism, int] = {}
        if path and path.exists():
            self._read(path)
        self._left = math.inf
        if epsilon is not None and mechanism:
            self._left = most_uses(self.spent, mechanism, epsilon=epsilon, delta=delta)
        self._shown: tuple[int, float] = (-1, 0.0)

    def check_against(self, left: Tally, *, unprotected_masks: bool) -> None:
        """Raises `PolicyError` if a ledger shows what this account does not cover.

        That is, something that left without privacy, or more spent; nothing without a limit on
        epsilon.
        """
        if self.limit is None:
            return
        masks = left.bare[MASKS] if unprotected_masks else 0
        bare = left.bare - Counter({FEEDBACK: left.charged, MASKS: masks})
        if bare:
            shown = ", ".join(f"{count} messages with {kind}" for kind, count in bare.items())
            raise PolicyError(
                f"{left.name} shows {shown} that left without privacy, so none can be "
                "promised to these patients any more."
            )
        if left.uses > self.uses():
            raise PolicyError(
                f"{left.name} shows {left.uses} uses of private mechanisms, the account "
                f"only {self.uses()}. Put back the file that the site wrote."
            )

    def charge(self, uses: int) -> None:
        """Announces uses of this run's mechanism; raises `PolicyError` if the budget is spent."""
        if not self.mechanism or not uses:
            return
        if uses > self._left:
            raise WithheldError("this site's privacy budget is spent.")
        spent = {**self.spent, self.mechanism: self.spent.get(self.mechanism, 0) + uses}
        if self.path:
            _write(self.path, spent)
        # Only what is on disk counts: the ledger must never be ahead of the file.
        self.spent = spent
        self._left -= uses

    def uses(self) -> int:
        """Number of uses charged in all, of all mechanisms."""
        return sum(self.spent.values())

    def epsilon(self) -> float:
        """Upper bound of what was spent in all; recomputed whenever uses grow by a twentieth."""
        uses = self.uses()
        if uses > self._shown[0]:
            ahead = uses + int(min(uses // 20, self._left))
            spent = dict(self.spent)
            if self.mechanism in spent:
                spent[self.mechanism] += ahead - uses
            self._shown = ahead, epsilon_of(spent, self.delta)
        return self._shown[1]

    def _read(self, path: Path) -> None:
        try:
            rows = parsed_json(bounded_text(path))
            for row in rows:
                mechanism = Mechanism(float(row["noise"]), float(row["rate"]))
                self.spent[mechanism] = int(row["uses"])
        except (OSError, ArithmeticError, ValueError, KeyError, TypeError) as error:
            raise PolicyError(
                f"{path.name} does not say what privacy was spent; nothing may be promised with "
                "it. Put back the file that the site wrote."
            ) from error


def _write(path: Path, spent: Mapping[Mechanism, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"noise": one.noise, "rate": one.rate, "uses": uses} for one, uses in spent.items()]
    replace_text(path, json.dumps(rows))
