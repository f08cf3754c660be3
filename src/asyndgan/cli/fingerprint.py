"""`asyndgan fingerprint`: measures a data set for a plan."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from asyndgan.cli.options import AsJson, StudyOption, print_json
from asyndgan.cli.plan import refuse_old, write_new
from asyndgan.cli.terminal import Terminal


def fingerprint(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Data set. It holds a dataset.json.")
    ],
    out: Path | None = None,
    as_json: AsJson = False,
    study: StudyOption = None,
) -> None:
    """Measures a data set for a plan: figures, and no image.

    Prints all that the fingerprint tells. Read it before you hand it over: it describes patients'
    images as a whole.

    Example:
        asyndgan fingerprint data/north --out north.json

    Output:
        --out FILE: New file for the fingerprint, as JSON.
    """
    from asyndgan.intake.fingerprint import measured
    from asyndgan.tables.profile import oddities
    from asyndgan.tables.schema import is_table
    from asyndgan.tables.summary import LEAST, summarised
    from asyndgan.tables.table import Table as Records

    if out:
        refuse_old(out)
    console, shown = Terminal(stderr=as_json), Table("figure", "tells", show_header=False)
    if is_table(folder):
        read = Records.read(folder)
        found: Any = summarised(read)
        for note in oddities(read.records, read.schema):
            console.say(f"! {note}", style="yellow")
        about = (
            f"Each mean is of {LEAST} records or more that are next to each other in the order of "
            f"the column; counts are rounded to {LEAST}. Columns are told one by one."
        )
    else:
        found = measured(folder)
        about = (
            "Spreads are medians over patients, with the 10th and 90th percentile.\n"
            "'behind' counts the patients of each figure. A federation does not get it."
        )
    shown.columns[0].style, shown.columns[1].overflow = "cyan", "fold"
    for row in rows(found.model_dump(mode="json", exclude={"version"})):
        shown.add_row(*row)
    console.print(shown)
    console.say(about)
    if as_json:
        print_json(found.model_dump(mode="json"))
    if out:
        write_new(out, found.model_dump_json(indent=2) + "\n")
        console.say(f"Written to {out}.")


def rows(part: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """The name of each figure of a fingerprint, with the names above it, and what it tells."""
    for name, value in part.items():
        whole = f"{above} {name}".strip()
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {f"{one.get('name', place)}": one for place, one in enumerate(value)}
        if isinstance(value, dict) and "middle" not in value and name != "behind":
            yield from rows(value, whole)
        else:
            yield whole, _told(value)


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(each)}" for name, each in value.items()) or "-"
    if isinstance(value, list):
        return " ".join(map(_told, value)) or "-"
    if value is None:
        return "withheld"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
