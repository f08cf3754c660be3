"""A suite's results as tables of text, each with its heading as the first row."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from asyndgan.judging.table import REAL_ALL, SYNTHETIC
from asyndgan.reports.words import counted, decimal, duration, size
from lab.kid import KID, thousandths
from lab.result import CONTRASTS, FEDAVG, LOCAL, POOLED

Row = Mapping[str, Any]
Table = list[list[str]]
Titled = Iterator[tuple[str, Table]]
Part = Callable[[Iterable[Row]], Titled]
Columns = dict[str, Callable[[Row], list[str]]]
"""Cells of a row, by the headings of their columns."""

_NAMES = {
    REAL_ALL: "all real images",
    FEDAVG: "FedAvg",
    SYNTHETIC: "synthetic images alone",
    POOLED: "synthetic images of all seeds",
    LOCAL: "a generator for each site, sets pooled",
    CONTRASTS: "random contrast from masks, no generator",
}


def tables_of(result: Row) -> dict[str, Table]:
    """All tables of a suite, by title."""
    parts = ((part, result.get(key, ())) for key, part in _PARTS.items())  # a result may be older
    return {title: table for part, rows in parts for title, table in part(rows)}


def grouped(rows: Iterable[Row], heading: Callable[[Row], str]) -> dict[str, list[Row]]:
    """The rows under each heading."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(heading(row), []).append(row)
    return groups


