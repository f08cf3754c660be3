"""Example images of an evaluation."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from asyndgan.arrays import IMAGE_LOW, Mask, Masks
from asyndgan.judging.table import REAL_ALL, SITE_PREFIX, SYNTHETIC, Evaluation, of_single_sites
from asyndgan.painting.pictures import FAINT, STYLE, bare, slices
from asyndgan.store.case import prepared_spacing
from asyndgan.store.prepared import Case
from asyndgan.texts import stored_whole

_DASHES = (0, (3, 2))
_LABEL_COLOURS = ("#ffb000", "#4cc9f0", "#ff5d8f", "#8ac926")


def plot_examples(
    evaluation: Evaluation,
    test: Sequence[Case],
    masks: Mapping[str, Masks],
    labels: Mapping[str, int],
    out: Path,
) -> None:
    """Writes `examples.png`: truth and predictions for the best, the median and the worst patient.

    Patients are ranked by the synthetic model's Dice of the last label (`real-all`'s if there is no
    synthetic model). For each, the slice with most of that label is shown.
    """
    judge = SYNTHETIC if SYNTHETIC in masks else REAL_ALL
    name = list(labels)[-1]
    chosen = _chosen(evaluation.dice(judge, name))
    if not chosen:
        return
    models = _shown(evaluation, name)
    channel = _telling_channel(test, labels[name])
    patients = list(dict.fromkeys(case.patient for case in test))
    with rc_context(STYLE):
        size = (2.1 * (len(models) + 1) + 0.3, 2.3 * len(chosen) + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(chosen), len(models) + 1, squeeze=False)
        bare(grid)
        for line, (word, patient) in zip(grid, chosen.items(), strict=True):
            index, place = _largest(test, patients[patient], labels[name])
            _example(line[0], test[index], None, place, channel, labels)
            line[0].set_ylabel(word)
            line[0].set_xlabel(test[index].modalities[channel], labelpad=3)
            for panel, model in zip(line[1:], models, strict=True):
                _example(panel, test[index], masks[model][index], place, channel, labels)
                dice = evaluation.dice(model, name)[patient]
                panel.set_xlabel(f"{name}: Dice {dice:.2f}", labelpad=3)
        for panel, title in zip(grid[0], ["truth", *models], strict=True):
            panel.set_title(title, fontsize=10)
        lines = [Line2D([], [], color=colour) for _, colour in _coloured(labels)]
        figure.legend(
            [*lines, Line2D([], [], color=FAINT, linestyle=_DASHES)],
            [*labels, "truth"],
            loc="outside lower center",
            ncols=len(labels) + 1,
            frameon=False,
        )
        with stored_whole(out / "examples.png") as half:
            figure.savefig(half, format="png", dpi=160)


def _chosen(dice: Sequence[float]) -> dict[str, int]:
    """Positions of the best, the median and the worst patient, without repetition."""
    known = [index for index, value in enumerate(dice) if not math.isnan(value)]
    if not known:
        return {}
    order = sorted(known, key=lambda index: -dice[index])
    best, median, worst = order[0], order[len(order) // 2], order[-1]
    words = {worst: "worst patient", median: "median patient", best: "best patient"}
    return {words[index]: index for index in dict.fromkeys((best, median, worst))}


def _shown(evaluation: Evaluation, label: str) -> list[str]:
    """The models that are not of one site, and the best single-site model."""
    models = [row.model for row in evaluation.rows if row.label == label]
    own = [model for model in models if model.startswith(SITE_PREFIX)]
    single = [model for model in own if of_single_sites(model)]
    single.sort(key=lambda model: -evaluation.row(model, label).dice_mean)
    return [model for model in models if model not in own] + single[:1]


def _telling_channel(test: Sequence[Case], label: int) -> int:
    """The channel with the highest contrast between the label and the rest of the image."""
    images = torch.stack([case.image for case in test]).flatten(2)
    inside = torch.stack([case.mask for case in test]).flatten(1) == label
    contrast = []
    for channel in images.unbind(1):
        other = channel[~inside & (channel > IMAGE_LOW + 0.05)]
        if not inside.any() or not len(other):
            return 0
        contrast.append(float((channel[inside].mean() - other.mean()).abs() / (other.std() + 1e-6)))
    return int(np.argmax(contrast))


def _largest(test: Sequence[Case], patient: str, label: int) -> tuple[int, int]:
    """Indices of the patient's case and, in a volume, of the slice with most of the label."""
    areas = {
        (index, place): int((mask == label).sum())
        for index, case in enumerate(test)
        if case.patient == patient
        for place, mask in enumerate(slices(case.mask))
    }
    return max(areas, key=lambda where: areas[where])


def _example(
    panel: Axes, case: Case, found: Mask | None, place: int, channel: int, labels: Mapping[str, int]
) -> None:
    """Draws a slice with the truth outlined or, if given, `found` outlined over a dashed truth."""
    rows, columns = prepared_spacing(case.preparation)[-2:]
    picture = slices(case.image[channel])[place].numpy()
    panel.imshow(
        picture,
        cmap="gray",
        vmin=IMAGE_LOW,
        vmax=max(float(np.quantile(picture, 0.995)), IMAGE_LOW + 0.1),
        aspect=rows / columns,
    )
    for value, colour in _coloured(labels):
        if found is not None:
            _outline(panel, slices(case.mask)[place] == value, "white", _DASHES)
        shown = case.mask if found is None else found
        _outline(panel, slices(shown)[place] == value, colour, "solid")


def _coloured(labels: Mapping[str, int]) -> list[tuple[int, str]]:
    return list(zip(labels.values(), cycle(_LABEL_COLOURS), strict=False))


def _outline(panel: Axes, mask: Tensor, colour: str, style: Any) -> None:
    if mask.any() and not mask.all():
        panel.contour(
            mask.numpy(), levels=[0.5], colors=[colour], linewidths=1.1, linestyles=[style]
        )
