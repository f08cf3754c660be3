"""Curves over steps, computed here and drawn by the template as inline SVG.

Plots are stretched to the page's width, so positions are percentages: `x` from the left, `y` from
the top.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float
from matplotlib.ticker import MaxNLocator

from asyndgan.reports.words import amount, size

POINTS: Final = 240
"""Largest number of points of a curve; longer runs are averaged in bins."""

MOST_FAINT: Final = 6
"""Largest number of curves in a chart that also shows unsmoothed values."""

Line = Float[np.ndarray, " n"]


@final
@dataclass(frozen=True)
class Curve:
    """One curve.

    Attributes:
        name: site or quantity that it shows.
        number: number of its colour.
        path: SVG path of the smoothed values.
        faint: SVG path of the values before smoothing; empty if the chart has too many curves, or
            does not smooth.
        last: last value drawn, as text.
        beyond: the farthest value of each stretch of steps whose values lie beyond the axis.
    """

    name: str
    number: int
    path: str
    faint: str
    last: str
    beyond: tuple["Beyond", ...] = ()


@final
@dataclass(frozen=True)
class Tick:
    """A tick of an axis.

    Attributes:
        place: position, 0 to 100, from the left or from the bottom.
        text: label of the tick.
    """

    place: float
    text: str


@final
@dataclass(frozen=True)
class Beyond:
    """A value beyond the axis.

    Attributes:
        place: position, 0 to 100, from the left.
        text: the value.
        above: whether it lies above the axis; else below.
    """

    place: float
    text: str
    above: bool


@final
@dataclass(frozen=True)
class Chart:
    """Curves on one pair of axes.

    Attributes:
        title: quantity on the vertical axis.
        note: how to read the chart, in a sentence or two.
        curves: the curves.
        across: ticks of the steps.
        up: ticks of the values.
    """

    title: str
    note: str
    curves: tuple[Curve, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


@final
@dataclass(frozen=True)
class Presence:
    """When a site answered.

    Attributes:
        name: name of the site.
        number: number of its colour.
        spans: start and width of each uninterrupted range of steps, 0 to 100.
        part: percentage of all steps, as text.
    """

    name: str
    number: int
    spans: tuple[tuple[float, float], ...]
    part: str


_NOTES: Final = {
    "discriminator": "How hard each site's discriminator finds it to tell real from synthetic and, "
    "if it segments, to find masks in real images. Near zero: it always can.",
    "adversarial": "What that discriminator says of the synthetic images. Lower: it is fooled more "
    "often.",
    "segmentation": "How badly the discriminator finds the mask back in the synthetic images.",
    "paired_l1": "Distance to the real image of the same mask, on a scale of 2.",
    "reminding": "How differently the masks of sites that are away are painted by now, on a scale "
    "of 2. Nothing while all are there.",
    "features": "How far the discriminator's features lie from those of the site's images.",
}


def loss_charts(
    records: Sequence[Mapping[str, Any]], numbers: Mapping[str, int]
) -> tuple[Chart, ...]:
    """One chart per loss, the discriminator's first, with one curve per site.

    Args:
        records: records of metrics.jsonl.
        numbers: colour number of each site.
    """
    names = dict.fromkeys(
        name for record in records for losses in record["losses"].values() for name in losses
    )
    ordered = sorted(names, key=lambda name: name != "discriminator")
    return tuple(
        _chart(
            _title(name),
            _NOTES.get(name, "A term of what the sites ask of synthetic images."),
            {site: _series(records, site, name) for site in numbers},
            numbers,
            _steps(records),
        )
        for name in ordered
    )


def reminding_chart(records: Sequence[Mapping[str, Any]]) -> tuple[Chart, ...]:
    """The chart of the reminding term, if the records of metrics.jsonl have it."""
    gap = np.array([record.get("reminding", math.nan) for record in records], np.float64)
    if np.isnan(gap).all():
        return ()
    line, numbers = {"generator": gap}, {"generator": 0}
    return (_chart("Reminding", _NOTES["reminding"], line, numbers, _steps(records)),)


def traffic_chart(records: Sequence[Mapping[str, Any]]) -> Chart:
    """Bytes per step over all sites; colours 0 (from the sites) and 1 (to the sites)."""
    counts = {"from the sites": "received", "to the sites": "sent"}
    lines = {
        name: np.maximum(np.diff([float(record[key]) for record in records], prepend=0.0), 0.0)
        for name, key in counts.items()
    }
    colours = {name: number for number, name in enumerate(lines)}
    note = "All sites together. It falls when a site is away, or when images compress better."
    return _chart("Bytes a step", note, lines, colours, _steps(records), as_bytes=True)


def presence(
    records: Sequence[Mapping[str, Any]], numbers: Mapping[str, int]
) -> tuple[Presence, ...]:
    """When each site answered; empty if all sites answered every step."""
    there = {site: [site in record["losses"] for record in records] for site in numbers}
    if all(all(answered) for answered in there.values()):
        return ()
    return tuple(
        Presence(site, numbers[site], _spans(answered), _part(answered))
        for site, answered in there.items()
    )


def _part(answered: Sequence[bool]) -> str:
    """Percentage as text, rounded down so that 100 % means all steps."""
    return f"{math.floor(100 * sum(answered) / len(answered))} %"


def _spans(answered: Sequence[bool]) -> tuple[tuple[float, float], ...]:
    padded = np.diff(np.concatenate([[0], np.asarray(answered, int), [0]]))
    starts, ends = np.flatnonzero(padded == 1), np.flatnonzero(padded == -1)
    scale = 100 / len(answered)
    return tuple(
        (round(float(start * scale), 3), round(float((end - start) * scale), 3))
        for start, end in zip(starts, ends, strict=True)
    )


def _steps(records: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Number of steps done before the first record and after the last."""
    return int(records[0]["step"]) - 1, int(records[-1]["step"])


