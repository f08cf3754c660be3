"""Which synthetic cases to leave out: those whose image contradicts its mask."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from asyndgan.data import Case, derived_seed
from asyndgan.errors import DataError
from asyndgan.evaluation.bench import Bench, OnProgress
from asyndgan.evaluation.segmentation import SegmentationBudget
from asyndgan.evaluation.synthesise import mask_of


def agreeing(
    cases: Sequence[Case],
    part: float,
    *,
    label: str,
    labels: Mapping[str, int],
    budget: SegmentationBudget,
    cache: Path,
    workers: int = 1,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
) -> list[Case]:
    """Cases without the part on which a network trained on the others fits the mask worst.

    The cases are halved by the masks that they were painted from, neighbours together, since they
    may be slices of one patient; a network is trained on each half and judges the other. Cases
    whose mask lacks the label are not ranked and all stay. No real image takes part.

    Args:
        cases: synthetic, with names as `painted_once` gives them.
        part: of those with the label to leave out, from 0 to below 1.
        label: whose regions are compared.
        labels: name and value of every label.
        budget: of both trainings.
        cache: folder of what networks predicted.
        workers: trainings at a time.
        device: where to train.
        on_progress: as in `evaluate`.

    Raises:
        DataError: there are fewer than two masks.
    """
    if not part:
        return list(cases)
    first = _first_halves([mask_of(case.name) for case in cases])
    halves = (
        [case for case in cases if mask_of(case.name) in first],
        [case for case in cases if mask_of(case.name) not in first],
    )
    if not all(halves):
        raise DataError("to leave out synthetic cases there must be two masks at least.")
    fits: dict[str, float] = {}
    for half, others in (halves, halves[::-1]):
        judged = [replace(case, patient=case.name) for case in half]  # each is judged by itself
        bench = Bench(
            judged, labels, [label], [0], cache, budget.steps, device, on_progress, workers,
        )  # fmt: skip
        scores = bench.scores({"agreement": [others]}, budget).scores
        pairs = zip(judged, scores["agreement"][label], strict=True)
        fits |= {case.name: one.dice for case, one in pairs if not math.isnan(one.dice)}
    # Ties in an order that has nothing to do with sites.
    worst = sorted(fits, key=lambda name: (fits[name], derived_seed(0, name)))
    dropped = set(worst[: round(part * len(fits))])
    return [case for case in cases if case.name not in dropped]


def _first_halves(masks: Sequence[str]) -> set[str]:
    """The first half of each site's masks, which are numbered in the order of patients."""
    of_sites: dict[str, list[str]] = {}
    for mask in dict.fromkeys(masks):
        of_sites.setdefault(mask.rpartition("-")[0], []).append(mask)
    return {mask for own in of_sites.values() for mask in own[: -(-len(own) // 2)]}
