"""Whether training on the real cases would gain from 50 % more steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

from asyndgan.errors import DataError
from asyndgan.judging.bench import Bench, Judged, pooled
from asyndgan.judging.metrics import ScoreArray, average, known, mean
from asyndgan.store import Case
from asyndgan.store.splits import hold_out_of

HELD_OUT: Final = 0.2
"""Fraction of each site's patients that a budget is judged on, never on test patients."""

LONGER: Final = 1.5


@final
@dataclass(frozen=True)
class Levelling:
    """One label: mean Dice over held-out patients after `steps` of the budget, and after more."""

    label: str
    steps: int
    longer_steps: int
    dice: float
    longer_dice: float
    difference: float
    patients: int
    seeds: int


def held_out(
    sites: Mapping[str, Sequence[Case]],
) -> tuple[dict[str, Sequence[Case]], list[Case]]:
    """The sites' remaining cases, and all held-out ones; raises `DataError` if there are none."""
    training: dict[str, Sequence[Case]] = {}
    validation: list[Case] = []
    for site, cases in sites.items():
        training[site], own = hold_out_of(cases, part=HELD_OUT)
        validation += [replace(case, patient=f"{site}/{case.patient}") for case in own]
    if not validation:
        raise DataError("no site has a patient to spare, so the budget cannot be checked.")
    return training, validation


def levelled_off(
    sites: Mapping[str, Sequence[Case]], judged: Judged, bench: Bench
) -> tuple[Levelling, ...]:
    """Trains on all real cases for the budget and for 50 % more steps; one result per target.

    The cases of `judged` take no part.

    Raises:
        DataError, NotFiniteError: as `Bench.scores`, or no site has a patient to spare.
    """
    budget, seeds = bench.budget, len(bench.seeds)
    longer = replace(budget, steps=math.ceil(LONGER * budget.steps))
    training, validation = held_out(sites)
    judged, together = replace(judged, cases=validation), [pooled(training)] * seeds
    results, found = [], list[dict[str, ScoreArray]]()
    for name, own in (("budget check", budget), ("budget check, longer", longer)):
        found += replace(bench, budget=own).scores({name: together}, judged).scores.values()
    for name in judged.names():
        dice = [average(scores[name])[:, 0] for scores in found]
        before, after = map(mean, dice)
        shown = (before, after, after - before, known(dice[0]), seeds)
        results.append(Levelling(name, budget.steps, longer.steps, *shown))
    return tuple(results)
