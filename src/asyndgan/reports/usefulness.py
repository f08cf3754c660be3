"""Reads evaluation.json for a page: how useful synthetic images are for training."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, final

from PIL import Image as Pillow

from asyndgan.errors import RunError
from asyndgan.judging.table import (
    ADDED,
    AUGMENTED,
    REAL_ALL,
    SYNTHETIC,
    site_of,
)
from asyndgan.received import contents, lacking
from asyndgan.reports.findings import (
    MOST_FINDINGS,
    Finding,
    Row,
    finding_of,
    grouped,
    headline,
    interval_of,
    is_learned,
    mean_finding,
    reference_of,
)
from asyndgan.reports.found import MOST_RESULTS
from asyndgan.reports.gallery import data_uri
from asyndgan.reports.words import counted, decimal, signed
from asyndgan.texts import bounded_text, parsed_json

_WIDEST: Final = 1400

MOST_FIGURE: Final = 2**26
"""Largest file of a figure in bytes."""


PerPatient = Mapping[str, Mapping[str, Mapping[str, Sequence[float | None]]]]
"""Values of all patients by model, label and measure, such as `dice`."""


@final
@dataclass(frozen=True)
class Entry:
    """One model, judged by one label. Places are positions from 0 to 100 on the label's scale.

    Attributes:
        name: description of the training cases.
        kind: "all", "synthetic", or "site" for all other models.
        site: the site whose real images were used; empty if it is not of one site.
        dice: mean Dice, as text.
        interval: interval of the mean Dice, as text.
        ratio: mean Dice relative to that of all real images, as text.
        hd95: mean HD95 in millimetres, as text.
        assd: mean ASSD in millimetres, as text.
        cases: number of training cases.
        patients: number of patients that count.
        seeds: number of trainings averaged.
        low: place of the interval's lower end; None if there is none.
        high: place of its upper end.
        middle: place of the mean.
        dots: place of every patient on the scale; empty if it is not known.
        beyond: number of patients left of the scale.
    """

    name: str
    kind: str
    site: str
    dice: str
    interval: str
    ratio: str
    hd95: str
    assd: str
    cases: int
    patients: int
    seeds: int
    low: float | None = None
    high: float | None = None
    middle: float | None = None
    dots: tuple[float, ...] = ()
    beyond: int = 0


@final
@dataclass(frozen=True)
class LabelTable:
    """All models, judged by one label.

    Attributes:
        label: name of the label.
        entries: one per model.
        least: Dice at the left end of the bars, as text.
        most: Dice at the right end of the bars, as text.
        reference: place of the mean Dice of all real images; None if it cannot be computed.
    """

    label: str
    entries: tuple[Entry, ...]
    least: str
    most: str
    reference: float | None


@final
@dataclass(frozen=True)
class Usefulness:
    """Content of the page's section on usefulness.

    Attributes:
        headline: the evaluation's headline, one line per label.
        findings: one per label; if there are more than `MOST_FINDINGS`, their mean.
        by_label: if so, the finding of each label.
        tables: one per label.
        judged_on: "test" or "validation".
        levelling: one sentence per label if the budget was checked.
        gains: one sentence per site's model trained with synthetic cases beside its own.
        others: whose real images are judged, if not those of the run's sites; else empty.
        budget: steps of every training; 0 if unknown.
        examples: data URI of the figure of examples; empty if there is none.
    """

    headline: tuple[str, ...]
    findings: tuple[Finding, ...]
    by_label: tuple[Finding, ...]
    tables: tuple[LabelTable, ...]
    judged_on: str
    levelling: tuple[str, ...]
    gains: tuple[str, ...]
    others: str
    budget: int
    examples: str


def read_usefulness(folder: Path, *, examples: bool) -> Usefulness:
    """Reads the results of `asyndgan evaluate`.

    Args:
        folder: folder that contains evaluation.json and optionally examples.png.
        examples: include examples.png, which shows real patients.

    Raises:
        RunError: there is no evaluation.json, or it is not valid.
    """
    path = folder / "evaluation.json"
    if fault := lacking(path, "asyndgan evaluate"):
        raise RunError(fault)
    try:
        text = bounded_text(path, MOST_RESULTS)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder} holds no evaluation.json that can be read; make one with 'asyndgan "
            "evaluate'."
        ) from error
    try:
        found = _read(parsed_json(text), folder)
        return found if examples else replace(found, examples="")
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} is not what 'asyndgan evaluate' writes ({error}); make it anew."
        ) from error


def figures_of(stored: Mapping[str, Any]) -> tuple[str, list[Entry]]:
    """The headline and the rows of an evaluation's tables, with figures as on the page."""
    by_label = grouped(stored["rows"], lambda row: str(row["label"]))
    known = {label: is_learned(reference_of(rows)) for label, rows in by_label.items()}
    entries = [_entry(row, known=known[row["label"]]) for row in stored["rows"]]
    return "\n".join(headline(stored["headline"], by_label)), entries


