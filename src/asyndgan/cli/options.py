"""Types of options that several commands share; `help.py` has their texts."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from asyndgan.engines import ENGINES
from asyndgan.errors import RecipeError
from asyndgan.runs import recipe_names
from asyndgan.runs.shipped import run_of, shipped_names
from asyndgan.texts import check_site_names

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Name of a recipe (see 'asyndgan recipe list'), or a TOML file.",
        autocompletion=recipe_names,
    ),
]
PlannedRecipe = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="Name of a recipe (see 'asyndgan recipe list'), or a TOML file. By default it is "
        "planned from the data, as by 'asyndgan plan'.",
        autocompletion=recipe_names,
    ),
]
FinishedRun = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help=f"Folder of a finished run, or a generator of ours: {', '.join(shipped_names())}.",
        parser=run_of,
    ),
]
Overrides = Annotated[list[str] | None, typer.Option("--set")]
Sites = Annotated[list[str], typer.Option()]
StudyOption = Annotated[Path | None, typer.Option("--study")]
"""Of a command that takes what it was not given from a study (`cli/study.py`)."""
StartOption = Annotated[Path | None, typer.Option("--from", parser=run_of)]
SafetyNumber = Annotated[str | None, typer.Option()]
NewFolder = Annotated[Path, typer.Option()]
Seed = Annotated[int, typer.Option(min=0)]
Count = Annotated[int, typer.Option(min=1)]
ChosenCount = Annotated[int | None, typer.Option(min=1)]
"""None: chosen by measurement, or as a docstring says."""
Hours = Annotated[float, typer.Option(min=0.01)]
Port = Annotated[int, typer.Option("--port", min=0, max=65535)]
NoBrowser = Annotated[bool, typer.Option("--no-browser")]
Volumes = Annotated[bool, typer.Option("--volumes")]
AsJson = Annotated[bool, typer.Option("--json")]
Engine = Annotated[
    str,
    typer.Option(
        metavar="ENGINE",
        help=f"How messages travel: {', '.join(ENGINES)}.",
        rich_help_panel="Computation",
        autocompletion=lambda: list(ENGINES),
    ),
]


def print_json(value: Any) -> None:
    """Prints a value as JSON in ASCII, so that what others wrote cannot steer the terminal.

    All else that the command says goes to `Terminal(stderr=True)`.
    """
    typer.echo(json.dumps(value, indent=2, default=str))


def print_written(file: Path, *, wanted: bool) -> None:
    """Prints the JSON that a command has written, if it is wanted."""
    if wanted:
        print_json(json.loads(file.read_text("utf-8")))


def parsed_sites(pairs: list[str], option: str = "--site") -> dict[str, Path]:
    """Parses `NAME=PATH` pairs; raises `RecipeError` for other forms, a wrong or repeated name."""
    parts = [pair.partition("=") for pair in pairs]
    for name, _, folder in parts:
        if not name or not folder:
            raise RecipeError(
                f"{option} {name}{folder}: write NAME=PATH, e.g. {option} north=data/north."
            )
    check_site_names(name for name, _, _ in parts)
    return {name: Path(folder) for name, _, folder in parts}
