"""`asyndgan ledger`: what left a site."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from asyndgan.cli.help import Commands
from asyndgan.cli.options import AsJson, Count, print_json
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import LedgerError, PolicyError
from asyndgan.privacy import Policy
from asyndgan.privacy.ledger import FIRST, Entry, read, summary
from asyndgan.reports.words import counted, size

ledger = Commands(
    """Shows and verifies ledgers: what left a site.

    Example:
        asyndgan ledger show run/sites/north/ledger.jsonl
        asyndgan ledger verify run/sites/north/ledger.jsonl
    """
)

File = Annotated[
    Path,
    typer.Argument(
        metavar="LEDGER",
        help="The ledger.jsonl of a site: in a simulation in RUN/sites/NAME, in a federation in "
        "KIT/records.",
    ),
]


@ledger.command()
def show(file: File, last: Count = 20, as_json: AsJson = False) -> None:
    """Shows the last messages that left, and totals per kind of message.

    Reads and verifies every line.

    Example:
        asyndgan ledger show run/sites/north/ledger.jsonl --last 5

    Output:
        --last N: How many of the last lines to show.
    """
    entries, found = summary(file, last)
    if as_json:
        print_json({"lines": [asdict(entry) for entry in entries], **found})
    else:
        _print(entries, found)


def _print(entries: Iterable[Entry], found: dict[str, Any]) -> None:
    console = Terminal()
    console.print(_table(entries))
    for kind, row in found["kinds"].items():
        console.print(f"{kind}: {counted(row['messages'], 'message')}, {size(row['bytes'])}")
    masks = counted(found["masks"], "mask")
    console.print(f"in them {masks} (or classes) of patients, each time that it left")
    for content, count in sorted(found["bare"].items()):
        messages = counted(count, "message")
        console.print(f"{content} in {messages}, which no limit on epsilon covers")
    if found["repeated"]:
        console.print(
            f"{counted(found['repeated'], 'image')} came again in another step ('again'), which a "
            "generator in training hardly paints: ask the coordinator"
        )
    for row in found["policies"]:
        console.print(
            f"policy {row['digest'][:16]} in force in {counted(row['lines'], 'line')}, from "
            f"{row['first']} to {row['last']}"
        )


def _table(entries: Iterable[Entry]) -> Table:
    """Lines as a table, without columns that all would leave empty."""
    rows = [
        {
            "line": str(entry.number),
            "time": entry.time[:19] + "Z",
            "run": entry.run[:8],
            "kind": entry.kind,
            "step": "" if entry.step is None else str(entry.step),
            "bytes": str(entry.size),
            "masks": str(entry.masks or ""),
            "again": str(entry.repeated or ""),
            "norm": "" if entry.norm is None else f"{entry.norm:.3g}",
            "noise": f"{entry.noise:.3g}" if entry.noise else "",
            "epsilon": "" if entry.epsilon is None else f"{entry.epsilon:.3f}",
            "delta": "" if entry.epsilon is None else f"{entry.delta:g}",
        }
        for entry in entries
    ]
    names = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
    table = Table(*names, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*(row[name] for name in names))
    return table


@ledger.command()
def verify(file: File, expect: str | None = None) -> None:
    """Verifies lines, hash chain and kept policies.

    Prints NUMBER:HASH of the last line. Note it, and give it to --expect next time.

    Example:
        asyndgan ledger verify run/sites/north/ledger.jsonl

    Data:
        --expect NUMBER:HASH: A line that you noted earlier. The ledger must still contain it.
    """
    noted, last = expect is None, f"0:{FIRST}"
    policies: dict[str, int] = {}
    for entry in read(file):
        last = f"{entry.number}:{entry.digest}"
        noted = noted or last == expect
        policies.setdefault(entry.policy, entry.number)
    if not noted:
        raise LedgerError(f"{file.name} does not hold line {expect}; it was written anew.")
    for digest, first in policies.items():
        kept = file.parent / "policies" / f"{digest}.toml"
        try:
            whole = Policy.from_file(kept).digest() == digest
        except PolicyError:
            whole = False
        if not whole:
            raise LedgerError(
                f"policies/{kept.name} beside {file.name}, in force from line {first}, is not "
                "there, or is not what the site kept, or was kept by another version. The lines "
                f"are whole, to line {last}; put the policy back from a copy of the books."
            )
    Terminal().say(f"whole, to line {last}")
