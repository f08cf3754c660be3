"""`asyndgan init`: writes a study, which the other commands read."""

from pathlib import Path
from shlex import quote
from typing import Annotated, Final

import typer

from asyndgan.cli.options import Hours, Volumes
from asyndgan.cli.plan import tell_plan
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import AsyndganError, RunError
from asyndgan.runs.planned import planned, within
from asyndgan.runs.study import STUDY_FILE, Study, begun, study_text
from asyndgan.tables.schema import is_table
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
    volumes: Volumes = False,
    hours: Hours = 1.0,
    out: str = STUDY_FILE,
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
    from asyndgan.intake.dataset import SLICED, DataSet, sliced

    file, recipe = _new_files(out)
    sites, tested, left_out = begun(folders, test)
    tables = any(map(is_table, sites.values()))
    study = Study.parsed(study_text(sites, tested, file, ""), file)
    with storing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    console = Terminal()
    made = None
    why = ""
    try:
        made = planned(study.sites, (), volumes=volumes, fits=within(hours))
    except AsyndganError as error:
        why = str(error)
    if made:
        tell_plan(console, made)
        replace_text(recipe, made.to_toml())
    if made and not tables and sliced(map(DataSet, study.sites.values()), made.recipe.image):
        console.say(SLICED)
    named, steps = (RECIPE_FILE, made.recipe.training.steps) if made else ("", None)
    replace_text(file, study_text(sites, tested, file, named, steps))
    for site, folder in study.sites.items():
        console.say(f"site {site}: {folder}")
    none = f"none, so sites hold out {'records' if tables else 'patients'}"
    console.say(f"test set: {study.test or none}")
    for folder in left_out:
        console.say(f"left out: {folder} is a test set by its name, and --test names another")
    console.say(f"Written to {file}: read it.")
    if not made:
        pairs = " ".join(quote(f"{site}={folder}") for site, folder in study.sites.items())
        console.say(
            f"No recipe was planned: {why}\nCorrect that, then plan one:\n"
            f"asyndgan plan {pairs} --out {quote(str(recipe))}\n"
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
    for each in (file, recipe):
        if each.exists():
            other = quote(str(file.parent / "other" / STUDY_FILE))
            raise RunError(f"{each} exists already. Edit it, or write another: --out {other}")
    return file, recipe
