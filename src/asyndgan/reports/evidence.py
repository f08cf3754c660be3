"""A suite's tables as Markdown and as one self-contained page."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asyndgan.errors import RunError
from asyndgan.evaluation.figures import plot_amounts, plot_differences
from asyndgan.evaluation.table import site_of
from asyndgan.reports.gallery import data_uri
from asyndgan.reports.page import COLOURS, write_page
from asyndgan.reports.usefulness import figure, label_table
from asyndgan.reports.words import counted, decimal, duration, size

Row = Mapping[str, Any]

_NAMES = {"real-all": "all real images", "fedavg": "FedAvg", "synthetic": "synthetic images alone"}


def write_evidence(out: Path, *, examples: bool = False) -> tuple[Path, Path]:
    """Writes `suite.md` and `suite.html` beside a suite's `suite.json`.

    Args:
        out: the suite's output folder.
        examples: show predictions on real patients in the page.

    Returns:
        Both files.

    Raises:
        RunError: there is no `suite.json`.
    """
    try:
        result = json.loads((out / "suite.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{out} holds no suite.json; make it with 'asyndgan benchmark'.") from error
    markdown = out / "suite.md"
    markdown.write_text(to_markdown(result), "utf-8")
    tables = {
        name: [label_table(own[0]["label"], own) for own in _by_label(rows).values()]
        for name, rows in _by_set(result["rows"]).items()
    }
    sites = [name for row in result["rows"] if (name := site_of(row["model"]))]
    page = {
        "result": result,
        "tables": tables,
        "numbers": {name: number for number, name in enumerate(dict.fromkeys(sites))},
        "colours": COLOURS,
        "markdown": _parts(result),
        "amounts": {
            name: data_uri(plot_amounts(rows), "image/svg+xml")
            for name, rows in _by_set(filter(_by_number_only, result["paintings"])).items()
        },
        "differences": {
            name: data_uri(plot_differences(rows), "image/svg+xml")
            for name, rows in _by_set(result["differences"], "set_name").items()
        },
        "pictures": {name: figure(out / file) for name, file in result["pictures"].items()},
        "plots": {
            name: [
                picture
                for file in ("dice.svg", *(["examples.png", "completion.png"] if examples else []))
                if (picture := figure(out / folder / file))
            ]
            for name, folder in result["evaluations"].items()
        },
    }
    return markdown, write_page("evidence.html.jinja", page, out / "suite.html")


def find_block(document: str, suite: str) -> tuple[int, int]:
    """Where the tables of a suite stand in a document: after the first mark, before the second.

    Raises:
        RunError: if the document lacks `<!-- suite: NAME -->` and `<!-- end of suite: NAME -->`.
    """
    begin, end = f"<!-- suite: {suite} -->", f"<!-- end of suite: {suite} -->"
    start = document.find(begin) + len(begin)
    stop = document.find(end, start)
    if begin not in document or stop < 0:
        raise RunError(f"the document has no place for this suite: write {begin} and {end} in it.")
    return start, stop


def replace_block(document: str, suite: str, block: str) -> str:
    """A document with a suite's tables in place of those between its two marks; see `find_block`.

    Raises:
        RunError: as `find_block`.
    """
    start, stop = find_block(document, suite)
    return f"{document[:start]}\n\n{block}\n{document[stop:]}"


def to_markdown(result: Row) -> str:
    """Every table of a suite, for a document."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"Judged on {result['judged_on']} patients; {counted(result['seeds'], 'seed')} of every "
        f"generator, {counted(result['segmentation_seeds'], 'segmentation network')} of each "
        "training set; intervals of 95 % from a bootstrap over patients. Suite "
        f"`{result['suite']}` ({result['digest'][:12]}); {versions}.",
    ]
    for title, table in _parts(result).items():
        lines += ["", f"**{title}**", "", *markdown_table(table)]
    return "\n".join(lines) + "\n"


