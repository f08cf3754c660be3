"""`asyndgan fingerprint`: measures a data set for a plan."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from asyndgan.cli.options import StudyOption
from asyndgan.cli.plan import refuse_old, write_new
from asyndgan.cli.tables import summarise_table
from asyndgan.cli.terminal import Terminal
from asyndgan.intake.nnunet import DEFAULT_PATIENT_PATTERN

if TYPE_CHECKING:
    from asyndgan.recipe.fingerprint import Counted, Fingerprint, Spread


def fingerprint(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Data set. It holds a dataset.json.")
    ],
    out: Path | None = None,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
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
    from asyndgan.tables.schema import is_table, refuse_for_images

    if out:
        refuse_old(out)
    if is_table(folder):
        refuse_for_images({"patient_pattern": patient_pattern != DEFAULT_PATIENT_PATTERN})
        return summarise_table(Terminal(), folder, out)
    found = measured(folder, patient_pattern)
    console = Terminal()
    table = Table(show_header=False)
    table.add_column(style="cyan", overflow="fold", ratio=1)
    table.add_column(overflow="fold", ratio=3)
    for row in rows(found):
        table.add_row(*row)
    console.print(table)
    console.say("Spreads are medians over patients, with the 10th and 90th percentile.")
    console.say("'behind' counts the patients of each figure. A federation does not get it.")
    if out:
        write_new(out, found.model_dump_json(indent=2) + "\n")
        console.say(f"Written to {out}.")


def rows(found: "Fingerprint") -> Iterator[tuple[str, str]]:
    """Heading and text of each row of a table with all that a fingerprint tells."""
    from asyndgan.recipe.fingerprint import PLANES, Levels

    yield "patients", _told(found.patients)
    yield "cases", f"{_told(found.cases)}, {_told(found.slices)} slices"
    yield "behind", _behind(found)
    volumes = len(found.axes) == 3
    if volumes:
        yield "orientation", f"{found.orientation}; thick axis: {found.thick or 'none'}"
    names = [f"{axis} axis" for axis in PLANES] if volumes else ["rows", "columns"]
    for name, side in zip(names, found.axes, strict=False):
        mm = f"; {_spread(side.mm)} mm each, view {_spread(side.view)} mm" if found.spaced else ""
        yield name, f"{_spread(side.voxels)} pixels, {side.common:.0%} of cases alike{mm}"
        yield "  behind", _behind(side)
    for axis, share in found.unlabelled.items():
        yield f"{axis} slices", f"{share:.0%} without a label"
    for one in found.modalities:
        yield one.name, f"{one.kind}, {one.bits} bits, {_told(one.patients)} patients"
        for where in ("whole", "inside", "outside"):
            if levels := getattr(one, where):
                for name, field in zip(
                    ("0.5", "1", "50", "99", "99.5"), Levels.model_fields, strict=True
                ):
                    yield f"  {where}, {name} %", _spread(getattr(levels, field))
        if one.explained is not None:
            yield "  labels explain", f"{one.explained:.0%} of the variance"
        yield "  behind", _behind(one)
    for label in found.labels:
        yield f"label {label.number} {label.name}", f"{_told(label.patients)} patients"
        if label.slices is not None and label.area:
            yield "  in slices", f"{label.slices:.0%}; {_spread(label.area)} of their pixels"
        if label.side is not None and label.kept is not None:
            swap = f"; exchanged with {label.exchanged}" if label.exchanged else ""
            yield "  mirrored", f"{label.kept:.0%} stay; side {label.side:+.2f}{swap}"
        yield "  behind", _behind(label)


def _spread(found: "Spread") -> str:
    if found.lowest == found.highest:
        return f"{found.middle:.4g}"
    return f"{found.middle:.4g} ({found.lowest:.4g} to {found.highest:.4g})"


def _behind(part: "Counted") -> str:
    """What `Counted.behind` says, without counts of nobody at its end."""
    told = {name: "/".join(map(str, counts)) for name, counts in part.behind.items()}
    return ", ".join(f"{name} {text.removesuffix('/0/0')}" for name, text in told.items()) or "-"


def _told(count: int | None) -> str:
    return "withheld" if count is None else str(count)
