"""Charts over steps, drawn as SVG that takes the colours of the page around it."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.ndimage import gaussian_filter1d

from asyndgan.painting.pictures import STYLE
from asyndgan.reports.page import COLOURS
from asyndgan.reports.words import amount, size

POINTS: Final = 240
"""Largest number of points of a line; longer runs are averaged in bins."""

MOST_FAINT: Final = 6
"""Largest number of lines in a chart that also shows unsmoothed values."""

Records = Sequence[Mapping[str, Any]]
"""Records of metrics.jsonl."""

Line = Float[np.ndarray, " n"]

_NOTES: Final = {
    "discriminator": "How hard each site's discriminator finds it to tell real from synthetic and, "
    "if it segments, to find masks in real images. Near zero: it always can.",
    "adversarial": "What that discriminator says of the synthetic images. Lower: it is fooled more "
    "often.",
    "segmentation": "How badly the discriminator finds the mask back in the synthetic images.",
    "paired_l1": "Distance to the real image of the same mask, on a scale of 2.",
}
ROOM: Final = {"left": 0.13, "right": 0.96, "bottom": 0.1, "top": 0.97}
"""Where a chart's panel ends; measuring its labels would double the time."""

_MARK: Final = "#0c0c0"
"""Start of the colours that stand for the page's own: 0 to 7 for sites, a for text, b for rules."""


class Chart(NamedTuple):
    """A chart: its quantity, how to read it in a sentence or two, and its drawing."""

    title: str
    note: str
    svg: str


def loss_charts(records: Records, numbers: Mapping[str, int]) -> list[Chart]:
    """One chart per loss, the discriminator's first."""
    names = {name for record in records for own in record["losses"].values() for name in own}
    charts = []
    for name in sorted(names, key=lambda name: (name != "discriminator", name)):
        lines = {
            site: _values(record["losses"].get(site, {}).get(name) for record in records)
            for site in numbers
        }
        note = _NOTES.get(name, "A term of what the sites ask of synthetic images.")
        charts.append(_chart(name, note, lines, numbers, records))
    return charts


def traffic_chart(records: Records) -> Chart:
    """Bytes per step over all sites; colours 0 (from the sites) and 1 (to the sites)."""
    lines = {
        name: np.maximum(np.diff([float(record[key]) for record in records], prepend=0.0), 0.0)
        for name, key in (("from the sites", "received"), ("to the sites", "sent"))
    }
    note = "All sites together. It falls when a site is away, or when images compress better."
    return _chart("Bytes a step", note, lines, dict(zip(lines, (0, 1), strict=True)), records, size)


def presence(records: Records, sites: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """When each site answered: start and width of each stretch of steps, 0 to 100.

    Empty if all answered every step.
    """
    spans = {}
    for site in sites:
        there = np.diff([0, *(site in record["losses"] for record in records), 0])
        starts, ends = np.flatnonzero(there > 0), np.flatnonzero(there < 0)
        pairs = 100 / len(records) * np.stack([starts, ends - starts], 1)
        spans[site] = [(float(start), float(width)) for start, width in pairs.round(3)]
    return {} if all(own == [(0.0, 100.0)] for own in spans.values()) else spans


def _values(values: Any) -> Line:
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _chart(
    title: str,
    note: str,
    lines: Mapping[str, Line],
    numbers: Mapping[str, int],
    records: Records,
    text: Callable[[float], str] = "{:.3g}".format,
) -> Chart:
    """A chart of these lines, smoothed and cut off at outliers, which triangles mark."""
    title = (title[:1].upper() + title[1:]).replace("_", " ").replace(" l1", " L1")
    binned = {name: _binned(values) for name, values in lines.items()}
    low, high = _range(np.concatenate([np.empty(0), *binned.values()]))
    ends = {}
    with rc_context({**STYLE, "svg.fonttype": "none", "text.parse_math": False}):
        figure = Figure(figsize=(5, 2.5))
        panel = figure.subplots(gridspec_kw=ROOM)
        for name, values in binned.items():
            if np.isnan(values).all():
                continue
            colour = f"{_MARK}{numbers[name] % COLOURS}"
            steps = np.linspace(int(records[0]["step"]) - 1, int(records[-1]["step"]), len(values))
            smooth = _smoothed(values)
            ends[name] = text(smooth[~np.isnan(smooth)][-1])
            raw = values if len(binned) <= MOST_FAINT else smooth
            if raw is values:
                panel.plot(steps, raw.clip(low, high), color=colour, linewidth=0.6, alpha=0.25)
            panel.plot(
                steps, smooth.clip(low, high), color=colour, linewidth=1.6,
                linestyle="--" if numbers[name] >= COLOURS else "-",
                marker="." if len(values) == 1 else "",
            )  # fmt: skip
            for mark, beyond, end in (("^", raw > high, high), ("v", raw < low, low)):
                panel.plot((at := steps[beyond]), end + 0 * at, mark, color=colour, markersize=4)
        panel.margins(x=0.01)
        panel.set_ylim(low, high)
        panel.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        panel.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda step, _: amount(round(step))))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
        panel.tick_params(length=0, labelcolor=f"{_MARK}a")
        panel.grid(axis="y", color=f"{_MARK}b", linewidth=0.6)
        panel.spines[:].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True)
    said = "".join(f"; {name} ends at {end}" for name, end in ends.items())
    return Chart(title, note, _inline(file.getvalue(), f"{title} over the steps{said}"))


def _inline(svg: str, said: str) -> str:
    """A drawing of matplotlib as an element of a page, with a text for those who do not see it."""
    _, box, inside = re.split(r'<svg[^>]*(viewBox="[^"]*")[^>]*>', svg, maxsplit=1)
    for other in (
        r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<clipPath.*?</clipPath>",
        r' clip-path="[^"]*"', r'(?<=<g) id="[^"]*"',
    ):  # fmt: skip
        inside = re.sub(other, "", inside, flags=re.DOTALL)
    inside = re.sub(f"{_MARK}([0-7])", r"var(--c\1)", inside)
    inside = inside.replace(f"{_MARK}a", "var(--soft)").replace(f"{_MARK}b", "var(--line)")
    inside = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "var(--sans)", inside)
    return f'<svg {box} role="img" aria-label="{escape(said)}">{inside}'


def _binned(values: Line) -> Float[np.ndarray, " bins"]:
    """At most `POINTS` bin means; nan for bins without a value."""
    if len(values) <= POINTS:
        return values
    parts = (part[~np.isnan(part)] for part in np.array_split(values, POINTS))
    return np.array([part.mean() if len(part) else math.nan for part in parts])


def _smoothed(values: Line) -> Line:
    """Smooths with a Gaussian whose width is a fortieth of the run; gaps stay gaps."""
    there, width = ~np.isnan(values), max(1.0, len(values) / 40)
    sums, weights = (
        gaussian_filter1d(row, width, mode="constant", truncate=3.0)
        for row in (np.where(there, values, 0.0), there.astype(float))
    )
    return np.where(there, sums / np.maximum(weights, 1e-12), math.nan)


def _range(values: Line) -> tuple[float, float]:
    """Range of the axis: from 0 or the lowest value up to the highest, without outliers."""
    values = values[~np.isnan(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = (float(end) for end in np.percentile(values, (0.5, 99.5)))
    low = min(low, 0.0)
    room = 0.06 * (high - low)
    return (low - (room if low < 0 else 0.0), high + room) if high > low else (low, low + 1.0)
