"""Whether the distance of a checkpoint's images from real ones predicts their Dice."""

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from scipy.stats import spearmanr

from asyndgan.data import Case
from asyndgan.judging.bench import Contenders, pooled
from asyndgan.judging.distance import features_of
from asyndgan.judging.table import REAL_ALL, Evaluation
from asyndgan.models.features import Moments, distance
from asyndgan.painting.sets import masks_of, painting_of
from asyndgan.runs import RunFolder
from asyndgan.suites.paintings import Paintings
from asyndgan.suites.suite import PaintingSection
from asyndgan.training.steps import stored_steps


def judge_checkpoints(
    paintings: Paintings, run: RunFolder, judge: Callable[[Contenders], Evaluation], *, seeds: int
) -> dict[str, Any]:
    """Judges the generator of each checkpoint of a run; see `SuiteResult.checkpoints`.

    Args:
        paintings: of the run's model and set.
        run: run that kept the generators of its checkpoints.
        judge: trains and judges models.
        seeds: number of training sets that it takes of each model.
    """
    real = paintings.real
    masks, every = masks_of(real.sites), run.recipe().training.checkpoint_every
    kept = stored_steps(run.generators)
    # Leaves out checkpoints that were written at an interruption.
    steps = [step for step in kept if step % every == 0 or step == run.facts().steps]
    features = {site: features_of(cases) for site, cases in real.sites.items()}
    together = torch.cat(list(features.values()))
    clip = run.recipe().selection.clip or float(together.double().norm(dim=1).median())
    reference = reduce(operator.add, [Moments.of(own, clip=clip) for own in features.values()])
    told = {record["step"]: record.get("distance") for record in run.metrics()}
    exact, clipped = [], []
    models: dict[str, list[Sequence[Case]]] = {REAL_ALL: [pooled(real.sites)] * seeds}
    for step in steps:
        fading = paintings.fading(PaintingSection())
        cases = paintings.shared(list(painting_of(run, masks, step=step, fading=fading)))
        models[f"step {step}"] = [cases] * seeds
        found = features_of(cases)
        exact.append(distance(Moments.of(found), Moments.of(together)))
        clipped.append(distance(Moments.of(found, clip=clip), reference))
    evaluation = judge(models)
    dice = [evaluation.row(f"step {step}", real.part.label).dice_mean for step in steps]
    late = len(steps) // 3  # early checkpoints differ so much that any measure ranks them
    worse = [-one for one in dice]
    pairs: dict[str, tuple[list[Any], list[float]]] = {
        "pooled and Dice": (exact, worse),
        "clipped and Dice": (clipped, worse),
        "clipped and pooled": (clipped, exact),
    }
    chosen_by = [told.get(step) for step in steps]
    if None not in chosen_by:
        pairs["the coordinator's and Dice"] = (chosen_by, worse)
    correlations = {
        f"{name}{words}": float(spearmanr(first[start:], second[start:]).statistic)
        for words, start in (("", 0), (f", from step {steps[late]} on", late))
        for name, (first, second) in pairs.items()
    }
    return {
        "clip": clip, "steps": steps, "pooled": exact, "clipped": clipped,
        "coordinator": chosen_by, "dice": dice, "correlations": correlations,
    }  # fmt: skip
