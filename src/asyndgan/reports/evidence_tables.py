"""A suite's results as tables of text, each with its heading as the first row."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from asyndgan.reports.words import counted, decimal, duration, size

Row = Mapping[str, Any]
Table = list[list[str]]
Titled = Iterator[tuple[str, Table]]
Part = Callable[[Iterable[Row]], Titled]

_NAMES = {"real-all": "all real images", "fedavg": "FedAvg", "synthetic": "synthetic images alone"}


def tables_of(result: Row) -> dict[str, Table]:
    """All tables of a suite, by title."""
    return {title: table for key, part in _PARTS.items() for title, table in part(result[key])}


def by_set(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by set and, for patients reported apart, by their group."""
    sets: dict[str, list[Row]] = {}
    for row in rows:
        name = row["set_name"] if "set_name" in row else row["set"]
        heading = f"{name}, {row['apart']}" if row.get("apart") else str(name)
        sets.setdefault(heading, []).append(row)
    return sets


def by_label(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by set and label."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"{row['set']}: {row['label']}", []).append(row)
    return groups


def _results(rows: list[Row]) -> Table:
    several = any(row["seeds"] > 1 for row in rows)
    heading = ["trained on", "cases", "Dice", "interval", *(["of seeds"] if several else [])]
    heading += ["of all-real", "interval", "HD95", "ASSD"]
    heading += ["generator trained in", "bytes of a site"]
    return [heading, *(_result(row, several) for row in rows)]


def _result(row: Row, several: bool) -> list[str]:
    return [
        _name(row),
        str(row["cases"]),
        *_estimate(row, "dice_mean", "dice"),
        *([_of_seeds(row)] if several else []),
        *_estimate(row, "ratio"),
        decimal(row["hd95_mean"], 1),
        decimal(row["assd_mean"], 1),
        duration(row["seconds"]) if row["seconds"] else "",
        size(row["bytes"]) if row["bytes"] else "",
    ]


def _of_seeds(row: Row) -> str:
    return _between(row["dice_least"], row["dice_most"], 3) if row["seeds"] > 1 else "one seed"


def _apart(rows: list[Row]) -> Table:
    heading = ["trained on", "patients", "Dice", "interval", "HD95", "ASSD"]
    return [
        heading,
        *(
            [
                _name(row),
                str(row["patients"]),
                *_estimate(row, "dice"),
                decimal(row["hd95"], 1),
                decimal(row["assd"], 1),
            ]
            for row in rows
        ),
    ]


def _paintings(rows: list[Row]) -> Table:
    heading = ["recipe", "painted", "cases", "Dice", "interval", "of all-real", "interval"]
    return [
        heading,
        *(
            [
                row["recipe"],
                _painting(row),
                str(row["cases"]),
                *_estimate(row, "dice_mean", "dice"),
                *_estimate(row, "ratio"),
            ]
            for row in rows
        ),
    ]


def _painting(row: Row) -> str:
    words = [f"{row['images']} {'image' if row['images'] == 1 else 'images'} a mask"]
    if row.get("faded"):
        low, high = row["contrasts"]
        words.append(f"{' and '.join(row['faded'])} at {low:g} to {high:g} of its contrast")
    return ", ".join(words)


def _networks(rows: list[Row]) -> Table:
    heading = ["network", "trained on", "Dice", "interval", "of its all-real", "interval"]
    lines = {
        (
            row["network"],
            # The row of all real images is the same for every recipe.
            _name(row if row["model"] != "real-all" else {**row, "recipe": ""}),
            *_estimate(row, "dice_mean", "dice"),
            *_estimate(row, "ratio"),
        ): None
        for row in rows
    }
    return [heading, *map(list, lines)]


def _levelling(rows: list[Row]) -> Table:
    heading = ["label", "steps", "Dice", "steps", "Dice", "difference", "patients", "seeds"]
    return [
        heading,
        *(
            [
                row["label"],
                str(row["steps"]),
                decimal(row["dice"], 3),
                str(row["longer_steps"]),
                decimal(row["longer_dice"], 3),
                decimal(row["difference"], 3),
                str(row["patients"]),
                str(row["seeds"]),
            ]
            for row in rows
        ),
    ]


def _traffic(rows: list[Row]) -> Table:
    sizes = ("sent", "received", "generator", "discriminator", "fedgan_round")
    heading = ["recipe", "steps", "sent a step", "received a step", "generator", "discriminator"]
    return [
        [*heading, "a FedGAN round", "K*"],
        *(
            [
                row["recipe"],
                str(row["steps"]),
                *(size(row[key]) for key in sizes),
                f"{row['break_even']:.0f}",
            ]
            for row in rows
        ),
    ]


def _checkpoints(row: Row) -> Table:
    heading = ["step", "distance", f"clipped at {row['clip']:.1f}", "the coordinator's", "Dice"]
    columns = (row[key] for key in ("steps", "pooled", "clipped", "coordinator", "dice"))
    return [
        heading,
        *(
            [str(step), *(decimal(number, 3) for number in numbers)]
            for step, *numbers in zip(*columns, strict=True)
        ),
    ]


def _correlations(row: Row) -> Table:
    found = ([pair, decimal(value, 2)] for pair, value in row["correlations"].items())
    return [["between", "Spearman's"], *found]


def _distances(rows: list[Row]) -> Table:
    sites = list(rows[0]["of_sites"])
    return [
        ["painted by", "all sites", *sites],
        *(
            [_name(row), _with_floor(row["mixture"], row["floor"])]
            + [_with_floor(row["of_sites"][site], row["floors"][site]) for site in sites]
            for row in rows
        ),
    ]


def _consistency(rows: list[Row]) -> Table:
    heading = ["recipe", "label", "modalities", "correlation, real", "synthetic"]
    return [
        [*heading, "joint histograms apart (real halves)"],
        *(
            [
                row["recipe"],
                row["label"],
                row["pair"],
                decimal(row["real"], 2),
                decimal(row["synthetic"], 2),
                _with_floor(row["joint"], row["floor"]),
            ]
            for row in rows
        ),
    ]


def _completions(rows: list[Row]) -> Table:
    heading = [
        "recipe",
        "completed by",
        "SSIM",
        "interval",
        "behind 'translated' (mask hidden likewise)",
        "interval",
    ]
    heading += ["PSNR (dB)", "behind", "interval", "Dice when segmented", "interval"]
    heading += ["more than left as it is", "interval", "more than without it", "interval"]
    return [
        heading,
        *(
            [
                row["recipe"],
                row["way"],
                *_estimate(row, "ssim"),
                *_estimate(row, "ahead"),
                decimal(row.get("psnr"), 1),
                *_estimate(row, "psnr_ahead", digits=1),
                *_estimate(row, "dice"),
                *_estimate(row, "filled"),
                *_estimate(row, "gain"),
            ]
            for row in rows
        ),
    ]


def _differences(rows: list[Row]) -> Table:
    heading = [
        "recipe", "trained on", "less trained on", "difference", "interval", "ratio", "interval",
        "patients",
    ]  # fmt: skip
    return [
        heading,
        *(
            [
                row["recipe"],
                row["model"],
                row["over"],
                f"{row['difference']:+.3f}",
                _between(row["low"], row["high"], 3),
                *_estimate(row, "ratio"),
                str(row["patients"]),
            ]
            for row in rows
        ),
    ]


def _each_label(rows: Iterable[Row]) -> Titled:
    for name, own in by_label(rows).items():
        yield f"{name}, {own[0]['patients']} patients", _results(own)


def _each_set(title: str, table: Callable[[list[Row]], Table]) -> Part:
    return lambda rows: ((f"{name}{title}", table(own)) for name, own in by_set(rows).items())


def _each_training(rows: Iterable[Row]) -> Titled:
    for row in rows:
        name = f"{row['set_name']}, {row['recipe']}"
        yield f"{name}: distances as judges of checkpoints", _checkpoints(row)
        yield f"{name}: rank correlation of {len(row['steps'])}", _correlations(row)


def _each_completion(rows: Iterable[Row]) -> Titled:
    for name, own in by_set(rows).items():
        patients = counted(max(row.get("patients", 0) for row in own), "patient")
        about = f"{own[0]['modality']} completed, {patients} of no site"
        yield f"{name}: {about}, within the labels", _completions(own)


_PARTS: Final[dict[str, Part]] = {
    "rows": _each_label,
    "apart": _each_set(", apart", _apart),
    "paintings": _each_set(": other synthetic sets", _paintings),
    "networks": _each_set(": other segmentation networks", _networks),
    "levelling": _each_set(
        ": was the budget long enough? (validation patients, all real images)", _levelling
    ),
    "traffic": _each_set(": feedback against weights, bytes of a site", _traffic),
    "checkpoints": _each_training,
    "distances": _each_set(": distance from real images (between real halves)", _distances),
    "consistency": _each_set(
        ": how modalities go together, against the judged patients", _consistency
    ),
    "completions": _each_completion,
    "differences": _each_set(": paired differences of Dice", _differences),
}
"""The parts of a result in the order of their tables, and how each becomes titled tables."""


def _name(row: Row) -> str:
    model = row["model"]
    name = _NAMES.get(model, model.replace("real:", "real images of ").replace("+", " + "))
    name = name.replace("fedgan-synthetic", "synthetic images of FedGAN")
    name = name.replace("fedavg-without", "FedAvg, sites with what they hold")
    return f"**{name} ({row['recipe']})**" if row["recipe"] else name


def _estimate(row: Row, key: str, bounds: str = "", *, digits: int = 3) -> list[str]:
    """A number and its interval; `bounds`: key of the interval's ends, if it differs from `key`."""
    bounds = bounds or key
    low, high = row.get(f"{bounds}_low"), row.get(f"{bounds}_high")
    return [decimal(row.get(key), digits), _between(low, high, digits)]


def _with_floor(value: float | None, floor: float | None) -> str:
    return f"{decimal(value, 3)} ({decimal(floor, 3)})"


def _between(low: float | None, high: float | None, digits: int) -> str:
    if low is None and high is None:
        return decimal(None, digits)
    return f"{decimal(low, digits)} to {decimal(high, digits)}"
