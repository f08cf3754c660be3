"""Whether the KID of a checkpoint's images from real ones predicts their Dice."""

from collections.abc import Callable, Sequence
from typing import Any

from scipy.stats import spearmanr

from asyndgan.data import Case
from asyndgan.judging.bench import Contenders, pooled
from asyndgan.judging.kid import features_of, kid
from asyndgan.judging.table import REAL_ALL, Evaluation
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
    together = pooled(real.sites)
    reference = features_of(together)
    apart = []
    models: dict[str, list[Sequence[Case]]] = {REAL_ALL: [together] * seeds}
    for step in steps:
        fading = paintings.fading(PaintingSection())
        cases = paintings.shared(list(painting_of(run, masks, step=step, fading=fading)))
        models[f"step {step}"] = [cases] * seeds
        apart.append(kid(features_of(cases), reference))
    evaluation = judge(models)
    dice = [evaluation.row(f"step {step}", real.part.label).dice_mean for step in steps]
    late = len(steps) // 3  # early checkpoints differ so much that any measure ranks them
    correlations = {
        words: -float(spearmanr(apart[start:], dice[start:]).statistic)
        for words, start in (("all", 0), (f"from step {steps[late]} on", late))
    }
    return {"steps": steps, "kid": apart, "dice": dice, "correlations": correlations}
