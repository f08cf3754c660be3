"""Options that several commands share, and the topics under which a help page lists options."""

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from asyndgan.engines import ENGINES
from asyndgan.errors import RecipeError
from asyndgan.runs import recipe_names
from asyndgan.texts import check_site_name

DATA: Final = "Data"
MASKS: Final = "Masks"
TRAINING: Final = "Training"
PAINTING: Final = "Painting"
PRIVACY: Final = "Privacy"
OUTPUT: Final = "Output"
COMPUTE: Final = "Computation"

Count = Annotated[int, typer.Option(min=1)]

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Name of a recipe (see 'asyndgan recipe list'), or a TOML file.",
        autocompletion=recipe_names,
    ),
]

FinishedRun = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the recipe, such as image.size=128.",
        rich_help_panel=TRAINING,
    ),
]

Sites = Annotated[
    list[str],
    typer.Option(
        "--site",
        metavar="NAME=FOLDER",
        help="A site and the folder of its data set.",
        rich_help_panel=DATA,
    ),
]

NewFolder = Annotated[
    Path,
    typer.Option("--out", metavar="FOLDER", help="New folder to write.", rich_help_panel=OUTPUT),
]

States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="NAME=FOLDER",
        help="The folder in which a site kept its state of the run, which records the patients "
        "that it trained on. In a federation: KIT/runs/RUN. By default the run folder.",
        rich_help_panel=DATA,
    ),
]

PatientPattern = Annotated[
    str,
    typer.Option(
        "--patient-pattern",
        metavar="REGEX",
        help="Regular expression for case names. Its first group is the patient.",
        rich_help_panel=DATA,
    ),
]

Fade = Annotated[
    list[str] | None,
    typer.Option(
        "--fade",
        metavar="LABEL",
        help="Vary from image to image how clearly this label, such as a lesion, is visible. "
        "The run must have trained on images without the label.",
        rich_help_panel=PAINTING,
    ),
]

Seed = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, help="Random seed.", rich_help_panel=PAINTING)
]

Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Device of the networks: cpu, cuda, cuda:1 or mps.",
        rich_help_panel=COMPUTE,
    ),
]

Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help=f"How messages travel: {', '.join(ENGINES)}.",
        rich_help_panel=COMPUTE,
    ),
]

AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON, for scripts.", rich_help_panel=OUTPUT)
]


def print_json(value: Any) -> None:
    """Prints a value as JSON in ASCII, so that what others wrote cannot steer the terminal."""
    typer.echo(json.dumps(value, indent=2, default=str))


def parsed_sites(pairs: list[str], option: str = "--site") -> dict[str, Path]:
    """Parses `NAME=PATH` pairs.

    Raises:
        RecipeError: if a pair is not of that form, or a name is not valid or comes twice.
    """
    sites: dict[str, Path] = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        same = [known for known in sites if known.casefold() == name.casefold()]
        if not equals or not name or not folder or same:
            raise RecipeError(
                f"{option} {pair}: write NAME=PATH, e.g. {option} north=data/north, each name once "
                "(capitals do not tell two apart)."
            )
        check_site_name(name, f"{option} {pair}")
        sites[name] = Path(folder)
    return sites
