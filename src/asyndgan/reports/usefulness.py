"""An evaluation on a page: how useful synthetic images are for training."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from PIL import Image as Pillow

from asyndgan.errors import RunError
from asyndgan.judging.table import (
    ADDED,
    MOST_BYTES,
    REAL_ALL,
    SYNTHETIC,
    Evaluation,
    Row,
    site_of,
)
from asyndgan.received import contents
from asyndgan.reports.page import data_uri
from asyndgan.reports.words import DASH, between, counted, decimal
from asyndgan.texts import bounded_text, parsed_json

MOST_FINDINGS: Final = 3
"""Largest number of labels that each have a headline of their own."""

NEAR_ZERO: Final = 0.05
"""Dice of all real images below which nothing was learned, so that a ratio to it says nothing."""

MOST_FIGURE: Final = 2**26
"""Largest file of a figure in bytes."""

_WIDEST: Final = 1400

Rows = Sequence[Row]
"""Rows of one label."""


class Finding(NamedTuple):
    """The headline of one label, or of the mean over many, as texts."""

    label: str
    figure: str
    interval: str
    caption: str
    sentence: str


def usefulness_of(folder: Path, generator: str, *, examples: bool) -> dict[str, Any]:
    """The variables of the page's section on usefulness; `examples` shows real patients.

    Raises `RunError` if there is no evaluation.json, it is not valid, or judges another generator.
    """
    evaluation = Evaluation.read(folder)
    if evaluation.about.get("generator_sha256", generator) != generator:
        raise RunError(
            f"{folder} judges another generator than that of this run; name the evaluation of this "
            "run, or make it with 'asyndgan evaluate'."
        )
    by_label = evaluation.by_label()
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
        "findings": [finding_of(label, rows) for label, rows in by_label.items()]
        if len(by_label) <= MOST_FINDINGS
        else list(_mean_finding(evaluation)),
        "synthetic": any(row.model == SYNTHETIC for row in evaluation.rows),
        "tables": [_table(evaluation, label, rows) for label, rows in by_label.items()],
        "gains": [one for one in evaluation.gains if one.patients],
        "name_of": name_of,
        "site_of": site_of,
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
    )


def _mean_finding(evaluation: Evaluation) -> Iterator[Finding]:
    """What all labels together tell."""
    means = {one.model: one for one in evaluation.overall}
    if {REAL_ALL, SYNTHETIC} <= means.keys():
        synthetic, real = means[SYNTHETIC], means[REAL_ALL]
        yield Finding(
            f"mean of {len(evaluation.by_label())} labels",
            decimal(synthetic.ratio, 2),
            between(synthetic.ratio_low, synthetic.ratio_high, 2),
            "of the mean IoU that all real images reach",
            f"{decimal(synthetic.iou, 3)} against {decimal(real.iou, 3)}.",
        )


def name_of(model: str) -> str:
    """Description of a model's training cases."""
    site = site_of(model)
    added = ", and synthetic ones" if model.endswith(ADDED) else ""
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
    """Whether a JSON file of results is of this generator, whose hash lies `within` these keys.

    True also if it does not say or cannot be read: whoever reads the rest reports what is wrong.
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

    Raises `OSError` or `ValueError` if it is no picture, or too large a one.
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
