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
    FEDAVG,
    FEDAVG_WITHOUT,
    FEDGAN,
    REAL_ALL,
    SYNTHETIC,
    of_single_sites,
    site_of,
)
from asyndgan.received import contents
from asyndgan.reports.found import MOST_RESULTS
from asyndgan.reports.gallery import data_uri
from asyndgan.reports.words import counted, decimal
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
        low: place of the interval's lower end; None if there is none.
        high: place of its upper end.
        middle: place of the mean.
        dots: place of every patient; empty if it is not known.
        ratio: mean Dice relative to that of all real images, as text.
        hd95: mean HD95 in millimetres, as text.
        assd: mean ASSD in millimetres, as text.
        cases: number of training cases.
        patients: number of patients that count.
        seeds: number of trainings averaged.
    """

    name: str
    kind: str
    site: str
    dice: str
    interval: str
    low: float | None
    high: float | None
    middle: float | None
    dots: tuple[float, ...]
    ratio: str
    hd95: str
    assd: str
    cases: int
    patients: int
    seeds: int


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
class Finding:
    """The headline of one label.

    Attributes:
        label: name of the label.
        figure: the number to print large.
        interval: interval of that number; empty if there is none.
        caption: description of the number.
        sentence: the Dice behind it, the numbers of patients and seeds, and the mean of single
            sites.
    """

    label: str
    figure: str
    interval: str
    caption: str
    sentence: str


@final
@dataclass(frozen=True)
class Usefulness:
    """Content of the page's section on usefulness.

    Attributes:
        headline: the evaluation's headline, one line per label.
        findings: one per label.
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
    try:
        text = bounded_text(path, MOST_RESULTS, links=False)
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


def _read(stored: Mapping[str, Any], folder: Path) -> Usefulness:
    rows: list[Mapping[str, Any]] = stored["rows"]
    by_label: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row)
    return Usefulness(
        headline=tuple(str(stored.get("headline", "")).splitlines()),
        findings=tuple(_finding(label, rows) for label, rows in by_label.items()),
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


def _finding(label: str, rows: Sequence[Mapping[str, Any]]) -> Finding:
    """The synthetic model's relative Dice; without such a model, the Dice of all real images."""
    of_model = {row["model"]: row for row in rows}
    real = of_model.get(REAL_ALL, rows[0])
    ratios = [row["ratio"] for row in rows if of_single_sites(row["model"])]
    known = [ratio for ratio in ratios if ratio is not None]
    single = f" Single sites: {sum(known) / len(known):.2f} on average." if known else ""
    counts = f"{counted(real['patients'], 'patient')}, {counted(real['seeds'], 'seed')}"
    if (row := of_model.get(SYNTHETIC)) is None:
        interval = _interval(real["dice_low"], real["dice_high"], 3)
        caption = "Dice of all real images"
        return Finding(
            label, decimal(real["dice_mean"], 3), interval, caption, f"{counts}.{single}"
        )
    pair = f"{decimal(row['dice_mean'], 3)} against {decimal(real['dice_mean'], 3)}"
    return Finding(
        label=label,
        figure=decimal(row["ratio"], 2),
        interval=_interval(row["ratio_low"], row["ratio_high"], 2),
        caption="of the Dice that all real images reach",
        sentence=f"{pair}; {counts}.{single}",
    )


def label_table(
    label: str,
    rows: Sequence[Mapping[str, Any]],
    per_patient: PerPatient = MappingProxyType({}),
) -> LabelTable:
    """One table of the page.

    Args:
        label: name of the label.
        rows: with the keys of `evaluation.table.Row`, and maybe `recipe`.
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
    return LabelTable(
        label=label,
        entries=tuple(
            _entry(
                row,
                place(row["dice_low"]),
                place(row["dice_high"]),
                place(row["dice_mean"]),
                [
                    at
                    for value in per_patient.get(row["model"], {}).get(label, {}).get("dice", ())
                    if (at := place(value)) is not None
                ],
            )
            for row in rows
        ),
        least=f"{least:.2f}".rstrip("0").rstrip("."),
        most="1",
        reference=place(reference),
    )


def _entry(
    row: Mapping[str, Any],
    low: float | None,
    high: float | None,
    middle: float | None,
    dots: Sequence[float],
) -> Entry:
    model = str(row["model"])
    site = site_of(model)
    recipe = f" ({row['recipe']})" if row.get("recipe") else ""
    added = ", and synthetic ones" if model.endswith((ADDED, AUGMENTED)) else ""
    names = {
        REAL_ALL: "Real images of all sites",
        SYNTHETIC: "Synthetic images alone",
        FEDAVG: "One network over all sites (FedAvg)",
        FEDAVG_WITHOUT: "One network over all sites (FedAvg), with what they hold",
        FEDGAN: "Synthetic images of FedGAN alone",
    }
    kinds = {REAL_ALL: "all", SYNTHETIC: "synthetic"}
    return Entry(
        name=names.get(model, f"Real images of {site}{added}" if site else model) + recipe,
        kind=kinds.get(model, "site"),
        site=site,
        dice=decimal(row["dice_mean"], 3),
        interval=_interval(row["dice_low"], row["dice_high"], 3),
        low=low,
        high=high,
        middle=middle,
        dots=tuple(dots),
        ratio=decimal(row["ratio"], 2),
        hd95=decimal(row["hd95_mean"], 1),
        assd=decimal(row["assd_mean"], 1),
        cases=int(row["cases"]),
        patients=int(row["patients"]),
        seeds=int(row["seeds"]),
    )


def _interval(low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def _gain(item: Mapping[str, Any]) -> str:
    how = "synthetic ones" if str(item["model"]).endswith(ADDED) else "those of an augmented set"
    interval = _interval(item["low"], item["high"], 3)
    seen = "; ".join(part for part in (interval, counted(int(item["patients"]), "patient")) if part)
    return (
        f"{item['label']}, {site_of(str(item['model']))}: {how} beside its own cases change Dice "
        f"by {item['difference']:+.3f} ({seen})."
    )


def _levelling(item: Mapping[str, Any]) -> str:
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
    content = contents(path, MOST_FIGURE, links=False)
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
