"""The commands on a table, where their printing differs from that on images."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table as Grid
from rich.text import Text

from asyndgan.cli.options import print_json
from asyndgan.cli.terminal import Terminal

if TYPE_CHECKING:
    from asyndgan.auditing.records import RecordsAudit
    from asyndgan.judging.records import RecordsEvaluation
    from asyndgan.runs import RunFolder


def check_tables(
    console: Terminal, paths: Sequence[Path], test: Path | None, *, as_json: bool
) -> None:
    """Checks tables, also against each other, and names the first fault of each.

    Raises:
        typer.Exit: there is a fault.
    """
    from asyndgan.tables.check import checked

    found = checked(paths, test)
    if as_json:
        print_json({"tables": [vars(one) for one in found]})
    for one in found if not as_json else ():
        rows = Grid(show_header=False, title=Text(one.path, "bold"), title_justify="left")
        for name, text in one.rows.items():
            rows.add_row(name, Text(text))
        console.print(rows)
        for fault in one.faults:
            console.say(fault, style="red")
    if any(one.faults for one in found):
        raise typer.Exit(1)
    if not as_json:
        console.say("No faults.", style="bold green")


def summarise_table(console: Terminal, data: Path, out: Path | None) -> None:
    """Summarises a site's table for a plan, and prints all that the summary tells."""
    from asyndgan.cli.plan import write_new
    from asyndgan.tables.summary import LEAST, summarised
    from asyndgan.tables.table import Table

    found = summarised(Table.read(data))
    table = Grid("column", "tells")
    table.add_row(found.target, ", ".join(f"{name} {n}" for name, n in found.classes.items()))
    for name, column in found.columns.items():
        if column.categories:
            told = f"the names of {len(column.categories)} categories"
        else:
            means = " ".join(f"{mean:.15g}" for mean in column.means)
            told = f"about {column.values} values; {len(column.means)} means: {means}"
        table.add_row(name, told)
    console.print(table)
    console.say(
        f"Each mean is of {LEAST} records or more that are next to each other in the order of the "
        f"column; counts are rounded to {LEAST}. Columns are told one by one."
    )
    if out:
        write_new(out, found.model_dump_json(indent=1) + "\n")
        console.say(f"Written to {out}.")


def tell_records(console: Terminal, found: "RecordsEvaluation") -> None:
    """Prints an evaluation of records."""
    if note := found.about.get("note"):
        console.say(note, style="yellow")
    table = Grid(caption=f"On {found.about['judged_on']}; 95 % intervals over records")
    for heading in ("model", "records"):
        table.add_column(heading, overflow="fold")
    for heading in ("trained on", "AUC", "interval", "of all-real", "interval", "Brier"):
        table.add_column(heading, justify="right")
    for one in found.scores:
        table.add_row(
            one.model, one.records, f"{one.count}", f"{one.auc:.3f}",
            f"{one.low:.3f} to {one.high:.3f}", f"{one.ratio:.3f}",
            f"{one.ratio_low:.3f} to {one.ratio_high:.3f}", f"{one.brier:.3f}",
        )  # fmt: skip
    console.print(table)
    worst = sorted(found.columns, key=lambda name: found.columns[name])[:3]
    mean = sum(found.columns.values()) / len(found.columns)
    least = ", ".join(f"{name} {found.columns[name]:.2f}" for name in worst)
    console.say(f"Likeness of columns {mean:.3f} (least: {least}), of pairs {found.pairs:.3f}.")


def tell_records_audit(console: Terminal, run: "RunFolder", found: "RecordsAudit") -> None:
    """Prints an audit of records, and whether it permits a release."""
    from asyndgan.auditing.audit import decided
    from asyndgan.auditing.records import release_by_records
    from asyndgan.cli.audit import tell_attacks
    from asyndgan.cli.evaluate import tell_trial
    from asyndgan.runs.trial import trial_of

    tell_trial(console, run)
    tell_attacks(console, found.attacks)
    verdict = decided(found.attacks[-1].verdict, trial_of(run.facts(), run.recipe()))
    console.say(f"{found.attacks[-1].name}: {verdict}")
    console.say(f"copies: {found.told}")
    if found.uncompared:
        console.say(
            f"others: they were not compared with the members of {', '.join(found.uncompared)}"
        )
    console.say(f"release: {release_by_records(run, found)}")
