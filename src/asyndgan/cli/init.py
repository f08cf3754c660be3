"""`asyndgan init`: writes a study, which the other commands read."""

from pathlib import Path
from shlex import quote
from typing import Annotated, Final

import typer

from asyndgan.cli.plan import tell_plan
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import AsyndganError, RunError
from asyndgan.runs.planned import planned
from asyndgan.runs.study import STUDY_FILE, Study, begun, study_text
from asyndgan.texts import replace_text

RECIPE_FILE: Final = "recipe.toml"
"""Where the planned recipe is written, beside the study."""


def init(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER", help="A site's data set, or a folder with the data sets of all sites."
        ),
    ],
    test: Path | None = None,
    out: Path = Path(STUDY_FILE),
) -> None:
    """Writes a study: sites, test set and recipe for all commands.

    Plans the recipe from the sites' data and writes it beside the study, with a reason for each
    value. Sites bear the names of their folders. A folder named 'test' is the test set.

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
        --out FILE: New file to write.
    """
    recipe = out.with_name(RECIPE_FILE)
    for file in (out, recipe):
        if file.exists():
            raise RunError(f"{file} exists already. Edit it, or name another folder with --out.")
    sites, others = begun(folders, test)
    study = Study.parsed(study_text(sites, others, out, ""), out)
    console, name = Terminal(), RECIPE_FILE
    try:
        made = planned(study.sites)
    except AsyndganError as error:
        console.say(f"not planned: {error}", style="yellow")
        name = ""
    else:
        tell_plan(console, made)
        replace_text(recipe, made.to_toml())
    replace_text(out, study_text(sites, others, out, name))
    for site, folder in study.sites.items():
        console.say(f"site {site}: {folder}")
    console.say(
        f"test set: {study.test}" if study.test else "test set: none, so sites hold out patients"
    )
    console.say(
        f"Written to {out}: read it. It has the run keep patients' masks, so ask each site first."
    )
    more = "" if out == Path(STUDY_FILE) else f" --study {quote(str(out))}"
    console.say(f"Next:\nasyndgan check{more}\nasyndgan train{more}")
