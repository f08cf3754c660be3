"""`asyndgan phantoms`: drawn data sets with which everything can be tried."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from rich.table import Table

from asyndgan.cli.options import AsJson, print_json
from asyndgan.cli.terminal import Terminal


def phantoms(
    out: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder to write.", file_okay=False)
    ],
    size: Annotated[int, typer.Option(min=32)] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    patients: float = 1.0,
    slices: Annotated[int | None, typer.Option(min=2, max=256)] = None,
    as_json: AsJson = False,
) -> None:
    """Draws phantom data sets: four sites and a test set.

    Each case is a head in T1, T2 and FLAIR with a label map. The sites differ in the look of
    their scanner, in lesions and in the number of patients. The images show no real person and
    may be shared freely.

    Example:
        asyndgan phantoms data --patients 0.2

    Data:
        --size N: Rows and columns of an image.
        --seed N: Random seed. Another seed draws other patients.
        --patients X: Factor for the number of patients. Use 0.2 for a quick try.
        --slices N: Draw a volume of N slices of each patient, as NIfTI, and no pictures.
    """
    from asyndgan.demo.phantoms import write_phantoms
    from asyndgan.export.writing import written_whole
    from asyndgan.intake.dataset import DataSet

    with written_whole(out) as half:
        written = write_phantoms(half, size=size, seed=seed, patients_scale=patients, slices=slices)
    table = Table("data set", "folder")
    table.add_column("patients", justify="right")
    table.add_column("cases", justify="right")
    drawn = {name: len({*DataSet(out / name).patients.values()}) for name in written}
    for name, cases in written.items():
        table.add_row(name, str(out / name), str(drawn[name]), str(cases))
    console = Terminal(stderr=as_json)
    console.print(table)
    console.say(f"\nNext: asyndgan init {quote(str(out))}")
    if as_json:
        print_json(
            {
                name: {"folder": out / name, "patients": drawn[name], "cases": cases}
                for name, cases in written.items()
            }
        )
