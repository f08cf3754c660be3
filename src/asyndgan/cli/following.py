"""What a run can be used for afterwards: what it lacks for that, and the commands."""

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from shlex import quote

from asyndgan.cli.terminal import Terminal
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.recipe import Recipe

HOLD_OUT = "--set training.hold_out=0.2"


def lacking(recipe: Recipe, *, masks: bool) -> list[str]:
    """What a run will not be able to do by itself, and the options that allow it, line by line.

    Args:
        recipe: recipe of the run.
        masks: whether it keeps, or will keep, masks to paint from.
    """
    lines = []
    if recipe.condition.kind == "mask" and not masks:
        free = recipe.masks.source == "own" and recipe.privacy.kind == "none"
        train = "train with --set masks.release=true (patients' masks leave their sites), or "
        lines.append(
            f"No masks are kept for generate: {train if free else ''}give it --masks FOLDER."
        )
    if not recipe.training.hold_out and recipe.image.source == "images":
        given = "--test FOLDER and audit --holdout FOLDER"
        if recipe.condition.kind != "mask":
            given = "--holdout FOLDER"
        names = "evaluate and audit" if recipe.condition.kind == "mask" else "audit"
        lines.append(
            f"No patients are held out for {names}: train with {HOLD_OUT}, or give "
            f"{names.partition(' ')[0]} {given}, with other patients."
        )
    return lines


def tell_lacking(console: Terminal, recipe: Recipe, *, masks: bool) -> None:
    """Prints the lines of `lacking`."""
    for line in lacking(recipe, masks=masks):
        console.say(line, style="yellow")


def next_commands(
    path: Path, recipe: Recipe, sites: Mapping[str, Path], pattern: str, *, masks: bool
) -> list[str]:
    """The commands that use a finished run, with its paths; in capitals what only the user knows.

    Args:
        path: folder of the run.
        recipe: its recipe.
        sites: folders of its sites' data, by name.
        pattern: pattern of its patients.
        masks: whether it kept masks to paint from.
    """
    run = quote(str(path))
    given = "".join(f" --site {quote(f'{name}={folder}')}" for name, folder in sites.items())
    if pattern != DEFAULT_PATIENT_PATTERN:
        given += f" --patient-pattern {quote(pattern)}"
    held_out, kind = bool(recipe.training.hold_out), recipe.condition.kind
    commands = []
    if kind != "class":
        more = " --masks FOLDER" if kind == "mask" and not masks else ""
        commands.append(f"asyndgan generate {run}{more} --out {_free('synthetic')}")
    if recipe.image.source == "images" and kind == "mask":
        more = "" if held_out else " --test FOLDER"
        commands.append(f"asyndgan evaluate {run}{given}{more} --out {_free('evaluation')}")
    if recipe.image.source == "images":
        more = "" if held_out else " --holdout FOLDER"
        commands.append(f"asyndgan audit {run}{given}{more} --out {_free('audit')}")
    return [*commands, f"asyndgan report {run}"]


def _free(name: str) -> str:
    """The name, with a number if there is a folder of that name."""
    names = (f"{name}{number if number > 1 else ''}" for number in count(1))
    return next(one for one in names if not Path(one).exists())
