"""An evaluation on a page: how useful synthetic images are for training."""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final, NamedTuple

from PIL import Image as Pillow

from asyndgan.errors import RunError
from asyndgan.judging.table import (
    ADDED,
    AUGMENTED,
    MOST_BYTES,
    REAL_ALL,
    SYNTHETIC,
    Evaluation,
    Row,
    of_single_sites,
    site_of,
)
from asyndgan.received import contents
from asyndgan.reports.page import data_uri
from asyndgan.reports.words import DASH, between, counted, decimal, together
from asyndgan.texts import bounded_text, parsed_json

MOST_FINDINGS: Final = 3
"""Largest number of labels that each have a headline of their own."""

MOST_NAMED: Final = 6
"""Largest number of sites that are named."""

NEAR_ZERO: Final = 0.05
"""Dice of all real images below which nothing was learned, so that a ratio to it says nothing."""

MOST_FIGURE: Final = 2**26
"""Largest file of a figure in bytes."""

_WIDEST: Final = 1400

Rows = Sequence[Row]
"""Rows of one label."""


class Finding(NamedTuple):
    """The headline of one label, or of the mean over many, as text.

    Attributes:
        label: name of the label, or "mean of 9 labels".
        figure: the number to print large.
        interval: interval of that number; empty if there is none.
        caption: description of the number.
        sentence: the Dice behind it, and the numbers of patients and seeds.
        single: mean Dice of networks of single sites; empty if there is none.
        better: sites whose own network does better; empty if `single` is.
    """

    label: str
    figure: str
    interval: str
    caption: str
    sentence: str
    single: str = ""
    better: str = ""


def usefulness_of(folder: Path, generator: str, *, examples: bool) -> dict[str, Any]:
    """The variables of the page's section on usefulness.

    Args:
        folder: folder that contains evaluation.json and optionally examples.png.
        generator: SHA-256 of the run's generator.
        examples: include examples.png, which shows real patients.

    Raises:
        RunError: there is no evaluation.json, it is not valid, or judges another generator.
    """
    evaluation = Evaluation.read(folder)
    if evaluation.about.get("generator_sha256", generator) != generator:
        raise RunError(
            f"{folder} judges another generator than that of this run; name the evaluation of this "
            "run, or make it with 'asyndgan evaluate'."
        )
    by_label = evaluation.by_label()
    findings = [finding_of(label, rows) for label, rows in by_label.items()]
    many = len(findings) > MOST_FINDINGS
    try:
        shown = figure(folder / "examples.png") if examples else ""
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder} holds an examples.png that is no picture; make the evaluation anew with "
            "'asyndgan evaluate'."
        ) from error
    return {
        "evaluation": evaluation,
        "headline": list(headline(evaluation)),
        "findings": [mean_finding(by_label)] if many else findings,
        "by_label": findings if many else [],
        "synthetic": any(row.model == SYNTHETIC for row in evaluation.rows),
        "tables": [_table(evaluation, label, rows) for label, rows in by_label.items()],
        "gains": [one for one in evaluation.gains if one.patients],
        "name_of": name_of,
        "site_of": site_of,
        "added": ADDED,
        "examples": shown,
    }


def reference_of(rows: Rows) -> Row:
    """The row of all real images, or the first one if there is none."""
    return next((row for row in rows if row.model == REAL_ALL), rows[0])


def is_learned(rows: Rows) -> bool:
    """Whether all real images reach a Dice to which a ratio says anything."""
    return reference_of(rows).dice_mean >= NEAR_ZERO


def headline(evaluation: Evaluation) -> Iterator[str]:
    """The lines of the headline; of labels that were not learned at all, only that."""
    by_label = evaluation.by_label()
    unlearned = [label for label, rows in by_label.items() if not is_learned(rows)]
    for line in evaluation.headline.splitlines():
        label = next((name for name in unlearned if line.startswith(f"{name}: ")), None)
        if label is None:
            yield re.sub(r"\bnan\b", DASH, line)
        else:
            reached = decimal(reference_of(by_label[label]).dice_mean, 3)
            yield f"{label}: all real images reach a Dice of {reached}, so there is no ratio to it"


def finding_of(label: str, rows: Rows) -> Finding:
    """The synthetic model's relative Dice; without such a model, the Dice of all real images."""
    real, learned = reference_of(rows), is_learned(rows)
    row = next((row for row in rows if row.model == SYNTHETIC), None)
    counts = f"{counted(real.patients, 'patient')}, {counted(real.seeds, 'seed')}"
    if row is None:
        interval = between(real.dice_low, real.dice_high, 3)
        return Finding(
            label, decimal(real.dice_mean, 3), interval, "Dice of all real images", f"{counts}."
        )
    return Finding(
        label,
        decimal(row.ratio if learned else None, 2),
        between(row.ratio_low, row.ratio_high, 2) if learned else "",
        "of the Dice that all real images reach",
        f"{decimal(row.dice_mean, 3)} against {decimal(real.dice_mean, 3)}; {counts}.",
        *_single(row.dice_mean, {row.model: row.dice_mean for row in rows}),
    )


