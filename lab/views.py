"""Views of a suite's scores: the tables that `suite.json` holds of them (see `SuiteResult`)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asyndgan.judging.compare import row_of
from asyndgan.judging.metrics import (
    average,
    known,
    mean,
    paired,
    paired_ratio,
)
from asyndgan.judging.table import ADDED, REAL_ALL, SITE_PREFIX, SYNTHETIC
from lab.scores import Found, Key, interval
from lab.suite import PaintingSection, SetSection, Suite

Row = dict[str, Any]
Groups = Mapping[str, Mapping[str, Sequence[int]]]
"""Positions of the patients of each group that a set reports apart, by set and heading."""

Dice = NDArray[np.float64]
"""Dice of each patient, averaged over seeds."""


def views(suite: Suite, found: Found, groups: Groups, costs: Sequence[Row]) -> dict[str, list[Row]]:
    """The views of a suite's scores, by their keys in `suite.json`.

    Args:
        suite: the suite.
        found: its scores.
        groups: the groups of patients that are reported apart.
        costs: `seconds` and `bytes` by `set`, `recipe` and `model`.
    """
    rows = {key: _row(suite, found, key) for key in found}
    cost = {(one["set"], one["recipe"], one["model"]): one for one in costs}
    unknown = {"seconds": None, "bytes": None}
    main = [key for key in found if key.is_main]
    return {
        "rows": [rows[key] | cost.get((key.set, key.recipe, key.model), unknown) for key in main],
        "apart": list(_apart(suite, found, groups)),
        "differences": list(_differences(suite, found, groups)),
        "networks": list(_networks(suite, rows)),
        "paintings": list(_paintings(suite, rows)),
    }


def _row(suite: Suite, found: Found, key: Key) -> Row:
    cases, scores = found[key]
    _, real_all = found[key._replace(recipe="", painting="", model=REAL_ALL)]
    row = asdict(row_of(key.model, key.label, cases, scores, real_all))
    if key.is_main and key.model == SYNTHETIC and suite.seeds > 1:
        dice = scores[..., 0].reshape(suite.seeds, -1, scores.shape[1])
        row["trainings_low"], row["trainings_high"] = ratio_over_trainings(dice, real_all[..., 0])
    return {"set": key.set, "recipe": key.recipe, **row}


def _networks(suite: Suite, rows: Mapping[Key, Row]) -> Iterator[Row]:
    for part, recipe, network in product(suite.sets, suite.models, suite.networks):
        for own, model in (("", REAL_ALL), (recipe.name, SYNTHETIC)):
            row = rows[Key(part.name, own, network, "", model, part.label)]
            yield {**row, "recipe": recipe.name, "network": network}


def _paintings(suite: Suite, rows: Mapping[Key, Row]) -> Iterator[Row]:
    """A row for the default synthetic set, then one for each further synthetic set."""
    for part, recipe in product(suite.sets, suite.models):
        for painting in (PaintingSection(), *recipe.paintings) if recipe.paintings else ():
            own = painting.name(part)
            row = rows[Key(part.name, recipe.name, "unet", own, SYNTHETIC, part.label)]
            yield {**row, **painting.about(part)}


def _apart(suite: Suite, found: Found, groups: Groups) -> Iterator[Row]:
    labels = {part.name: part.label for part in suite.sets}
    for key, (_, scores) in found.items():
        if not key.is_main or key.label != labels[key.set]:
            continue
        for heading, patients in groups[key.set].items():
            dice, hd95, assd, _ = average(scores[:, patients]).T
            yield {
                "set": key.set, "recipe": key.recipe, "apart": heading, "model": key.model,
                "label": key.label, "patients": known(dice), **interval("dice", dice),
                "hd95": mean(hd95), "assd": mean(assd),
            }  # fmt: skip


def _differences(suite: Suite, found: Found, groups: Groups) -> Iterator[Row]:
    """Differences beside each recipe, then between recipes: of all patients and of each group."""
    for part in suite.sets:
        dice = {
            (key.recipe, key.model): average(scores)[:, 0]
            for key, (_, scores) in found.items()
            if key.is_main and (key.set, key.label) == (part.name, part.label)
        }
        for recipe in (model.name for model in suite.models):
            beside = {model: own for (of, model), own in dice.items() if of in ("", recipe)}
            for model, over, own, other in _beside(beside):
                yield _difference(part, recipe, model, over, own, other)
        first, *others = (model.name for model in suite.models)
        pairs = [(name, first) for name in others]
        pairs += [(model.name, model.against) for model in suite.models if model.against]
        everyone = range(len(dice[first, SYNTHETIC]))
        for heading, chosen in {"": everyone, **groups[part.name]}.items():
            for name, over in dict.fromkeys(pairs):
                own, other = (dice[one, SYNTHETIC][list(chosen)] for one in (name, over))
                row = _difference(part, name, SYNTHETIC, f"{SYNTHETIC} of {over}", own, other)
                if row["patients"]:  # else nobody has the label
                    yield {**row, "apart": heading}


def _beside(dice: Mapping[str, Dice]) -> Iterator[tuple[str, str, Dice, Dice]]:
    """Synthetic cases against every other model, and augmented models against plain ones."""
    if not known(dice[SYNTHETIC]):
        return  # no patient has the label
    augmented = {name: name.removesuffix(ADDED) for name in dice if name.endswith(ADDED)}
    pairs = [(SYNTHETIC, name) for name in dice if name not in (SYNTHETIC, *augmented)]
    for name, over in [*pairs, *augmented.items()]:
        yield name, over, dice[name], dice[over]
    if augmented:
        own, other = (
            average(np.array([dice[name] for name in names]))
            for names in (augmented.keys(), augmented.values())
        )
        yield f"every {SITE_PREFIX}NAME{ADDED}", f"{SITE_PREFIX}NAME", own, other


def _difference(
    part: SetSection, recipe: str, model: str, over: str, own: Dice, other: Dice
) -> Row:
    about = {"set": part.name, "recipe": recipe, "model": model, "over": over, "label": part.label}
    found = ("patients", "difference", "low", "high", "ratio", "ratio_low", "ratio_high")
    values = (*paired(own, other), *paired_ratio(own, other))
    return {**about, **dict(zip(found, values, strict=True)), "apart": ""}


def ratio_over_trainings(
    numerator: NDArray[np.float64],
    denominator: NDArray[np.float64],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """A 95 % percentile interval of mean(numerator) / mean(denominator), over trainings too.

    Generators, the networks of each, and patients are drawn with replacement (Davison and Hinkley
    1997, section 3.8). Generators are first moved apart, by sqrt(n / (n - 1)), since n of them lie
    nearer to their mean than to that of all possible ones. Of three that clearly differ, the
    interval still holds the true ratio in about 85 to 90 % of cases only.

    Args:
        numerator: values of [generators, networks, patients]; nan means not counted. There are
            several generators.
        denominator: values of [networks, patients], the same patients in the same order.
        draws: number of bootstrap resamples.
        seed: seed of the resamples.

    Returns:
        Low and high; both nan with fewer than two counted patients or if all denominators are 0.
    """
    counted = ~(np.isnan(numerator).any((0, 1)) | np.isnan(denominator).any(0))
    above, below = numerator[..., counted], denominator[:, counted]
    (generators, networks, patients), others = above.shape, len(below)
    if patients < 2 or not below.any():
        return math.nan, math.nan
    apart = above.mean((1, 2), keepdims=True) - above.mean()
    above = above + (math.sqrt(generators / (generators - 1)) - 1) * apart
    random = np.random.default_rng(seed)
    ratios = []
    for _ in range(draws):
        who = random.integers(patients, size=patients)
        each = random.integers(generators, size=(generators, 1))
        drawn = above[each, random.integers(networks, size=(generators, networks))]
        real = below[random.integers(others, size=others)][:, who].mean()
        ratios.append(drawn[..., who].mean() / real if real else math.nan)
    low, high = np.nanquantile(ratios, [0.025, 0.975])
    return max(0.0, float(low)), float(high)  # moved apart, a generator can lie below 0