def _parts(result: Row) -> dict[str, list[list[str]]]:
    """Tables of text by title, each with its heading first."""
    parts: dict[str, list[list[str]]] = {}
    for name, rows in _by_label(result["rows"]).items():
        several = any(row["seeds"] > 1 for row in rows)
        parts[f"{name}, {rows[0]['patients']} patients"] = [
            ["trained on", "cases", "Dice", "interval", *(["of seeds"] if several else []),
             "of all-real", "interval", "HD95", "ASSD", "generator trained in", "bytes of a site"],
            *(_result_line(row, several) for row in rows),
        ]  # fmt: skip
    for name, rows in _by_set(result["apart"]).items():
        parts[f"{name}, apart"] = [
            ["trained on", "patients", "Dice", "interval", "HD95", "ASSD"],
            *(
                [_name(row), str(row["patients"]), decimal(row["dice"], 3),
                 _between(row["dice_low"], row["dice_high"], 3),
                 decimal(row["hd95"], 1), decimal(row["assd"], 1)]
                for row in rows
            ),
        ]  # fmt: skip
    for name, rows in _by_set(result["paintings"]).items():
        parts[f"{name}: other synthetic sets"] = [
            ["recipe", "painted", "cases", "Dice", "interval", "of all-real", "interval"],
            *(
                [row["recipe"], _painting(row), str(row["cases"]),
                 decimal(row["dice_mean"], 3), _between(row["dice_low"], row["dice_high"], 3),
                 decimal(row["ratio"], 3), _between(row["ratio_low"], row["ratio_high"], 3)]
                for row in rows
            ),
        ]  # fmt: skip
    for name, rows in _by_set(result["networks"]).items():
        parts[f"{name}: other segmentation networks"] = [
            ["network", "trained on", "Dice", "interval", "of its all-real", "interval"],
            *map(list, dict.fromkeys(  # all real images are the same beside every recipe
                (row["network"],
                 _name(row if row["model"] != "real-all" else {**row, "recipe": ""}),
                 decimal(row["dice_mean"], 3), _between(row["dice_low"], row["dice_high"], 3),
                 decimal(row["ratio"], 3), _between(row["ratio_low"], row["ratio_high"], 3))
                for row in rows
            )),
        ]  # fmt: skip
    for name, rows in _by_set(result["levelling"]).items():
        parts[f"{name}: was the budget long enough? (validation patients, all real images)"] = [
            ["label", "steps", "Dice", "steps", "Dice", "difference", "patients", "seeds"],
            *(
                [row["label"], str(row["steps"]), decimal(row["dice"], 3),
                 str(row["longer_steps"]), decimal(row["longer_dice"], 3),
                 decimal(row["difference"], 3), str(row["patients"]), str(row["seeds"])]
                for row in rows
            ),
        ]  # fmt: skip
    for name, rows in _by_set(result["traffic"], "set_name").items():
        parts[f"{name}: feedback against weights, bytes of a site"] = [
            ["recipe", "steps", "sent a step", "received a step", "generator", "discriminator",
             "a FedGAN round", "K*"],
            *(
                [row["recipe"], str(row["steps"]),
                 *(size(row[key]) for key in
                   ("sent", "received", "generator", "discriminator", "fedgan_round")),
                 f"{row['break_even']:.0f}"]
                for row in rows
            ),
        ]  # fmt: skip
    for row in result["checkpoints"]:
        parts[f"{row['set_name']}, {row['recipe']}: distances as judges of checkpoints"] = [
            ["step", "distance", f"clipped at {row['clip']:.1f}", "the coordinator's", "Dice"],
            *(
                [str(step), *(decimal(number, 3) for number in numbers)]
                for step, *numbers in zip(
                    *(row[key] for key in ("steps", "pooled", "clipped", "coordinator", "dice")),
                    strict=True,
                )
            ),
        ]
        parts[f"{row['set_name']}, {row['recipe']}: rank correlation of {len(row['steps'])}"] = [
            ["between", "Spearman's"],
            *([pair, decimal(value, 2)] for pair, value in row["correlations"].items()),
        ]
    for name, rows in _by_set(result["distances"]).items():
        sites = list(rows[0]["of_sites"])
        parts[f"{name}: distance from real images (between real halves)"] = [
            ["painted by", "all sites", *sites],
            *(
                [_name(row), _with_floor(row["mixture"], row["floor"]),
                 *(_with_floor(row["of_sites"][site], row["floors"][site]) for site in sites)]
                for row in rows
            ),
        ]  # fmt: skip
    for name, rows in _by_set(result["consistency"]).items():
        parts[f"{name}: how modalities go together, against the judged patients"] = [
            ["recipe", "label", "modalities", "correlation, real", "synthetic",
             "joint histograms apart (real halves)"],
            *(
                [row["recipe"], row["label"], row["pair"], decimal(row["real"], 2),
                 decimal(row["synthetic"], 2), _with_floor(row["joint"], row["floor"])]
                for row in rows
            ),
        ]  # fmt: skip
    for name, rows in _by_set(result["completions"]).items():
        patients = max(row.get("patients", 0) for row in rows)
        about = f"{rows[0]['modality']} completed, {counted(patients, 'patient')} of no site"
        parts[f"{name}: {about}, within the labels"] = [
            ["recipe", "completed by", "SSIM", "interval", "behind 'translated'", "interval",
             "PSNR (dB)", "behind", "interval", "Dice when segmented", "interval",
             "more than left as it is", "interval", "more than without it", "interval"],
            *(
                [row["recipe"], row["way"], decimal(row.get("ssim"), 3),
                 _between(row.get("ssim_low"), row.get("ssim_high"), 3),
                 decimal(row.get("ahead"), 3),
                 _between(row.get("ahead_low"), row.get("ahead_high"), 3),
                 decimal(row.get("psnr"), 1), decimal(row.get("psnr_ahead"), 1),
                 _between(row.get("psnr_ahead_low"), row.get("psnr_ahead_high"), 1),
                 decimal(row.get("dice"), 3),
                 _between(row.get("dice_low"), row.get("dice_high"), 3),
                 decimal(row.get("filled"), 3),
                 _between(row.get("filled_low"), row.get("filled_high"), 3),
                 decimal(row.get("gain"), 3),
                 _between(row.get("gain_low"), row.get("gain_high"), 3)]
                for row in rows
            ),
        ]  # fmt: skip
    for name, rows in _by_set(result["differences"], "set_name").items():
        parts[f"{name}: paired differences of Dice"] = [
            ["recipe", "trained on", "less trained on", "difference", "interval", "patients"],
            *(
                [row["recipe"], row["model"], row["over"], f"{row['difference']:+.3f}",
                 _between(row["low"], row["high"], 3), str(row["patients"])]
                for row in rows
            ),
        ]  # fmt: skip
    return parts


