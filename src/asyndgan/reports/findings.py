"""The headline of an evaluation: a figure to print large, and what puts it in proportion."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final, final

from asyndgan.judging.table import REAL_ALL, SYNTHETIC, of_single_sites, site_of
from asyndgan.reports.words import DASH, counted, decimal, together

MOST_FINDINGS: Final = 3
"""Largest number of labels that each have a headline of their own."""

MOST_NAMED: Final = 6
"""Largest number of sites that are named."""

NEAR_ZERO: Final = 0.05
"""Dice of all real images below which nothing was learned, so that a ratio to it says nothing."""

Row = Mapping[str, Any]
"""One row of a result, with the keys of `judging.table.Row`."""

Rows = Mapping[str, Sequence[Row]]
"""The rows of each label."""


@final
@dataclass(frozen=True)
class Finding:
    """The headline of one label, or of the mean over many.

    Attributes:
        label: name of the label, or "mean of 9 labels".
        figure: the number to print large.
        interval: interval of that number; empty if there is none.
        caption: description of the number.
        sentence: the Dice behind it, and the numbers of patients and seeds.
        single: mean Dice of networks of single sites; empty if there is none.
        better: sites whose own network does better, as text; empty if `single` is.
    """

    label: str
    figure: str
    interval: str
    caption: str
    sentence: str
    single: str = ""
    better: str = ""


def headline(text: str, by_label: Rows) -> Iterator[str]:
    """The lines of a stored headline; of labels that were not learned at all, only that."""
    unlearned = [label for label, rows in by_label.items() if not is_learned(reference_of(rows))]
    for line in text.splitlines():
        label = next((name for name in unlearned if line.startswith(f"{name}: ")), None)
        if label is None:
            yield re.sub(r"\bnan\b", DASH, line)
        else:
            reached = decimal(reference_of(by_label[label])["dice_mean"], 3)
            yield f"{label}: all real images reach a Dice of {reached}, so there is no ratio to it"


def grouped(rows: Iterable[Row], heading: Callable[[Row], str]) -> dict[str, list[Row]]:
    """The rows under each heading."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(heading(row), []).append(row)
    return groups


def reference_of(rows: Sequence[Row]) -> Row:
    """The row of all real images, or the first one if there is none."""
    return next((row for row in rows if row["model"] == REAL_ALL), rows[0])


def is_learned(reference: Row) -> bool:
    """Whether a ratio to this Dice says anything."""
    dice = reference["dice_mean"]
    return dice is not None and dice >= NEAR_ZERO


def finding_of(label: str, rows: Sequence[Row]) -> Finding:
    """The synthetic model's relative Dice; without such a model, the Dice of all real images."""
    real = reference_of(rows)
    row = next((row for row in rows if row["model"] == SYNTHETIC), None)
    counts = f"{counted(real['patients'], 'patient')}, {counted(real['seeds'], 'seed')}"
    if row is None:
        interval = interval_of(real["dice_low"], real["dice_high"], 3)
        figure, caption = decimal(real["dice_mean"], 3), "Dice of all real images"
        return Finding(label, figure, interval, caption, f"{counts}.")
    pair = f"{decimal(row['dice_mean'], 3)} against {decimal(real['dice_mean'], 3)}"
    known = is_learned(real)
    return Finding(
        label,
        decimal(row["ratio"] if known else None, 2),
        interval_of(row["ratio_low"], row["ratio_high"], 2) if known else "",
        "of the Dice that all real images reach",
        f"{pair}; {counts}.",
        *_single(row["dice_mean"], {r["model"]: r["dice_mean"] for r in rows}),
    )


def mean_finding(by_label: Rows) -> Finding:
    """The mean over labels of what `_finding` tells of each."""
    means: dict[str, float] = {}
    for model in dict.fromkeys(row["model"] for rows in by_label.values() for row in rows):
        dice = [row["dice_mean"] for rows in by_label.values() for row in rows
                if row["model"] == model]  # fmt: skip
        if None not in dice and len(dice) == len(by_label):
            means[model] = fmean(dice)
    name = f"mean of {len(by_label)} labels"
    real, synthetic = means.get(REAL_ALL), means.get(SYNTHETIC)
    if synthetic is None:
        return Finding(name, decimal(real, 3), "", "Dice of all real images", "")
    ratio = None if real is None or real < NEAR_ZERO else synthetic / real
    pair = f"{decimal(synthetic, 3)} against {decimal(real, 3)}."
    caption = "of the mean Dice that all real images reach"
    return Finding(name, decimal(ratio, 2), "", caption, pair, *_single(synthetic, means))


def _single(synthetic: float | None, dice: Mapping[str, float | None]) -> tuple[str, str]:
    """What networks of single sites reach, and in words which of them do better."""
    alone = {site_of(model): own for model, own in dice.items() if of_single_sites(model)}
    known = {site: own for site, own in alone.items() if own is not None}
    if not known or synthetic is None:
        return "", ""
    better = sorted(site for site, own in known.items() if own > synthetic)
    mean = f"Single sites alone: {fmean(known.values()):.3f} on average."
    if not better:
        return mean, "no site"
    few = together(better) if len(better) <= MOST_NAMED else counted(len(better), "site")
    return mean, f"all {len(known)} sites" if len(better) == len(known) > 1 else few


def interval_of(low: float | None, high: float | None, digits: int) -> str:
    """An interval as text; empty if there is none."""
    return "" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"
