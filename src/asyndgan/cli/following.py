"""What a run can be used for afterwards: what it lacks for that, and the commands."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Final

from asyndgan.cli.study import WRITTEN
from asyndgan.cli.terminal import Terminal
from asyndgan.recipe import Recipe
from asyndgan.runs.following import judging_options
from asyndgan.runs.study import STUDY_FILE, Study
from asyndgan.texts import counted

DECIDES: Final = 20
"""About how many patients, of those who took part and of others, let an audit permit a release
(docs/audits.md)."""


def lacking(recipe: Recipe, *, masks: bool, tested: bool = False) -> list[str]:
    """What a run will not be able to do by itself, and the options that allow it, line by line.

    Args:
        recipe: recipe of the run.
        masks: whether it keeps, or will keep, masks to paint from.
        tested: whether its study has a test set.
    """
    lines = []
    if recipe.condition.kind == "mask" and not masks:
        free = recipe.sends_own_masks and recipe.privacy.kind == "none"
        train = "train with --set masks.source=given (masks are learned first), or " if free else ""
        lines.append(f"No masks are kept for generate: {train}give it --masks FOLDER.")
    if not tested and not recipe.training.hold_out and recipe.image.source == "images":
        given = "evaluate --test FOLDER and " if _judged(recipe) else ""
        lines.append(
            f"No {recipe.kind.patients} are held out to judge on: train with --set "
            f"training.hold_out=0.2, or give {given}audit --holdout FOLDER."
        )
    return lines


def too_few(members: int, others: int) -> list[str]:
    """That an audit of so few patients will hardly permit a release, if they are so few."""
    if min(members, others) >= DECIDES:
        return []
    return [
        f"An audit of {counted(members, 'patient')} and {counted(others, 'other')} will hardly "
        f"permit the release of a set: it takes about {DECIDES} of each. If you mean to release "
        "one, have more patients take part, or hold out more (training.hold_out)."
    ]


def too_few_for(recipe: Recipe, patients: int) -> list[str]:
    """As `too_few`, of a run that so many patients are to take part in; 0: nobody knows."""
    held = recipe.training.hold_out
    if not patients or recipe.kind.source != "images":
        return []
    others = round(patients * held)
    return too_few(patients - others, others if held else DECIDES)


def _judged(recipe: Recipe) -> bool:
    """Whether 'evaluate' judges what a run makes: images with masks, or records."""
    return recipe.condition.kind == "mask" or recipe.table is not None


def tell_lacking(
    console: Terminal, recipe: Recipe, *, masks: bool, study: Path | None = None
) -> None:
    """Prints the lines of `lacking`; `study` is the study's file."""
    for line in lacking(recipe, masks=masks, tested=bool(study and Study.load(study).test)):
        console.say(line, style="yellow")


def next_commands(
    path: Path,
    recipe: Recipe,
    sites: Mapping[str, Path],
    *,
    engine: str,
    masks: bool,
    study: Path | None = None,
) -> list[str]:
    """The commands that use a finished run; what is not known of them is named in capitals.

    Args:
        path: folder of the run.
        recipe: its recipe.
        sites: folders of its sites' data, by name.
        engine: by which it was trained.
        masks: whether it kept masks to paint from.
        study: file of the study that it was trained in.
    """
    said = Study.load(study) if study else Study()
    kind, run = recipe.condition.kind, f" {quote(str(path))}"
    given = "".join(f" --site {quote(f'{name}={folder}')}" for name, folder in sites.items())
    others = quote(str(said.test)) if said.test else f"OTHER_{recipe.kind.patients.upper()}"
    from_masks = "" if masks or kind != "mask" else " --masks MASKS"
    words = {"generate": from_masks} if kind != "class" or recipe.table else {}
    if recipe.image.source == "images":
        words |= judging_options(recipe, engine, given, others)
        if not _judged(recipe):
            del words["evaluate"]
    if study and (path, sites) == (said.out, said.sites):  # which then gives all else
        run = "" if study == Path(STUDY_FILE) else f" --study {quote(str(study))}"
        words = {name: from_masks if name == "generate" else "" for name in words}
    else:
        out = {name: f" --out {quote(str(path.parent / WRITTEN[name]))}" for name in words}
        words = {name: more + out[name] for name, more in words.items()}
    return [f"asyndgan {name}{run}{more}" for name, more in {**words, "report": ""}.items()]
