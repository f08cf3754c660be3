"""`asyndgan store`: the copies of data sets that commands keep beside their folders."""

from pathlib import Path
from typing import Annotated

import typer

from asyndgan.cli.help import Commands
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
def show(folders: Folders) -> None:
    """Shows where the copy of each data set lies, and how large it is.

    Example:
        asyndgan store show data/north data/south
    """
    from asyndgan.reports.words import size
    from asyndgan.store.store import Store

    for folder in folders:
        found = Store(folder).size()
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
