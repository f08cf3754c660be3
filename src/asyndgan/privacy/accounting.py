"""What differential privacy was spent at a site, in all runs; it only grows.

The mechanism is the Gaussian one on a Poisson sample of the site's patients (DP-SGD, Abadi et al.
2016; `asyndgan.training.private`), or on the whole cohort (sampling rate 1: noised feedback). Its
guarantee is for one patient whose cases count or do not; how many patients there are is public
("zero-out" neighbours, Ponomareva et al. 2023, section 2.1), since the sampling rate is made of it.
Composed numerically by privacy random variables (Gopi et al. 2021, as Opacus implements them);
tests hold it against dp-accounting's privacy loss distributions.
"""

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np

from asyndgan.errors import PolicyError
from asyndgan.privacy.ledger import Ledger
from asyndgan.recipe import Recipe
from asyndgan.texts import bounded_text, parsed_json, replace_text

LARGE: Final = 50.0
"""Epsilon from which on nobody needs it exactly: a plainer bound does, without large arrays."""

EPSILON_ERROR: Final = 0.01
"""How exactly the accountant computes; it errs to the safe side."""


@final
@dataclass(frozen=True)
class Mechanism:
    """One noisy look at a site's patients.

    Attributes:
        noise: standard deviation of the noise, in units of the most that one patient changes.
        rate: probability with which each patient takes part.
    """

    noise: float
    rate: float


def mechanism_of(recipe: Recipe, patients: int) -> Mechanism | None:
    """What a recipe uses at a site with so many patients; None: nothing is private."""
    section = recipe.privacy
    if section.kind == "none":
        return None
    rate = 1.0 if section.kind == "feedback" else min(1.0, section.patients / patients)
    return Mechanism(section.noise, rate)


def uses_a_step(recipe: Recipe) -> int:
    """How often an answer uses it."""
    return recipe.privacy.updates if recipe.privacy.kind == "discriminator" else 1


def epsilon_of(spent: dict[Mechanism, int], delta: float) -> float:
    """Epsilon of mechanisms, each used so many times; infinite without noise.

    Args:
        spent: how often each was used.
        delta: above 0, below 1.
    """
    used = {mechanism: count for mechanism, count in spent.items() if count}
    if not used:
        return 0.0
    if any(mechanism.noise <= 0 for mechanism in used):
        return math.inf
    # Takes a second that only private runs need.
    from opacus.accountants import PRVAccountant, RDPAccountant

    # Renyi's accountant only sizes the grid; its advice would be taken for ours.
    warnings.filterwarnings("ignore", "Optimal order is the")
    warnings.filterwarnings("ignore", "Discrete mean differs")
    history = [(one.noise, one.rate, count) for one, count in used.items()]
    rough, exact = RDPAccountant(), PRVAccountant()
    rough.history = exact.history = history
    with np.errstate(all="ignore"):  # logarithms of zero on the grid's rim
        try:
            bound = float(rough.get_epsilon(delta))
        except (ArithmeticError, ValueError):
            return math.inf
        if not bound <= LARGE:
            return math.inf if math.isnan(bound) else bound
        try:
            return min(bound, float(exact.get_epsilon(delta, eps_error=EPSILON_ERROR)))
        except (ArithmeticError, MemoryError, RuntimeError, ValueError):
            return bound  # which holds as well


def most_uses(
    spent: dict[Mechanism, int], mechanism: Mechanism, *, epsilon: float, delta: float
) -> int:
    """How many more times a mechanism may be used before `epsilon` is exceeded.

    Args:
        spent: so far.
        mechanism: to use.
        epsilon: not to exceed.
        delta: of that epsilon.
    """

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
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low


@final
class Account:
    """A site's budget, kept in a file and written before each use.

    A use counts when it is announced, so a crash loses none, and going back to an earlier
    checkpoint gives nothing back: what has left has left.

    Args:
        path: of the file; None: nowhere, as in tests.
        mechanism: of this run; None: there is none.
        epsilon: not to exceed, over all runs; None: no limit.
        delta: of that epsilon.

    Raises:
        PolicyError: the file is not one of these.
    """

    def __init__(
        self,
        path: Path | None,
        mechanism: Mechanism | None,
        *,
        epsilon: float | None,
        delta: float,
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

    def check_against(self, ledger: Ledger, *, unprotected_masks: bool) -> None:
        """Sees that the ledger shows nothing that this account does not cover.

        Args:
            ledger: of the same site.
            unprotected_masks: whether the policy lets masks leave in the clear all the same.

        Raises:
            PolicyError: something left without privacy although it is asked for now, or more was
                spent than the account says.
        """
        if self.limit is None:
            return
        left = {
            k: count for k, count in ledger.bare.items() if k != "masks" or not unprotected_masks
        }
        if left:
            shown = ", ".join(f"{count} messages with {kind}" for kind, count in left.items())
            raise PolicyError(
                f"{ledger.path.name} shows {shown} that left without privacy, so none can be "
                "promised to these patients any more."
            )
        if ledger.epsilon > self.epsilon() * 1.06 + EPSILON_ERROR:  # which it may run ahead by
            raise PolicyError(
                f"{ledger.path.name} shows an epsilon of {ledger.epsilon:.3g}, the account only "
                f"{self.epsilon():.3g}. Put back the file that the site wrote."
            )

    def charge(self, uses: int) -> None:
        """Announces uses of this run's mechanism.

        Raises:
            PolicyError: the budget does not allow them; nothing was used.
        """
        if not self.mechanism or not uses:
            return
        if uses > self._left:
            raise PolicyError("this site's privacy budget is spent.")
        self._left -= uses
        self.spent[self.mechanism] = self.spent.get(self.mechanism, 0) + uses
        if self.path:
            self._write(self.path)

    def epsilon(self) -> float:
        """Spent in all, from above: computed anew whenever the uses have grown by a twentieth."""
        uses = sum(self.spent.values())
        if uses > self._shown[0]:
            ahead = uses + int(min(uses // 20, self._left))
            spent = dict(self.spent)
            if self.mechanism in spent:
                spent[self.mechanism] += ahead - uses
            self._shown = ahead, epsilon_of(spent, self.delta)
        return self._shown[1]

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"noise": one.noise, "rate": one.rate, "uses": uses} for one, uses in self.spent.items()
        ]
        replace_text(path, json.dumps(rows))

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
