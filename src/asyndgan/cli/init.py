"""`asyndgan init`: writes a study, which the other commands read."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Annotated, Final

import typer

from asyndgan.cli.options import Hours
from asyndgan.cli.plan import tell_plan
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import AsyndganError, RunError
from asyndgan.intake.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.recipe import Recipe
from asyndgan.runs.planned import Planned, plan_for, within
from asyndgan.runs.study import STUDY_FILE, Study, begun, study_text
from asyndgan.tables.schema import is_table, refuse_for_images
from asyndgan.texts import replace_text, storing

RECIPE_FILE: Final = "recipe.toml"
"""Where the planned recipe is written, beside the study."""


def init(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER",
            help="A site's data set or table, or a folder with the data sets of all sites.",
        ),
    ],
    test: Path | None = None,
    hours: Hours = 1.0,
    out: str = STUDY_FILE,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
) -> None:
    """Writes a study: sites, test set and recipe for all commands.

    Plans the recipe from the sites' data and writes it beside the study, with a reason for each
    value. Sites bear the names of their folders. A folder named 'test' is the test set, and never
    a site. If no recipe can be planned, the study is written without one, and the exit code is 1.

    Example:
        asyndgan init data/north data/south --test data/test
        asyndgan check
        asyndgan train
        asyndgan evaluate
        asyndgan report

    Data:
        --test FOLDER: Test data set, of patients of no site. Without one, every site is to hold out
            a fifth of its patients.

    Output:
        --out FILE: New file to write, or a folder to write study.toml into.
    """
    file, recipe = _new_files(out)
    sites, tested, left_out = begun(folders, test)
    if tables := any(map(is_table, sites.values())):
        refuse_for_images({"patient_pattern": patient_pattern != DEFAULT_PATIENT_PATTERN})
    study = Study.parsed(study_text(sites, tested, file, "", patient_pattern), file)
    with storing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    console = Terminal()
    made, why = _planned(study.sites, patient_pattern, hours)
    if made:
        tell_plan(console, made)
        replace_text(recipe, made.to_toml())
    resolved = made.recipe if isinstance(made, Planned) else made
    named, steps = (RECIPE_FILE, resolved.training.steps) if resolved else ("", None)
    replace_text(file, study_text(sites, tested, file, named, patient_pattern, steps))
    for site, folder in study.sites.items():
        console.say(f"site {site}: {folder}")
    none = f"none, so sites hold out {'records' if tables else 'patients'}"
    console.say(f"test set: {study.test or none}")
    for folder in left_out:
        console.say(f"left out: {folder} is a test set by its name, and --test names another")
    console.say(f"Written to {file}: read it.")
    if not made:
        more = (
            ""
            if patient_pattern == DEFAULT_PATIENT_PATTERN
            else f" --patient-pattern {quote(patient_pattern)}"
        )
        pairs = " ".join(quote(f"{site}={folder}") for site, folder in study.sites.items())
        console.say(
            f"No recipe was planned: {why}\nCorrect that, then plan one:\n"
            f"asyndgan plan {pairs} --out {quote(str(recipe))}{more}\n"
            f'and write above [sites] in {file}:\nrecipe = "{RECIPE_FILE}"'
        )
        raise typer.Exit(1)
    more = "" if file == Path(STUDY_FILE) else f" --study {quote(str(file))}"
    console.say(f"Next:\nasyndgan check{more}\nasyndgan train{more}")


def _new_files(out: str) -> tuple[Path, Path]:
    """The study's file and the recipe's, neither of which exists; `out` is a file or a folder."""
    file = Path(out)
    if out.endswith("/") or file.is_dir():
        file /= STUDY_FILE
    recipe = file.with_name(RECIPE_FILE)
    if not out.isprintable():
        raise RunError(f"--out {out!a}: take a name of printable characters, on one line.")
    for each in (file, recipe):
        if each.exists():
            other = quote(str(file.parent / "other" / STUDY_FILE))
            raise RunError(f"{each} exists already. Edit it, or write another: --out {other}")
    return file, recipe


def _planned(
    sites: Mapping[str, Path], pattern: str, hours: float
) -> tuple[Planned | Recipe | None, str]:
    """The plan, or the recipe of tables; or None, and why there is none."""
    try:
        return plan_for(sites, (), pattern, fits=within(hours)), ""
    except AsyndganError as error:
        return None, str(error)
