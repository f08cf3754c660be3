"""`asyndgan check`: checks whether data sets are fit to train on."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from asyndgan.cli.following import undecided
from asyndgan.cli.options import AsJson, Overrides, StudyOption, print_json
from asyndgan.cli.tables import check_tables
from asyndgan.cli.terminal import Terminal, marked, plain
from asyndgan.errors import DataError
from asyndgan.intake.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.recipe.planning import BASE, NAME
from asyndgan.runs import load_recipe
from asyndgan.runs.study import site_names

if TYPE_CHECKING:
    from asyndgan.intake.check import CheckReport, Fault
    from asyndgan.recipe import Recipe

SHOWN = 10
"""Most files listed for one fault, unless `--all` is given."""

_COPIED = re.compile(
    r" (?:((?:--set|--patient-pattern|magick|mogrify) .*?)\.?$"
    r'|(python -c "[^"]*"(?: FILES)?)\.? ?)',
    re.DOTALL,
)
"""Options at the end of a text, or a command within it."""

MOST_KINDS = 50
"""Most kinds of fault shown of a data set, unless `--all` is given; the others are counted."""


def check(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Data sets. Each holds a dataset.json.")
    ],
    test: Path | None = None,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    recipe: str | None = None,
    overrides: Overrides = None,
    every: Annotated[bool, typer.Option("--all")] = False,
    as_json: AsJson = False,
    study: StudyOption = None,
) -> None:
    """Checks data sets and names every fault.

    Changes nothing. The exit code is 1 if there is a fault.

    Example:
        asyndgan check data/north data/south --test data/test

    Data:
        --test FOLDER: Test data set. None of its patients may be in the other data sets.

    Training:
        --recipe RECIPE: Recipe that the data sets are for. By default it is planned from them, as
            by 'asyndgan plan'; if one cannot be measured, intensities and sizes are not judged.

    Output:
        --all: Name every file, not only 10 per fault.
    """
    from asyndgan.intake.between import (
        compare_folders,
        notes_between,
        same_pictures,
        unheld_modalities,
    )
    from asyndgan.intake.check import check_folder, slices_in
    from asyndgan.tables.schema import check_own_data, is_table, refuse_for_images

    if any(map(is_table, folders)):
        refuse_for_images({"patient_pattern": patient_pattern != DEFAULT_PATIENT_PATTERN})
        return check_tables(Terminal(), folders, test, as_json=as_json)
    check_own_data(dict(zip(site_names(folders), folders, strict=True)))
    wanted, unplanned, contradictions = _recipe(recipe, folders, overrides or [], patient_pattern)
    chosen = bool(wanted and wanted.name == NAME) and "image.intensity" not in str(overrides)
    console = Terminal()
    why = ""
    if unplanned:
        what = f"{unplanned.file} ({unplanned.reason})"
        why = f"not planned: {what}; intensities and sizes were not judged"
    if why and not as_json:
        console.print(plain(why, "yellow"))
    reports: list[CheckReport] = []
    try:
        sets = [*folders, *([test] if test else [])]
        for folder, slices in zip(sets, slices_in(sets, patient_pattern), strict=True):
            taught = len(reports) < len(folders)
            reports.append(
                check_folder(
                    folder, test=test if taught else None, patient_pattern=patient_pattern,
                    image=wanted.image if wanted else None, recipe=wanted if taught else None,
                    planned=chosen, slices=slices,
                )
            )  # fmt: skip
            if not as_json:
                _show(console, reports[-1], every)
    except DataError as error:
        console.print(plain(str(error), "red"))
        raise typer.Exit(1) from error
    trained = reports[: len(folders)]
    between = (*compare_folders(trained), *same_pictures(reports))
    between += unheld_modalities(trained, wanted) if wanted else ()
    if unplanned and not (between or any(report.faults for report in reports)):
        between = (unplanned,)  # `train` refuses it, too
    told = len(trained) if wanted and not recipe else 0
    notes = (*contradictions, *notes_between(reports, fits=bool(wanted), told=told))
    if wanted and study:  # whose training comes next
        patients = sum(len(report.patients) for report in trained)
        notes += tuple(line.rstrip(".") for line in undecided(patients, wanted.training.hold_out))
    if as_json:
        _print_json(reports, between, (why, *notes) if why else notes)
    else:
        _show_result(console, reports, between, notes, every)
    if between or any(report.faults for report in reports):
        raise typer.Exit(1)


def _recipe(
    name: str | None, folders: list[Path], overrides: list[str], pattern: str
) -> tuple["Recipe | None", "Fault | None", tuple[str, ...]]:
    """The recipe of this name; without a name, as the folders are planned for, or why not.

    Also what contradicts between the folders, and what the plan did about it.
    """
    from asyndgan.intake.readers import DataFileError
    from asyndgan.intake.tally import Fault
    from asyndgan.runs.planned import planned

    recipe = load_recipe(name or BASE, overrides)
    if name:
        return recipe, None, ()
    sites = dict(zip(site_names(folders), folders, strict=True))
    try:
        made = planned(sites, overrides, pattern)
        return made.recipe, None, tuple(note.rstrip(".") for note in made.notes)
    except DataFileError as error:  # the check itself names nearly every fault
        return None, Fault(error.file, error.reason, error.remedy), ()
    except DataError as error:
        reason, _, remedy = f"{error}".partition(". ")
        return None, Fault(folders[0], reason, remedy), ()


def _show_result(
    console: Terminal,
    reports: list["CheckReport"],
    between: tuple["Fault", ...],
    notes: tuple[str, ...],
    every: bool,
) -> None:
    """Prints what the folders show together, and the number of all faults."""
    if between or notes:
        if len(reports) > 1:
            console.print(plain("Between the folders", "bold"))
        _show_faults(console, between, None, every)
        _show_notes(console, notes)
        console.print()
    count = sum(len(report.faults) for report in reports) + len(between)
    if count:
        console.print(plain(f"{count} {'fault' if count == 1 else 'faults'}.", "bold red"))
    else:
        console.print(plain("No faults.", "bold green"))


def _print_json(
    reports: list["CheckReport"], between: tuple["Fault", ...], notes: tuple[str, ...]
) -> None:
    """Prints what is known of each data set, and all faults and notes."""
    print_json(
        {
            "folders": [
                {
                    "folder": report.folder,
                    "facts": dict(report.rows),
                    "faults": [vars(fault) for fault in report.faults],
                    "notes": report.notes,
                    "findings": [
                        {
                            "kind": found.kind,
                            "folder": report.folder,
                            "cases": found.volumes,
                            "fault": found.fault,
                            "reason": found.reason,
                            "remedy": found.remedy,
                        }
                        for found in report.findings
                    ],
                }
                for report in reports
            ],
            "between": [vars(fault) for fault in between],
            "notes": notes,
        }
    )


def _show_notes(console: Terminal, notes: Iterable[str]) -> None:
    for note in notes:
        _show_text(console, "!", f"{note[:1].upper()}{note[1:]}.", "yellow")


def _show(console: Terminal, report: "CheckReport", every: bool) -> None:
    table = Table(show_header=False, title=plain(str(report.folder), "bold"), title_justify="left")
    table.add_column(style="cyan", overflow="fold", ratio=1)
    table.add_column(overflow="fold", ratio=2)
    for heading, text in report.rows:
        table.add_row(plain(heading), plain(text))
    console.print(table)
    _show_faults(console, report.faults, report.folder, every)
    _show_notes(console, report.notes)
    console.print()


def _show_faults(
    console: Terminal, faults: Iterable["Fault"], folder: Path | None, every: bool
) -> None:
    """Prints the faults, grouped by reason and remedy, with the files of each group."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for fault in faults:
        groups.setdefault((fault.reason, fault.remedy), []).append(fault.file)
    kinds = list(groups.items())
    for (reason, remedy), files in kinds if every else kinds[:MOST_KINDS]:
        shown = files if every or len(files) <= SHOWN else files[:SHOWN]
        names = [_name(file, folder) for file in shown]
        if len(shown) < len(files):
            names.append(f"and {len(files) - len(shown)} more (--all names them)")
        console.print(marked("✗", f"{reason[:1].upper()}{reason[1:]}.", "red"))
        for name in names:
            console.print(marked("", name))
        _show_text(console, "→", remedy, "dim")
    if not every and len(kinds) > MOST_KINDS:
        more = sum(len(files) for _, files in kinds[MOST_KINDS:])
        console.print(marked("", f"and {more} other faults (--all names them)"))


def _show_text(console: Terminal, mark: str, text: str, style: str) -> None:
    """Prints a text; what is to be copied from it stands on a line of its own."""
    found = _COPIED.search(text)
    console.print(marked(mark, text[: found.start()] if found else text, style))
    if found:
        console.print(plain(f"  {found[1] or found[2]}", style), soft_wrap=True)
        if rest := text[found.end() :]:
            _show_text(console, "", rest, style)


def _name(file: Path, folder: Path | None) -> str:
    """Returns the path of a file, relative to `folder` if it is inside."""
    inside = folder is not None and file != folder and file.is_relative_to(folder)
    return str(file.relative_to(folder)) if folder and inside else str(file)
