"""Filtering of synthetic cases whose image contradicts its mask."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from asyndgan.data import Case, derived_seed
from asyndgan.errors import DataError
from asyndgan.judging.bench import Bench, OnProgress
from asyndgan.judging.segmentation import SegmentationBudget
from asyndgan.painting.synthesise import mask_of


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
    """Drops the cases whose masks a network trained on other cases predicts worst.

    The cases are halved by the masks that they were painted from. Neighbouring masks stay together,
    since they may be slices of one patient. A network is trained on each half and judges the other
    half. Cases whose mask lacks the label are not ranked and are all kept. No real image is used.

    Args:
        cases: synthetic cases, named as by `painted_once`.
        part: fraction to drop of the cases that have the label, at least 0 and below 1.
        label: label whose regions are compared.
        labels: value of each label, by name.
        budget: budget of each of the two trainings.
        cache: folder of cached predictions.
        workers: number of networks to train in parallel.
        device: device to train on.
        on_progress: as in `evaluate`.

    Returns:
        The remaining cases, in their order.

    Raises:
        DataError: no site has two masks, so one half would be empty.
    """
    if not part:
        return list(cases)
    first = _first_halves([mask_of(case.name) for case in cases])
    halves = (
        [case for case in cases if mask_of(case.name) in first],
        [case for case in cases if mask_of(case.name) not in first],
    )
    if not all(halves):
        raise DataError("to leave out synthetic cases some site must have two masks at least.")
    fits: dict[str, float] = {}
    for half, others in (halves, halves[::-1]):
        judged = [replace(case, patient=case.name) for case in half]  # each is scored separately
        bench = Bench(
            judged, labels, [label], [0], cache, budget.steps, device, on_progress, workers,
        )  # fmt: skip
        scores = bench.scores({"agreement": [others]}, budget).scores
        pairs = zip(judged, scores["agreement"][label], strict=True)
        fits |= {case.name: one.dice for case, one in pairs if not math.isnan(one.dice)}
    # Ties are broken in an order that does not depend on the site.
    worst = sorted(fits, key=lambda name: (fits[name], derived_seed(0, name)))
    dropped = set(worst[: round(part * len(fits))])
    return [case for case in cases if case.name not in dropped]


def _first_halves(masks: Sequence[str]) -> set[str]:
    """The first half of each site's masks; they are numbered patient by patient."""
    of_sites: dict[str, list[str]] = {}
    for mask in dict.fromkeys(masks):
        of_sites.setdefault(mask.rpartition("-")[0], []).append(mask)
    return {mask for own in of_sites.values() for mask in own[: -(-len(own) // 2)]}