def by_set(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by set and, for patients reported apart, by their group."""
    return grouped(
        rows, lambda row: f"{row['set']}, {row['apart']}" if row.get("apart") else str(row["set"])
    )


def by_label(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by set and label."""
    return grouped(rows, lambda row: f"{row['set']}: {row['label']}")


# Cells of a row


def _text(*keys: str) -> Callable[[Row], list[str]]:
    return lambda row: [str(row[key]) for key in keys]


def _number(*keys: str, digits: int) -> Callable[[Row], list[str]]:
    return lambda row: [decimal(row.get(key), digits) for key in keys]


def _size(*keys: str) -> Callable[[Row], list[str]]:
    return lambda row: [size(row[key]) if row[key] else "" for key in keys]


def _estimate(key: str, bounds: str = "", *, digits: int = 3) -> Callable[[Row], list[str]]:
    """A number and its interval; `bounds`: key of the interval's ends, if it differs from `key`."""
    low, high = f"{bounds or key}_low", f"{bounds or key}_high"
    return lambda row: [
        decimal(row.get(key), digits), _between(row.get(low), row.get(high), digits)
    ]  # fmt: skip


def shown_as(model: str) -> str:
    """What a row's model is called in tables."""
    return _NAMES.get(model, model.replace("real:", "real images of ").replace("+", " + "))


def _name(row: Row) -> list[str]:
    name = shown_as(row["model"])
    name = name.replace("fedgan-synthetic", "synthetic images of FedGAN")
    name = name.replace("fedavg-without", "FedAvg, sites with what they hold")
    return [f"**{name} ({row['recipe']})**" if row["recipe"] else name]


def _of_seeds(row: Row) -> list[str]:
    several = row["seeds"] > 1
    return [_between(row["dice_least"], row["dice_most"], 3) if several else "one seed"]


def _painting(row: Row) -> list[str]:
    words = [f"{row['images']} {'image' if row['images'] == 1 else 'images'} a mask"]
    if row.get("faded"):
        low, high = row["contrasts"]
        words.append(f"{' and '.join(row['faded'])} at {low:g} to {high:g} of its contrast")
    return [", ".join(words)]


def _with_floor(value: float | None, floor: float | None) -> str:
    return f"{decimal(value, 3)} ({decimal(floor, 3)})"


def _between(low: float | None, high: float | None, digits: int) -> str:
    if low is None and high is None:
        return decimal(None, digits)
    return f"{decimal(low, digits)} to {decimal(high, digits)}"


def _row_of(values: Iterable[float | None], digits: int) -> str:
    return " ".join(decimal(value, digits) for value in values)


# Tables: headings, and the cells below them

_RESULTS: Final[Columns] = {
    "trained on": _name,
    "cases": _text("cases"),
    "Dice | interval": _estimate("dice_mean", "dice"),
    "of seeds": _of_seeds,
    "of all-real | interval": _estimate("ratio"),
    "with trainings": lambda row: [
        _between(row["trainings_low"], row["trainings_high"], 3) if "trainings_low" in row else ""
    ],
    "HD95 | ASSD": _number("hd95_mean", "assd_mean", digits=1),
    "generator trained in": lambda row: [duration(row["seconds"]) if row["seconds"] else ""],
    "bytes of a site": _size("bytes"),
}
_APART: Final[Columns] = {
    "trained on": _name,
    "patients": _text("patients"),
    "Dice | interval": _estimate("dice"),
    "HD95 | ASSD": _number("hd95", "assd", digits=1),
}
_PAINTINGS: Final[Columns] = {
    "recipe": _text("recipe"),
    "painted": _painting,
    "cases": _text("cases"),
    "Dice | interval": _estimate("dice_mean", "dice"),
    "of all-real | interval": _estimate("ratio"),
}
_NETWORKS: Final[Columns] = {
    "network": _text("network"),
    # The row of all real images is the same for every recipe.
    "trained on": lambda row: _name(row if row["model"] != "real-all" else {**row, "recipe": ""}),
    "Dice | interval": _estimate("dice_mean", "dice"),
    "of its all-real | interval": _estimate("ratio"),
}
_LEVELLING: Final[Columns] = {
    "label | steps": _text("label", "steps"),
    "Dice": _number("dice", digits=3),
    "steps": _text("longer_steps"),
    "Dice | difference": _number("longer_dice", "difference", digits=3),
    "patients | seeds": _text("patients", "seeds"),
}
_DIAGNOSES: Final[Columns] = {
    "recipe": _text("recipe"),
    "components | real": _number("components", "components_real", digits=0),
    "nearest | real": _number("nearest", "nearest_real", digits=3),
    "repeated": _number("repeated", digits=2),
    "precision | recall | density | coverage": _number(
        "precision", "recall", "density", "coverage", digits=2
    ),
    "FRD | real": _number("frd", "frd_real", digits=0),
    "told": _number("told", digits=2),
    "told at": lambda row: [
        ", ".join(f"{place} {decimal(weight, 1)}" for place, weight in row["told_at"].items())
    ],
    "spectrum": lambda row: [_row_of(row["spectrum"], 2)],
    "border | real": lambda row: [_row_of(row["border"], 3), _row_of(row["border_real"], 3)],
}
_TRAFFIC: Final[Columns] = {
    "recipe | steps": _text("recipe", "steps"),
    "sent a step | received a step | generator | discriminator | a FedGAN round": _size(
        "sent", "received", "generator", "discriminator", "fedgan_round"
    ),
    "K*": _number("break_even", digits=0),
}
_CONSISTENCY: Final[Columns] = {
    "recipe | label | modalities": _text("recipe", "label", "pair"),
    "correlation, real | synthetic": _number("real", "synthetic", digits=2),
    "joint histograms apart (real halves)": lambda row: [_with_floor(row["joint"], row["floor"])],
}
_COMPLETIONS: Final[Columns] = {
    "recipe | completed by": _text("recipe", "way"),
    "SSIM | interval": _estimate("ssim"),
    "behind 'translated' (mask hidden likewise) | interval": _estimate("ahead"),
    "PSNR (dB)": _number("psnr", digits=1),
    "behind | interval": _estimate("psnr_ahead", digits=1),
    "Dice when segmented | interval": _estimate("dice"),
    "more than left as it is | interval": _estimate("filled"),
    "more than without it | interval": _estimate("gain"),
}
_DIFFERENCES: Final[Columns] = {
    "recipe | trained on | less trained on": _text("recipe", "model", "over"),
    "difference": lambda row: [f"{row['difference']:+.3f}"],
    "interval": lambda row: [_between(row["low"], row["high"], 3)],
    "ratio | interval": _estimate("ratio"),
    "patients": _text("patients"),
}


def _table(columns: Columns, rows: Iterable[Row]) -> Table:
    """Equal lines stand once."""
    heading = [name for names in columns for name in names.split(" | ")]
    lines = dict.fromkeys(
        tuple(cell for cells in columns.values() for cell in cells(row)) for row in rows
    )
    return [heading, *map(list, lines)]


def _each_label(rows: Iterable[Row]) -> Titled:
    for name, own in by_label(rows).items():
        filled = {
            "of seeds": any(row["seeds"] > 1 for row in own),
            "with trainings": any("trainings_low" in row for row in own),
        }
        columns = {key: cells for key, cells in _RESULTS.items() if filled.get(key, True)}
        yield f"{name}, {own[0]['patients']} patients", _table(columns, own)


def _each_set(
    title: str, columns: Columns, newer: Mapping[str, str] = MappingProxyType({})
) -> Part:
    """`newer`: keys of rows that older results lack, by the heading that is then left out."""

    def part(rows: Iterable[Row]) -> Titled:
        for name, own in by_set(rows).items():
            lacking = {heading for heading, key in newer.items() if all(key not in r for r in own)}
            kept = {heading: cells for heading, cells in columns.items() if heading not in lacking}
            yield f"{name}{title}", _table(kept, own)

    return part


def _each_completion(rows: Iterable[Row]) -> Titled:
    for name, own in by_set(rows).items():
        patients = counted(max(row.get("patients", 0) for row in own), "patient")
        about = f"{own[0]['modality']} completed, {patients} of no site"
        yield f"{name}: {about}, within the labels", _table(_COMPLETIONS, own)


def _apart(measure: str, text: Callable[[float | None], str]) -> Part:
    def part(rows: Iterable[Row]) -> Titled:
        for name, own in by_set(rows).items():
            columns: Columns = {
                "painted by": _name,
                "all sites": lambda row: [f"{text(row['mixture'])} ({text(row['floor'])})"],
                " | ".join(own[0]["of_sites"]): lambda row: [
                    f"{text(value)} ({text(row['floors'][site])})"
                    for site, value in row["of_sites"].items()
                ],
            }
            yield f"{name}: {measure} from real images (between real halves)", _table(columns, own)

    return part


_PARTS: Final[dict[str, Part]] = {
    "rows": _each_label,
    "apart": _each_set(", apart", _APART),
    "paintings": _each_set(": other synthetic sets", _PAINTINGS),
    "networks": _each_set(": other segmentation networks", _NETWORKS),
    "levelling": _each_set(
        ": was the budget long enough? (validation patients, all real images)", _LEVELLING
    ),
    "traffic": _each_set(": feedback against weights, bytes of a site", _TRAFFIC),
    "kids": _apart(KID, thousandths),
    "distances": _apart("distance", partial(decimal, digits=3)),  # of results before the KID
    "diagnoses": _each_set(
        ": what synthetic images lack beside real ones", _DIAGNOSES, {"FRD | real": "frd"}
    ),
    "consistency": _each_set(
        ": how modalities go together, against the judged patients", _CONSISTENCY
    ),
    "completions": _each_completion,
    "differences": _each_set(": paired differences of Dice", _DIFFERENCES),
}
"""The parts of a result in the order of their tables, and how each becomes titled tables."""