def mean_finding(by_label: Mapping[str, Rows]) -> Finding:
    """The mean over labels of what `finding_of` tells of each."""
    dice: dict[str, list[float]] = {}
    for rows in by_label.values():
        for row in rows:
            dice.setdefault(row.model, []).append(row.dice_mean)
    means = {model: fmean(own) for model, own in dice.items() if len(own) == len(by_label)}
    name = f"mean of {len(by_label)} labels"
    real, synthetic = means.get(REAL_ALL, math.nan), means.get(SYNTHETIC, math.nan)
    if math.isnan(synthetic):
        return Finding(name, decimal(real, 3), "", "Dice of all real images", "")
    ratio = synthetic / real if real >= NEAR_ZERO else None
    pair = f"{decimal(synthetic, 3)} against {decimal(real, 3)}."
    caption = "of the mean Dice that all real images reach"
    return Finding(name, decimal(ratio, 2), "", caption, pair, *_single(synthetic, means))


def _single(synthetic: float, dice: Mapping[str, float]) -> tuple[str, str]:
    """What networks of single sites reach, and in words which of them do better."""
    known = {
        site_of(model): own
        for model, own in dice.items()
        if of_single_sites(model) and not math.isnan(own)
    }
    if not known or math.isnan(synthetic):
        return "", ""
    better = sorted(site for site, own in known.items() if own > synthetic)
    mean = f"Single sites alone: {fmean(known.values()):.3f} on average."
    if not better:
        return mean, "no site"
    few = together(better) if len(better) <= MOST_NAMED else counted(len(better), "site")
    return mean, f"all {len(known)} sites" if len(better) == len(known) > 1 else few


def name_of(model: str) -> str:
    """Description of a model's training cases."""
    site = site_of(model)
    added = ", and synthetic ones" if model.endswith((ADDED, AUGMENTED)) else ""
    names = {REAL_ALL: "Real images of all sites", SYNTHETIC: "Synthetic images alone"}
    return names.get(model, f"Real images of {site}{added}" if site else model)


def _table(evaluation: Evaluation, label: str, rows: Rows) -> dict[str, Any]:
    """One table of the page: rows, patients' Dice by model, and the left end of its scale."""
    ends = [end for row in rows for end in (row.dice_low, row.dice_mean) if not math.isnan(end)]
    least = min(max(min(ends, default=0.0), 0.0), 0.9)
    least = math.floor(least * 20) / 20
    dice = {row.model: evaluation.dice(row.model, label) for row in rows}
    return {
        "label": label,
        "rows": rows,
        "dots": {model: [one for one in own if one >= least] for model, own in dice.items()},
        "beyond": {model: sum(one < least for one in own) for model, own in dice.items()},
        "least": least,
        "reference": next((row.dice_mean for row in rows if row.model == REAL_ALL), math.nan),
        "learned": is_learned(rows),
    }


def is_of_generator(path: Path, generator_sha256: str, *within: str) -> bool:
    """Whether a JSON file of results is of this generator.

    True also if it does not say or cannot be read: whoever reads the rest reports what is wrong.

    Args:
        path: the file.
        generator_sha256: hash of the generator.
        within: keys of the tables around `generator_sha256`, from the outermost.
    """
    try:
        table = parsed_json(bounded_text(path, MOST_BYTES))
        for key in within:
            table = table.get(key) or {}
        return table.get("generator_sha256") in (None, generator_sha256)
    except (OSError, ValueError, AttributeError):
        return True


def figure(path: Path) -> str:
    """A PNG as a data URI, scaled down if it is wide; empty if the file does not exist.

    Raises:
        OSError, ValueError: it is no picture, or too large a one.
    """
    if not path.exists():
        return ""
    content = contents(path, MOST_FIGURE)
    try:
        opened = Pillow.open(io.BytesIO(content), formats=["PNG"])
    except Pillow.DecompressionBombError as error:
        raise ValueError(f"{path.name} is too large a picture") from error
    with opened as picture:
        if picture.width > _WIDEST:
            small = picture.convert("RGB")
            small.thumbnail((_WIDEST, 10 * _WIDEST))
            file = io.BytesIO()
            small.save(file, "PNG", optimize=True)
            content = file.getvalue()
    return data_uri(content, "image/png")
