"""What a run can be used for afterwards: what it lacks for that, and the commands."""

import math
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from shlex import quote
from typing import Final

from asyndgan.cli.study import WRITTEN
from asyndgan.cli.terminal import Terminal
from asyndgan.intake.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.recipe import Recipe
from asyndgan.runs.study import STUDY_FILE, Study
from asyndgan.tables.schema import tables_in

HOLD_OUT = "--set training.hold_out=0.2"

WIDTH: Final = 80
"""Columns of a line that is to be copied."""


DECIDES: Final = 20
"""About how many patients, of those who took part and of others, let an audit permit a release
(docs/audits.md)."""


def lacking(
    recipe: Recipe, *, masks: bool, tested: bool = False, patients: int | None = None
) -> list[str]:
    """What a run will not be able to do by itself, and the options that allow it, line by line.

    Args:
        recipe: recipe of the run.
        masks: whether it keeps, or will keep, masks to paint from.
        tested: whether its study has a test set.
        patients: of its sites together, if known.
    """
    lines = []
    if recipe.condition.kind == "mask" and not masks:
        free = recipe.sends_own_masks and recipe.privacy.kind == "none"
        train = "train with --set masks.source=given (masks are learned first), or "
        lines.append(
            f"No masks are kept for generate: {train if free else ''}give it --masks FOLDER."
        )
    if not tested and not recipe.training.hold_out and recipe.image.source == "images":
        what = "records" if recipe.table else "patients"
        given, names = "--test FOLDER and audit --holdout FOLDER", "evaluate and audit"
        if not _judged(recipe):
            given, names = "--holdout FOLDER", "audit"
        lines.append(
            f"No {what} are held out for {names}: train with {HOLD_OUT}, or give "
            f"{names.partition(' ')[0]} {given}, with other {what}."
        )
    if patients and not recipe.table and recipe.image.source == "images":
        lines += undecided(patients, recipe.training.hold_out)
    return lines


def undecided(patients: int | None, hold_out: float) -> list[str]:
    """That an audit will hardly permit a release, if so few patients take part or are held out.

    Args:
        patients: of the sites together; None, if not known: how many it takes is said.
        hold_out: fraction of them that is held out.
    """
    if patients is None:
        held = f"and {DECIDES} are held out"
        needed = math.ceil(DECIDES / min(hold_out, 1 - hold_out)) if hold_out else DECIDES
        return [
            f"An audit permits the release of a set only if about {DECIDES} patients take part "
            f"{held if hold_out else 'and it compares as many others'}: {needed} patients at the "
            "sites together."
        ]
    others = round(patients * hold_out)
    members, who = patients - others, f"and {others} held out " if others else ""
    if min(members, others if hold_out else members) >= DECIDES:
        return []
    least = math.ceil(100 * DECIDES / patients) / 100
    more = f"hold out more (--set training.hold_out={least:g})"
    if least > 0.5:
        more = f"have {2 * DECIDES if hold_out else DECIDES} patients at the sites together"
    return [
        f"An audit of {members} patients {who}will hardly permit the release of a set: it takes "
        f"about {DECIDES} of each. If you mean to release one, {more}."
    ]


def tell_undecided(
    console: Terminal, recipe: Recipe, patients: int | None, *, study: Path | None = None
) -> None:
    """Prints the lines of `undecided`, if a run paints images of patients.

    Args:
        console: where to.
        recipe: recipe of the run.
        patients: of its sites together, if known.
        study: file of a study, whose sites' patients are counted if they are not known.
    """
    if recipe.table or recipe.image.source != "images":
        return
    if study and not patients:
        from asyndgan.intake.dataset import DataSet

        said = Study.load(study)
        sets = [DataSet(folder, said.patient_pattern) for folder in said.sites.values()]
        patients = sum(len({*one.patients.values()}) for one in sets)
    for line in undecided(patients or None, recipe.training.hold_out):
        console.say(line, style="yellow")


def _judged(recipe: Recipe) -> bool:
    """Whether 'evaluate' judges what a run makes: images with masks, or records."""
    return recipe.condition.kind == "mask" or recipe.table is not None


def tell_lacking(
    console: Terminal,
    recipe: Recipe,
    *,
    masks: bool,
    study: Path | None = None,
    patients: int | None = None,
) -> None:
    """Prints the lines of `lacking`; `study` is the study's file."""
    tested = bool(study and Study.load(study).test)
    for line in lacking(recipe, masks=masks, tested=tested, patients=patients):
        console.say(line, style="yellow")


