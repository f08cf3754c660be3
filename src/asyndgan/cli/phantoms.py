"""`asyndgan phantoms`: drawn data sets with which everything can be tried."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from rich.table import Table

from asyndgan.cli.terminal import Terminal
from asyndgan.data.phantoms import DEFAULT_SITES, write_phantoms


def phantoms(
    out: Annotated[
        Path, typer.Argument(help="Folder to write to; made if need be.", file_okay=False)
    ],
    size: Annotated[int, typer.Option(min=32, help="Rows and columns of an image.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds give other patients.")] = 0,
    patients: Annotated[
        float, typer.Option(help="Factor of every number of patients: 0.2 for a quick try.")
    ] = 1.0,
) -> None:
    """Draws heads of four sites and a test set: T1, T2, FLAIR and label maps.

    The sites differ in their scanner's look, their lesions and their number of patients. The
    images are of no real person, so they may be shown and shared freely.
    """
    written = write_phantoms(out, size=size, seed=seed, patients_scale=patients)
    table = Table("data set", "folder")
    table.add_column("cases", justify="right")
    for name, cases in written.items():
        table.add_row(name, str(out / name), str(cases))
    console = Terminal()
    console.print(table)
    first = out / DEFAULT_SITES[0].name
    console.print(f"\nNext: asyndgan check {quote(str(first))}", soft_wrap=True)
