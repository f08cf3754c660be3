"""`asyndgan store`: the copies of data sets that commands keep beside their folders."""

from pathlib import Path
from typing import Annotated

import typer

from asyndgan.cli.help import Commands
from asyndgan.cli.options import AsJson, print_json
from asyndgan.cli.terminal import Terminal

store = Commands(
    """Shows and removes the copies of data sets that commands keep beside them.

    Example:
        asyndgan store show data/north
        asyndgan store remove data/north
    """
)

Folders = Annotated[
    list[Path], typer.Argument(metavar="FOLDER", help="Data sets of which there may be copies.")
]


@store.command()
def show(folders: Folders, as_json: AsJson = False) -> None:
    """Shows where the copy of each data set lies, and how large it is.

    Example:
        asyndgan store show data/north data/south
    """
    from asyndgan.reports.words import size
    from asyndgan.store.store import Store

    sizes = {folder: Store(folder).size() for folder in folders}
    if as_json:
        return print_json(
            {f"{at}": {f"{p}": n for p, n in own.items()} for at, own in sizes.items()}
        )
    for folder, found in sizes.items():
        for place, count in found.items():
            Terminal().say(f"{folder}: {place}, {size(count)}")
        if not found:
            Terminal().say(f"{folder}: no copy")


@store.command()
def remove(folders: Folders) -> None:
    """Removes the copy of each data set; the data set stays as it is.

    The next command that opens the data set makes the copy again.

    Example:
        asyndgan store remove data/north
    """
    from asyndgan.store.store import Store

    for folder in folders:
        found = Store(folder).remove()
        for place in found:
            Terminal().say(f"Removed {place}.")
        if not found:
            Terminal().say(f"{folder}: no copy")
