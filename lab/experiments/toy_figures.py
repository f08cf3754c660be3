"""Figures of `mixture.py`, for docs/theory.md."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import cycle

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from asyndgan.painting.pictures import FAINT, INK, STYLE

LINE_COLOURS = ("#d1495b", "#4a7fa5", "#3b8c6e", "#a67c00")


def plot_centroids(found: Mapping[str, Tensor]) -> bytes:
    """Distributions over positions on a line, one below the other, as SVG.

    Args:
        found: distributions by name, each summing to 1. The first is drawn behind all others.
    """
    (_, first), *_ = found.items()
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.9 * len(found)), layout="constrained")
        panels = figure.subplots(len(found), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for panel, (name, q), colour in zip(
            panels, found.items(), cycle([INK, *LINE_COLOURS]), strict=False
        ):
            panel.fill_between(
                range(len(first)), first.numpy(), color=FAINT, alpha=0.5, linewidth=0
            )
            panel.plot(q.numpy(), color=colour, linewidth=1.5)
            panel.set_yticks([])
            panel.spines[["top", "right", "left"]].set_visible(False)
            left = float(q[: len(q) // 2].sum())
            panel.text(
                0.5, 0.72, f"{name}\n{left:.2f} left, {1 - left:.2f} right",
                transform=panel.transAxes, fontsize=8, color=colour, ha="center", va="center",
            )  # fmt: skip
        panels[-1].set_xticks([])
        return _svg(figure)


def plot_ratios(
    found: Mapping[str, Sequence[tuple[float, float, float]]], sites: Sequence[int], *, most: float
) -> bytes:
    """Ratios to central training by the number of sites, with their intervals, as SVG.

    Args:
        found: ratio, low and high for each number of sites, by name.
        sites: the numbers of sites.
        most: the largest ratio that was wanted; a broken line.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 2.6), layout="constrained")
        panel = figure.subplots()
        panel.axhline(1, color=FAINT, linewidth=1)
        panel.axhline(most, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        for number, (name, rows) in enumerate(found.items()):
            ratios, low, high = np.array(rows).T
            panel.errorbar(
                np.arange(len(sites)) + 0.16 * (number - (len(found) - 1) / 2), ratios,
                yerr=[ratios - low, high - ratios], label=name, color=LINE_COLOURS[number],
                fmt="o", markersize=4, linewidth=1.2, capsize=2,
            )  # fmt: skip
        panel.set_xticks(range(len(sites)), [str(count) for count in sites])
        panel.set_xlabel("sites")
        panel.set_ylabel("of central training")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, loc="upper left")
        return _svg(figure)


def _svg(figure: Figure) -> bytes:
    """The figure as SVG, the same whenever it is drawn."""
    file = BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
