"""`asyndgan init`: writes a study, which the other commands read."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from asyndgan.cli.terminal import Terminal
from asyndgan.errors import RunError
from asyndgan.runs.study import STUDY_FILE, Study, begun
from asyndgan.texts import replace_text


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
    """Writes a study: sites, test set, recipe and run folder, for all other commands.

    Sites bear the names of their folders. A data set in a folder named 'test' is the test set.

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
    if out.exists():
        raise RunError(f"{out} exists already. Edit it, or name another file with --out.")
    text = begun(folders, test, out)
    study = Study.parsed(text, out)
    replace_text(out, text)
    console = Terminal()
    for name, folder in study.sites.items():
        console.say(f"site {name}: {folder}")
    console.say(
        f"test set: {study.test}" if study.test else "test set: none, so sites hold out patients"
    )
    console.say(
        f"Written to {out}: read it. It has the run keep patients' masks, so ask each site first."
    )
    more = "" if out == Path(STUDY_FILE) else f" --study {quote(str(out))}"
    console.say(f"Next:\nasyndgan check{more}\nasyndgan train{more}")