def _by_number_only(row: Row) -> bool:
    """Whether a painting differs from others in the number of images alone."""
    return not row["mixed"] and not row["dropped"]


def _painting(row: Row) -> str:
    words = [f"{row['images']} {'image' if row['images'] == 1 else 'images'} a mask"]
    if row["mixed"]:
        words.append(f"{row['mixed']} more with regions exchanged")
    if row["dropped"]:
        words.append(f"less the {row['dropped']:.0%} that contradict it most")
    return ", ".join(words)


def _result_line(row: Row, several: bool) -> list[str]:
    return [
        _name(row),
        str(row["cases"]),
        decimal(row["dice_mean"], 3),
        _between(row["dice_low"], row["dice_high"], 3),
        *([_between(row["dice_least"], row["dice_most"], 3)] if several else []),
        decimal(row["ratio"], 3),
        _between(row["ratio_low"], row["ratio_high"], 3),
        decimal(row["hd95_mean"], 1),
        decimal(row["assd_mean"], 1),
        duration(row["seconds"]) if row["seconds"] else "",
        size(row["bytes"]) if row["bytes"] else "",
    ]


def _name(row: Row) -> str:
    model = row["model"]
    name = _NAMES.get(model, model.replace("real:", "real images of ").replace("+", " + "))
    name = name.replace("fedgan-synthetic", "synthetic images of FedGAN")
    name = name.replace("fedavg-without", "FedAvg, sites with what they hold")
    return f"**{name} ({row['recipe']})**" if row["recipe"] else name


def _with_floor(value: float | None, floor: float | None) -> str:
    return f"{decimal(value, 3)} ({decimal(floor, 3)})"


def _between(low: float | None, high: float | None, digits: int) -> str:
    return f"{decimal(low, digits)} to {decimal(high, digits)}"


def _by_set(rows: Iterable[Row], key: str = "set") -> dict[str, list[Row]]:
    sets: dict[str, list[Row]] = {}
    for row in rows:
        heading = f"{row[key]}" + (f", {row['apart']}" if "apart" in row else "")
        sets.setdefault(heading, []).append(row)
    return sets


def _by_label(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"{row['set']}: {row['label']}", []).append(row)
    return groups


def markdown_table(table: Sequence[Sequence[str]]) -> Iterator[str]:
    """Its lines; the first row is the heading."""
    heading, *lines = table
    yield "| " + " | ".join(heading) + " |"
    yield "|" + "---|" * len(heading)
    for line in lines:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
