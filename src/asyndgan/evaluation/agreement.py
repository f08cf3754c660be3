"""Which synthetic cases to leave out: those whose image contradicts its mask."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from asyndgan.data import Case
from asyndgan.errors import DataError
from asyndgan.evaluation.bench import Bench, OnProgress
from asyndgan.evaluation.metrics import PatientScore
from asyndgan.evaluation.segmentation import SegmentationBudget


def agreeing(
    cases: Sequence[Case],
    part: float,
    *,
    label: str,
    labels: Mapping[str, int],
    budget: SegmentationBudget,
    cache: Path,
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> list[Case]:
    """Cases without the part on which a network trained on the others fits the mask worst.

    The cases are halved by the masks that they were painted from, a network is trained on each half
    and judges the other. No real image takes part.

    Args:
        cases: synthetic, with names as `painted_once` gives them.
        part: to leave out, from 0 to below 1.
        label: whose regions are compared.
        labels: name and value of every label.
        budget: of both trainings.
        cache: folder of what networks predicted.
        workers: trainings at a time.
        on_progress: as in `evaluate`.

    Raises:
        DataError: there are fewer than two masks.
    """
    if not part:
        return list(cases)
    origins = list(dict.fromkeys(_origin(case) for case in cases))
    if len(origins) < 2:
        raise DataError("to leave out synthetic cases there must be two masks at least.")
    even = set(origins[::2])
    halves = (
        [case for case in cases if _origin(case) in even],
        [case for case in cases if _origin(case) not in even],
    )
    fits: dict[str, float] = {}
    for half, others in (halves, halves[::-1]):
        judged = [replace(case, patient=case.name) for case in half]  # each is judged by itself
        bench = Bench(
            judged, labels, [label], [0], cache, budget.steps, on_progress=on_progress,
            workers=workers,
        )  # fmt: skip
        scores, _ = bench.scores({"agreement": [others]}, budget)
        own = map(_fit, scores["agreement"][label])
        fits |= dict(zip((case.name for case in judged), own, strict=True))
    worst = set(sorted(fits, key=fits.__getitem__)[: round(part * len(fits))])
    return [case for case in cases if case.name not in worst]


def _origin(case: Case) -> str:
    """The name of the mask that it was painted from."""
    return re.sub(r"(_r\d+)?(_d\d+)?$", "", case.name)


def _fit(score: PatientScore) -> float:
    """Dice; of a case without the label, whether none was seen."""
    return 1 - score.false_alarm if math.isnan(score.dice) else score.dice
