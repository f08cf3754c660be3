"""`asyndgan check`: checks whether data sets are fit to train on."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from asyndgan.cli.following import too_few_for
from asyndgan.cli.options import AsJson, Overrides, StudyOption, print_json
from asyndgan.cli.terminal import Terminal, plain
from asyndgan.errors import DataError
from asyndgan.recipe.planning import BASE
from asyndgan.runs import load_recipe
from asyndgan.runs.study import site_names
from asyndgan.texts import counted, sentence

if TYPE_CHECKING:
    from asyndgan.intake.check import CheckReport
    from asyndgan.intake.readers import DataFileError
    from asyndgan.recipe import Recipe
    from asyndgan.tables.check import TableReport

SHOWN = 10
"""Most files listed for one fault; `--json` lists all."""

MOST_KINDS = 50
"""Most kinds of fault shown of a data set; the others are counted."""


def check(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Data sets. Each holds a dataset.json.")
    ],
    test: Path | None = None,
    recipe: str | None = None,
    overrides: Overrides = None,
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
    """
    from asyndgan.intake.between import (
        compare_folders,
        notes_between,
        same_pictures,
        unheld_modalities,
    )
    from asyndgan.intake.check import check_folder
    from asyndgan.tables.check import checked
    from asyndgan.tables.schema import check_own_data, is_table

    console = Terminal()
    if any(map(is_table, folders)):
        return _end_with_tables(console, checked(folders, test), as_json=as_json)
    check_own_data(dict(zip(site_names(folders), folders, strict=True)))
    acquired = not all(map(_is_painted, folders))
    wanted, unplanned, notes = _recipe(recipe, folders if acquired else [], overrides or [])
    image = wanted.image if wanted else None
    reports = [
        check_folder(folder, test=test, image=image, recipe=wanted, acquired=acquired)
        for folder in folders
    ]
    reports += [check_folder(test, image=image, acquired=acquired)] if test else []
    trained = reports[: len(folders)]
    between = (*compare_folders(trained), *same_pictures(reports))
    between += unheld_modalities(trained, wanted) if wanted else ()
    if unplanned:
        notes += ("intensities and sizes are judged when the faults are mended",)
        if not (between or any(report.faults for report in reports)):
            between = unplanned  # `train` refuses them, too
    told = len(trained) if wanted and not recipe else 0
    notes += tuple(notes_between(reports, told=told))
    if wanted and study:  # whose training comes next
        patients = sum(len(report.patients) for report in trained)
        notes += tuple(line.rstrip(".") for line in too_few_for(wanted, patients))
    count = sum(len(report.faults) for report in reports) + len(between)
    if as_json:
        _print_json(reports, between, notes)
    else:
        for report in reports:
            _show(console, str(report.folder), report.rows)
            _show_faults(console, report.faults, report.notes, report.folder)
        if between or notes:
            if len(reports) > 1:
                console.say("Between the folders", "bold")
            _show_faults(console, between, notes, None)
    _end(console, count, as_json=as_json)


def _is_painted(folder: Path) -> bool:
    from asyndgan.intake.dataset import DataSet

    with suppress(DataError):
        return DataSet(folder).info.synthetic
    return False


def _end_with_tables(console: Terminal, reports: Iterable["TableReport"], *, as_json: bool) -> None:
    """Shows what was found of tables; raises `typer.Exit` if there is a fault."""
    if as_json:
        print_json({"tables": [vars(report) for report in reports]})
    for report in reports if not as_json else ():
        _show(console, report.path, report.rows.items())
        for fault in report.faults:
            console.say(fault, style="red")
        for note in report.notes:
            console.say(f"! {note}", style="yellow")
    _end(console, sum(len(report.faults) for report in reports), as_json=as_json)