def next_commands(
    path: Path,
    recipe: Recipe,
    sites: Mapping[str, Path],
    pattern: str,
    *,
    masks: bool,
    study: Path | None = None,
) -> list[list[str]]:
    """The commands that use a finished run, with its paths, option by option.

    Results are put beside the run, where `report` finds them. Patients that the run has not seen
    are taken from a data set `test` beside a site's. What is not there is named in capitals.

    Args:
        path: folder of the run.
        recipe: its recipe.
        sites: folders of its sites' data, by name.
        pattern: pattern of its patients.
        masks: whether it kept masks to paint from.
        study: file of the study that it was trained in; the commands leave out what it says.
    """
    said = Study.load(study) if study else Study()
    run, kind = quote(str(path)), recipe.condition.kind
    given = [f"--site {quote(f'{name}={folder}')}" for name, folder in sites.items()]
    if pattern != DEFAULT_PATIENT_PATTERN:
        given.append(f"--patient-pattern {quote(pattern)}")
    own = kind != "mask" or masks
    painted, judged, tried = (
        _free(path.parent / name) for name in ("synthetic", "evaluation", "audit")
    )
    unseen = (
        ""
        if recipe.training.hold_out
        else quote(str(said.test or _test(sites) or OTHERS[recipe.table is not None]))
    )
    shown = [] if own else [f"--synthetic {quote(str(painted))}"]
    commands = []
    if kind != "class" or recipe.table:
        more = [] if own else ["--masks MASKS"]
        commands.append([f"asyndgan generate {run}", *more, f"--out {quote(str(painted))}"])
    if recipe.image.source == "images" and _judged(recipe):
        more = [f"--test {unseen}"] if unseen else []
        commands.append([f"asyndgan evaluate {run}", *given, *more, f"--out {quote(str(judged))}"])
        shown += _named("--evaluation", judged)
    if recipe.image.source == "images":
        more = [f"--holdout {unseen}"] if unseen else []
        commands.append([f"asyndgan audit {run}", *given, *more, f"--out {quote(str(tried))}"])
        shown += _named("--audit", tried)
    commands.append([f"asyndgan report {run}", *shown])
    return [_within(said, study, each) for each in commands] if study else commands


def _within(study: Study, file: Path, command: list[str]) -> list[str]:
    """A command without what the study says, if this is a command on its run and its sites."""
    said = {f"--out {quote(str(study.beside(name)))}" for name in WRITTEN.values()}
    said |= {f"--site {quote(f'{name}={folder}')}" for name, folder in study.sites.items()}
    said |= {f"{option} {quote(str(study.test))}" for option in ("--test", "--holdout")}
    said |= {f"--patient-pattern {quote(study.patient_pattern)}"}
    begin, run = command[0].removesuffix(f" {quote(str(study.out))}"), command[0]
    rest = [each for each in command[1:] if each not in said]
    if begin == run or any(each.startswith("--site") for each in rest):
        return command
    return [begin, *rest, *([] if file == Path(STUDY_FILE) else [f"--study {quote(str(file))}"])]


def in_lines(command: list[str]) -> str:
    """A command to copy: on one line if it fits, else on several lines that a shell takes as one.

    A word in capitals, which the user has to replace, is named on a line before it.
    """
    unknown = [word for part in command for word in part.split() if word in UNKNOWN]
    lines = [f"# {word}: {UNKNOWN[word]}" for word in unknown] + command[:1]
    for part in command[1:]:
        if len(lines[-1]) + len(part) + 3 <= WIDTH:
            lines[-1] += f" {part}"
        else:
            lines[-1] += " \\"
            lines.append(f"  {part}")
    return "\n".join(lines)


UNKNOWN: Final = {
    "MASKS": "a data set with masks to paint from",
    "OTHER_PATIENTS": "a data set of patients whom the run has not seen",
    "OTHER_RECORDS": "a table of records that the run has not seen",
}
OTHERS: Final = ("OTHER_PATIENTS", "OTHER_RECORDS")
"""Which of them is asked for, of images and of a table."""


def _test(sites: Mapping[str, Path]) -> Path | None:
    """A data set named `test` beside one of the sites'."""
    beside = (folder.parent / "test" for folder in sites.values())
    return next((p for p in beside if (p / "dataset.json").is_file() or tables_in(p)), None)


def _named(option: str, folder: Path) -> list[str]:
    """The option, unless `report` finds the folder by its name."""
    return [] if option == f"--{folder.name}" else [f"{option} {quote(str(folder))}"]


def _free(path: Path) -> Path:
    """The path, with a number if there is a folder of that name."""
    names = (path.with_name(f"{path.name}{n if n > 1 else ''}") for n in count(1))
    return next(one for one in names if not one.exists())
