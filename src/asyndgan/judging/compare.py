"""Comparison of training sets by the segmentation networks trained on them.

Every model of a comparison has the same network, budget and augmentation
(`training/segmentation.py`) and is judged on the same real patients (`metrics.py`). Only the
training cases differ and, for FedAvg, how they are combined.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from asyndgan.judging.bench import Bench, Contenders, Judged, TrainingSet, pooled
from asyndgan.judging.figures import plot_examples
from asyndgan.judging.metrics import (
    ScoreArray,
    average,
    bootstrap_interval,
    known,
    mean,
    paired,
    paired_ratio,
)
from asyndgan.judging.table import (
    ADDED,
    REAL_ALL,
    SITE_PREFIX,
    SYNTHETIC,
    Evaluation,
    Gain,
    Overall,
    Row,
    Scores,
    of_single_sites,
    site_of,
)
from asyndgan.store.prepared import Case
from asyndgan.texts import counted


def contenders(
    sites: Mapping[str, Sequence[Case]], others: Contenders, *, seeds: int, augmented: bool
) -> dict[str, Sequence[TrainingSet]]:
    """Training sets of the models of a comparison, in the order of its table.

    If `augmented`, also each site's real cases with those of `synthetic` added. The real ones are
    repeated until they make up about half of the set.
    """
    models: dict[str, Sequence[TrainingSet]] = {REAL_ALL: [pooled(sites)] * seeds, **others}
    for name, cases in sites.items():
        models[SITE_PREFIX + name] = [cases] * seeds
    if augmented and SYNTHETIC in others:
        for name, cases in sites.items():
            models[SITE_PREFIX + name + ADDED] = [
                [*list(cases) * max(1, round(len(painted) / len(cases))), *painted]
                for painted in map(pooled, others[SYNTHETIC])
            ]
    return models


def compare(
    models: Contenders,
    judged: Judged,
    bench: Bench,
    *,
    about: Mapping[str, str],
    figures: bool = True,
) -> Evaluation:
    """Trains and judges any models, by training sets one per seed, or of the first seeds only.

    Predictions are cached, so a repetition with other labels trains only the missing networks. The
    bench's folder gets `evaluation.json`, with what `about` says, and with `figures` examples.

    Raises:
        DataError, NotFiniteError: as `Bench.scores`.
    """
    names = judged.names()
    found = bench.scores(models, judged)
    rows = tuple(
        row_of(
            model,
            name,
            len({id(case) for case in pooled(training_sets[0])}),  # a repeated case counts once
            found.scores[model][name],
            found.scores[REAL_ALL][name],
        )
        for name in names
        for model, training_sets in models.items()
    )
    overall = tuple(_overall(found.scores)) if len(names) > 1 else ()
    whole = "all labels" if judged.targets is None else f"{', '.join(names)} together"
    evaluation = Evaluation(
        headline="\n".join([*(_headline(name, rows) for name in names), *_summed(whole, overall)]),
        rows=rows,
        per_patient=found.scores,
        judged_on=judged.kind,
        budget=bench.budget,
        seeds=tuple(bench.seeds),
        about=about,
        gains=tuple(gain for name in names for gain in _gains(name, found.scores)),
        overall=overall,
    )
    evaluation.write(bench.out)
    if figures:
        shown = {name: judged.labels[name] for name in names}
        plot_examples(evaluation, judged.cases, found.masks, shown, bench.out)
    return evaluation


def _gains(label: str, scores: Scores) -> Iterator[Gain]:
    for model, own in scores.items():
        over = SITE_PREFIX + site_of(model)
        if not site_of(model) or of_single_sites(model) or over not in scores:
            continue
        dice, others = (average(both[label])[:, 0] for both in (own, scores[over]))
        yield Gain(model, over, label, *paired(dice, others))


def _overall(scores: Scores) -> Iterator[Overall]:
    """Each model's means over a patient's labels, then over patients."""
    dice = {
        model: np.stack([own[..., 0] for own in labels.values()])  # [labels, seeds, patients]
        for model, labels in scores.items()
    }
    # Over labels first, since a patient may lack some.
    iou = {model: average(average(one / (2 - one))) for model, one in dice.items()}
    for model, one in dice.items():
        ratio = paired_ratio(iou[model], iou[REAL_ALL])
        yield Overall(model, mean(average(average(one))), mean(iou[model]), *ratio)


def _summed(whole: str, overall: Sequence[Overall]) -> Iterator[str]:
    """The headline over several labels, named by `whole`; none without a synthetic model."""
    of_model = {one.model: one for one in overall}
    if SYNTHETIC not in of_model or math.isnan(of_model[SYNTHETIC].ratio):
        return
    synthetic, real = of_model[SYNTHETIC], of_model[REAL_ALL]
    single = [(one.ratio, one.iou) for one in overall if of_single_sites(one.model)]
    yield (
        f"{whole}: mean IoU {synthetic.ratio:.2f} ({synthetic.ratio_low:.2f} to "
        f"{synthetic.ratio_high:.2f}) of all-real ({synthetic.iou:.3f} against {real.iou:.3f})"
        + ("; the best single site {:.2f} ({:.3f})".format(*max(single)) if single else "")
    )


def row_of(model: str, label: str, cases: int, scores: ScoreArray, real_all: ScoreArray) -> Row:
    """The row of one model and label, from its scores and, for the ratio, those of `real-all`."""
    dice, hd95, assd, alarms = average(scores).T
    of_seeds = [mean(own) for own in scores[..., 0]]
    low, high = bootstrap_interval(dice)
    ratio, ratio_low, ratio_high = paired_ratio(dice, average(real_all)[:, 0])
    return Row(
        model=model, label=label, seeds=len(of_seeds), patients=known(dice), cases=cases,
        dice_mean=mean(dice), dice_low=low, dice_high=high, dice_least=min(of_seeds),
        dice_most=max(of_seeds), hd95_mean=mean(hd95), assd_mean=mean(assd),
        ratio=ratio, ratio_low=ratio_low, ratio_high=ratio_high,
        healthy=known(alarms), false_alarms=mean(alarms),
    )  # fmt: skip


def _headline(label: str, rows: Sequence[Row]) -> str:
    of_model = {row.model: row for row in rows if row.label == label}
    real = of_model[REAL_ALL]
    counts = f"{counted(real.patients, 'patient')}, {counted(real.seeds, 'seed')}"
    single = mean([row.ratio for row in of_model.values() if of_single_sites(row.model)])
    sites = f"single sites {single:.2f} on average"
    if SYNTHETIC not in of_model:
        return f"{label}: all real images reach Dice {real.dice_mean:.3f} ({counts}); {sites}"
    synthetic = of_model[SYNTHETIC]
    if math.isnan(synthetic.ratio):
        return (
            f"{label}: the network trained on all real images finds none of it, so there is "
            f"nothing to compare with ({counts}). Train longer, with --steps."
        )
    return (
        f"{label}: a model trained on synthetic images alone reaches {synthetic.ratio:.2f} "
        f"({synthetic.ratio_low:.2f} to {synthetic.ratio_high:.2f}) of the all-real Dice "
        f"({synthetic.dice_mean:.3f} against {real.dice_mean:.3f}, {counts}); {sites}"
        f"{_alarms(synthetic, real)}"
    )


def _alarms(synthetic: Row, real: Row) -> str:
    if not real.healthy:
        return ""
    return (
        f"; of {counted(real.healthy, 'patient')} without it, {synthetic.false_alarms:.0%} raise a "
        f"false alarm ({real.false_alarms:.0%} with all real images)"
    )