def _read(stored: Mapping[str, Any], folder: Path) -> Usefulness:
    by_label = grouped(stored["rows"], lambda row: str(row["label"]))
    findings = tuple(finding_of(label, rows) for label, rows in by_label.items())
    many = len(findings) > MOST_FINDINGS
    return Usefulness(
        headline=tuple(headline(str(stored.get("headline", "")), by_label)),
        findings=(mean_finding(by_label),) if many else findings,
        by_label=findings if many else (),
        tables=tuple(
            label_table(label, rows, stored.get("per_patient") or {})
            for label, rows in by_label.items()
        ),
        judged_on=str(stored.get("judged_on", "test")),
        levelling=tuple(_levelling(item) for item in stored.get("levelling", ())),
        gains=tuple(_gain(item) for item in stored.get("gains", ()) if item["patients"]),
        others=str((stored.get("about") or {}).get("sites", "")),
        budget=int((stored.get("budget") or {}).get("steps", 0)),
        examples=figure(folder / "examples.png"),
    )


def label_table(
    label: str, rows: Sequence[Row], per_patient: PerPatient = MappingProxyType({})
) -> LabelTable:
    """One table of the page.

    Args:
        label: name of the label.
        rows: the label's rows.
        per_patient: values of the patients, if known.
    """
    ends = [
        float(row[key]) for row in rows for key in ("dice_low", "dice_mean") if row[key] is not None
    ]
    least = min(0.9, max(0.0, math.floor(min(ends, default=0.0) * 20) / 20))

    def place(value: float | None) -> float | None:
        if value is None:
            return None
        return round(100 * min(max((value - least) / (1 - least), 0), 1), 2)

    reference = next((row["dice_mean"] for row in rows if row["model"] == REAL_ALL), None)
    known = is_learned(reference_of(rows))
    dice = {
        row["model"]: [
            value
            for value in per_patient.get(row["model"], {}).get(label, {}).get("dice", ())
            if value is not None
        ]
        for row in rows
    }
    return LabelTable(
        label=label,
        entries=tuple(
            replace(
                _entry(row, known=known),
                low=place(row["dice_low"]),
                high=place(row["dice_high"]),
                middle=place(row["dice_mean"]),
                dots=tuple(
                    at
                    for value in dice[row["model"]]
                    if value >= least and (at := place(value)) is not None
                ),
                beyond=sum(value < least for value in dice[row["model"]]),
            )
            for row in rows
        ),
        least=f"{least:.2f}".rstrip("0").rstrip("."),
        most="1",
        reference=place(reference),
    )


def _entry(row: Row, *, known: bool) -> Entry:
    """A row's texts, without places; known: whether a ratio to all real images says anything."""
    model = str(row["model"])
    site = site_of(model)
    added = ", and synthetic ones" if model.endswith((ADDED, AUGMENTED)) else ""
    names = {
        REAL_ALL: "Real images of all sites",
        SYNTHETIC: "Synthetic images alone",
    }
    kinds = {REAL_ALL: "all", SYNTHETIC: "synthetic"}
    return Entry(
        name=names.get(model, f"Real images of {site}{added}" if site else model),
        kind=kinds.get(model, "site"),
        site=site,
        dice=decimal(row["dice_mean"], 3),
        interval=interval_of(row["dice_low"], row["dice_high"], 3),
        ratio=decimal(row["ratio"] if known else None, 2),
        hd95=decimal(row["hd95_mean"], 1),
        assd=decimal(row["assd_mean"], 1),
        cases=int(row["cases"]),
        patients=int(row["patients"]),
        seeds=int(row["seeds"]),
    )


def _gain(item: Row) -> str:
    how = "synthetic ones" if str(item["model"]).endswith(ADDED) else "those of an augmented set"
    interval = interval_of(item["low"], item["high"], 3)
    seen = "; ".join(part for part in (interval, counted(int(item["patients"]), "patient")) if part)
    return (
        f"{item['label']}, {site_of(str(item['model']))}: {how} beside its own cases change Dice "
        f"by {signed(item['difference'], 3)} ({seen})."
    )


def _levelling(item: Row) -> str:
    return (
        f"{item['label']}: {item['longer_steps']} steps instead of {item['steps']} change the Dice "
        f"of all real images by {decimal(item['difference'], 3)}."
    )


def figure(path: Path) -> str:
    """A figure as a data URI, with wide pictures scaled down; empty if the file does not exist.

    Raises:
        OSError, ValueError: it is no picture, or too large a one.
    """
    if not path.exists():
        return ""
    content = contents(path, MOST_FIGURE)
    if path.suffix == ".svg":
        return data_uri(content, "image/svg+xml")
    try:
        opened = Pillow.open(io.BytesIO(content), formats=["PNG"])
    except Pillow.DecompressionBombError as error:
        raise ValueError(f"{path.name} is too large a picture") from error
    with opened as picture:
        if picture.width <= _WIDEST:
            return data_uri(content, "image/png")
        small = picture.convert("RGB")
        small.thumbnail((_WIDEST, 10 * _WIDEST))
        file = io.BytesIO()
        small.save(file, "PNG", optimize=True)
        return data_uri(file.getvalue(), "image/png")
