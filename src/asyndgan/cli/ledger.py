"""`asyndgan ledger`: what left a site."""

from collections import deque
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from asyndgan.errors import LedgerError
from asyndgan.privacy.ledger import FIRST, Entry, read
from asyndgan.reports.words import counted, size

ledger = typer.Typer(help="Ledgers: what left a site.", no_args_is_help=True, add_completion=False)

File = Annotated[
    Path, typer.Argument(help="A site's ledger.jsonl; in a simulation in RUN/sites/NAME.")
]


@ledger.command()
def show(
    file: File, last: Annotated[int, typer.Option(min=1, help="How many lines to show.")] = 20
) -> None:
    """Shows the last messages that left and the totals by kind, and checks every line."""
    entries: deque[Entry] = deque(maxlen=last)
    kinds: dict[str, tuple[int, int]] = {}
    masks = 0
    for entry in read(file):
        masks += entry.masks
        entries.append(entry)
        count, total = kinds.get(entry.kind, (0, 0))
        kinds[entry.kind] = count + 1, total + entry.size
    table = Table("line", "time", "run", "kind", "step", "bytes", "masks", "norm", "epsilon")
    for entry in entries:
        table.add_row(
            str(entry.number), entry.time, entry.run[:8], entry.kind,
            "" if entry.step is None else str(entry.step), str(entry.size),
            str(entry.masks) if entry.masks else "",
            "" if entry.norm is None else f"{entry.norm:.3g}",
            "" if entry.epsilon is None else f"{entry.epsilon:.3f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    for kind, (count, total) in sorted(kinds.items()):
        console.print(f"{kind}: {counted(count, 'message')}, {size(total)}", highlight=False)
    console.print(
        f"in them {counted(masks, 'mask')} (or classes) of patients, each time that it left",
        highlight=False,
    )


@ledger.command()
def verify(
    file: File,
    expect: Annotated[
        str | None, typer.Option(help="NUMBER:HASH noted earlier: that line must be there.")
    ] = None,
) -> None:
    """Checks every line and the chain; prints NUMBER:HASH of the last line, to be noted."""
    noted, last = expect is None, f"0:{FIRST}"
    for entry in read(file):
        last = f"{entry.number}:{entry.digest}"
        noted = noted or last == expect
    if not noted:
        raise LedgerError(f"{file.name} does not hold line {expect}; it was written anew.")
    Console().print(f"whole, to line {last}", highlight=False, soft_wrap=True)