def _series(records: Sequence[Mapping[str, Any]], site: str, name: str) -> Line:
    values = [record["losses"].get(site, {}).get(name, math.nan) for record in records]
    return np.array(values, np.float64)


def _title(name: str) -> str:
    words = name.replace("_", " ").replace(" l1", " L1")
    return words[:1].upper() + words[1:]


def _chart(
    title: str,
    note: str,
    series: Mapping[str, Line],
    numbers: Mapping[str, int],
    steps: tuple[int, int],
    *,
    as_bytes: bool = False,
) -> Chart:
    """A chart of these lines, smoothed and cut off at outliers."""
    binned = {name: _binned(values) for name, values in series.items()}
    shown = {name: _smoothed(values) for name, values in binned.items()}
    low, high = _range(list(binned.values()))
    marks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
    kept = [float(mark) for mark in marks if low - 1e-9 <= mark <= high * (1 + 1e-9)]
    digits = max(0, -math.floor(math.log10(marks[1] - marks[0]) + 1e-9))
    curves = [
        Curve(
            name=name,
            number=numbers[name],
            path=_path(shown[name], low, high),
            faint="" if len(series) > MOST_FAINT else _path(binned[name], low, high),
            last=_last(shown[name], as_bytes),
            beyond=_beyond(
                shown[name] if len(series) > MOST_FAINT else binned[name], (low, high), as_bytes
            ),
        )
        for name in series
        if not np.isnan(binned[name]).all()
    ]
    texts = [size(mark) if as_bytes else f"{mark:.{digits}f}" for mark in kept]
    places = [round(100 * (mark - low) / (high - low), 2) for mark in kept]
    return Chart(title, note, tuple(curves), _across(steps), tuple(map(Tick, places, texts)))


def _last(values: Line, as_bytes: bool) -> str:
    value = values[~np.isnan(values)][-1]
    return size(value) if as_bytes else f"{value:.3g}"


def _beyond(values: Line, axis: tuple[float, float], as_bytes: bool) -> tuple[Beyond, ...]:
    found = []
    for sign, end in ((-1, -axis[0]), (1, axis[1])):
        places = np.flatnonzero(sign * values > end)
        for stretch in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
            if len(stretch):
                peak = int(stretch[np.argmax(sign * values[stretch])])
                place = round(100 * peak / max(len(values) - 1, 1), 2)
                found.append(Beyond(place, _last(values[peak : peak + 1], as_bytes), sign > 0))
    return tuple(found)


def _across(steps: tuple[int, int]) -> tuple[Tick, ...]:
    """Ticks at round numbers of steps within the range."""
    first, last = steps
    width = max(last - first, 1)
    marks = MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]).tick_values(first, last)
    shown = [int(mark) for mark in marks if first <= mark <= last]
    return tuple(Tick(round(100 * (mark - first) / width, 2), amount(mark)) for mark in shown)


def _binned(values: Line) -> Float[np.ndarray, " m"]:
    """At most `POINTS` bin means; nan for bins without a value."""
    if len(values) <= POINTS:
        return values
    means = []
    for part in np.array_split(values, POINTS):
        there = part[~np.isnan(part)]
        means.append(float(there.mean()) if len(there) else math.nan)
    return np.array(means)


def _smoothed(values: Line) -> Line:
    """Smooths with a Gaussian whose width is a fortieth of the run; gaps stay gaps."""
    there = ~np.isnan(values)
    width = max(1.0, len(values) / 40)
    reach = math.ceil(3 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    filled = np.where(there, values, 0.0)
    sums, weights = (
        np.convolve(np.pad(row, reach), kernel, "valid") for row in (filled, there.astype(float))
    )
    return np.where(there, sums / np.maximum(weights, 1e-12), math.nan)


def _range(lines: Sequence[Line]) -> tuple[float, float]:
    """Range of the axis: from 0 or the lowest value up to the highest, without outliers."""
    values = np.concatenate([np.empty(0), *lines])  # a run may name no site
    values = values[~np.isnan(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = (float(end) for end in np.percentile(values, (0.5, 99.5)))
    low = min(low, 0.0)
    room = 0.06 * (high - low)
    return (low - (room if low < 0 else 0.0), high + room) if high > low else (low, low + 1.0)


def _path(values: Line, low: float, high: float) -> str:
    """SVG path of the values, interrupted at nan; an isolated value becomes a short dash."""
    parts: list[str] = []
    scale = 100 / max(len(values) - 1, 1)
    drawing = False
    for place, value in enumerate(values):
        if math.isnan(value):
            drawing = False
            continue
        height = 100 * (1 - (min(max(value, low), high) - low) / (high - low))
        parts.append(f"{'L' if drawing else 'M'}{place * scale:.2f} {height:.2f}")
        if not drawing:
            parts.append("h0.01")
        drawing = True
    return "".join(parts)
