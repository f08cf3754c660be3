"""Paired differences of Dice between the models of a suite, of all patients and of groups."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from asyndgan.data import Case
from asyndgan.judging.bench import mean, paired, paired_ratio
from asyndgan.judging.metrics import PatientScore, bootstrap_interval
from asyndgan.judging.table import ADDED, SITE_PREFIX, SYNTHETIC, Evaluation
from asyndgan.suites.result import Difference
from asyndgan.suites.suite import ModelSection, SetSection

_SCORES = ("dice", "hd95", "assd")


def apart(
    part: SetSection, evaluation: Evaluation, judged: Sequence[Case]
) -> Iterator[dict[str, Any]]:
    """Rows for groups of patients reported apart, such as those of a hospital that is no site."""
    for heading, chosen in groups_of(part, judged).items():
        for name, scores in evaluation.per_patient.items():
            own = [scores[part.label][place] for place in chosen]
            low, high = bootstrap_interval([score.dice for score in own])
            yield {
                "apart": heading,
                "model": name,
                "label": part.label,
                "patients": sum(not math.isnan(score.dice) for score in own),
                **{key: mean([getattr(one, key) for one in own]) for key in _SCORES},
                "dice_low": low,
                "dice_high": high,
            }


def groups_of(part: SetSection, judged: Sequence[Case]) -> dict[str, list[int]]:
    """Places of the patients of each group among all who are judged, in the order of scores."""
    patients = list(dict.fromkeys(case.patient for case in judged))
    patterns = part.apart
    if part.by_site:  # held-out patients are named `site/patient`
        patterns = {f"of {site}": re.escape(site) + "/.*" for site in part.sites}
    return {
        heading: [place for place, name in enumerate(patients) if re.fullmatch(pattern, name)]
        for heading, pattern in patterns.items()
    }


def differences(
    part: SetSection, model: ModelSection, evaluation: Evaluation
) -> Iterator[Difference]:
    """Differences of the synthetic cases from each other model, and of the augmented models."""
    scores = {name: own[part.label] for name, own in evaluation.per_patient.items()}

    def difference(name: str, over: str) -> Difference:
        return _difference(
            part, model.name, name, over, dice_of(scores[name]), dice_of(scores[over])
        )

    if all(math.isnan(score.dice) for score in scores[SYNTHETIC]):
        return  # no patient has the label
    for over in scores:
        if over != SYNTHETIC and not over.endswith(ADDED):
            yield difference(SYNTHETIC, over)
    augmented = [name for name in scores if name.endswith(ADDED)]
    alone = [name.removesuffix(ADDED) for name in augmented]
    if augmented and all(name in scores for name in alone):
        for name, over in zip(augmented, alone, strict=True):
            yield difference(name, over)
        yield _difference(
            part,
            model.name,
            f"every {SITE_PREFIX}NAME{ADDED}",
            f"{SITE_PREFIX}NAME",
            _over_models(scores, augmented),
            _over_models(scores, alone),
        )


def between_recipes(
    part: SetSection,
    evaluations: Mapping[str, Evaluation],
    judged: Sequence[Case],
    against: Mapping[str, str],
) -> Iterator[Difference]:
    """Differences between the synthetic cases of each recipe and those of the suite's first.

    Also those of the recipe that a model is to be compared with. Of all patients, then of each
    group that is reported apart.
    """
    scores = {
        name: dice_of(evaluation.per_patient[SYNTHETIC][part.label])
        for name, evaluation in evaluations.items()
    }
    first, *others = scores
    pairs = [(name, first) for name in others] + list(against.items())
    everyone = list(range(len(scores[first])))
    for apart, chosen in {"": everyone, **groups_of(part, judged)}.items():
        for name, other in dict.fromkeys(pairs):
            own, over = ([scores[one][place] for place in chosen] for one in (name, other))
            found = _difference(part, name, SYNTHETIC, f"{SYNTHETIC} of {other}", own, over)
            if found.patients:  # else nobody has the label
                yield replace(found, apart=apart)


def dice_of(scores: Sequence[PatientScore]) -> list[float]:
    """Dice of each patient; nan where the patient does not have the label."""
    return [score.dice for score in scores]


def _difference(
    part: SetSection,
    recipe: str,
    model: str,
    over: str,
    scores: Sequence[float],
    others: Sequence[float],
) -> Difference:
    return Difference(
        part.name, recipe, model, over, part.label,
        *paired(scores, others), *paired_ratio(scores, others),
    )  # fmt: skip


def _over_models(
    scores: Mapping[str, Sequence[PatientScore]], models: Sequence[str]
) -> list[float]:
    """Dice of each patient, averaged over models."""
    return [
        mean([score.dice for score in of_patient])
        for of_patient in zip(*(scores[name] for name in models), strict=True)
    ]


def interval(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean of the values that are not nan, and its 95 % interval, as keys of a row."""
    counted = [value for value in values if not math.isnan(value)]
    low, high = bootstrap_interval(counted)
    return {name: mean(counted), f"{name}_low": low, f"{name}_high": high}