def _recipe(
    name: str | None, folders: list[Path], overrides: list[str]
) -> tuple["Recipe | None", tuple["DataFileError", ...], tuple[str, ...]]:
    """The recipe of this name; without a name, as the folders are planned for, or why not.

    Also what contradicts between the folders, and what the plan did about it.
    """
    from asyndgan.intake.readers import DataFileError
    from asyndgan.runs.planned import planned

    recipe = load_recipe(name or BASE, overrides)
    if name:
        return recipe, (), ()
    if not folders:  # nobody trains on what was painted
        return None, (), ()
    try:
        made = planned(dict(zip(site_names(folders), folders, strict=True)), overrides)
        return made.recipe, (), tuple(note.rstrip(".") for note in made.notes)
    except DataFileError as error:  # the check itself names nearly every fault
        every = (error, *filter(None, map(_unmeasured, folders)))
        return None, tuple({str(each): each for each in every}.values()), ()
    except DataError as error:
        reason, _, remedy = f"{error}".partition(". ")
        return None, (DataFileError(folders[0], reason, remedy),), ()


def _unmeasured(folder: Path) -> "DataFileError | None":
    """Why no recipe can be planned for a folder; None: it can."""
    from asyndgan.intake.fingerprint import measured
    from asyndgan.intake.readers import DataFileError

    try:
        measured(folder)
    except DataFileError as error:
        return error
    return None


def _print_json(
    reports: list["CheckReport"], between: tuple["DataFileError", ...], notes: tuple[str, ...]
) -> None:
    folders = []
    for report in reports:
        findings = [vars(found) | {"folder": report.folder} for found in report.findings]
        folders.append({
            "folder": report.folder, "facts": dict(report.rows), "notes": report.notes,
            "faults": [vars(fault) for fault in report.faults],
            "findings": [found | {"cases": found.pop("volumes")} for found in findings],
        })  # fmt: skip
    print_json({"folders": folders, "between": [vars(each) for each in between], "notes": notes})


def _end(console: Terminal, count: int, *, as_json: bool) -> None:
    """Says how many faults there are; raises `typer.Exit` if there is one."""
    if not as_json:
        console.say(*((f"{counted(count, 'fault')}.", "red") if count else ("No faults.", "green")))
    if count:
        raise typer.Exit(1)


def _show(console: Terminal, title: str, rows: Iterable[tuple[str, str]]) -> None:
    if not (rows := [*rows]):
        return console.say(title, "bold")
    table = Table(show_header=False, title=plain(title, "bold"), title_justify="left")
    table.add_column(style="cyan", overflow="fold", ratio=1)
    table.add_column(overflow="fold", ratio=2)
    for heading, text in rows:
        table.add_row(plain(heading), plain(text))
    console.print(table)


def _show_faults(
    console: Terminal,
    faults: Iterable["DataFileError"],
    notes: Iterable[str],
    folder: Path | None,
) -> None:
    """Prints the faults, grouped by reason and remedy, with the files of each group."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for fault in faults:
        groups.setdefault((fault.reason, fault.remedy), []).append(fault.file)
    kinds = list(groups.items())
    for (reason, remedy), files in kinds[:MOST_KINDS]:
        shown = files[:SHOWN]
        console.print(plain(f"✗ {sentence(reason)}.", "red"))
        for file in shown:
            console.print(plain(f"  {_name(file, folder)}"))
        if len(shown) < len(files):
            console.say(f"  and {len(files) - len(shown)} more (--json names them)")
        console.print(plain(f"→ {remedy}", "dim"))
    if len(kinds) > MOST_KINDS:
        more = sum(len(files) for _, files in kinds[MOST_KINDS:])
        console.say(f"  and {more} other faults (--json names them)")
    for note in notes:
        end = "" if "--set" in note else "."  # an option is copied as it stands
        console.print(plain(f"! {sentence(note)}{end}", "yellow"))
    console.print()


def _name(file: Path, folder: Path | None) -> str:
    """Returns the path of a file, relative to `folder` if it is inside."""
    inside = folder is not None and file != folder and file.is_relative_to(folder)
    return str(file.relative_to(folder)) if folder and inside else str(file)
