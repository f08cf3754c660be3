"""What a study adds to a command line: words for what the command takes and was not given."""

import shlex
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from asyndgan.runs.study import Study

TAKEN: Final = {
    "fingerprint": "folder",
    "plan": "sites overrides",
    "check": "folders test recipe overrides",
    "train": "recipe site overrides out",
    "generate": "run out",
    "release": "run out",
    "evaluate": "run site test synthetic out",
    "audit": "run site holdout out",
    "play": "run",
    "report": "run",  # not the sites: their images would become part of the page
    "complete": "run site out",
    "augment": "run site out",
}
"""Parameters that each command with `--study` takes from a study."""

WRITTEN: Final = {
    "generate": "synthetic",
    "release": "released",
    "evaluate": "evaluation",
    "audit": "audit",
    "complete": "{site}-complete",
    "augment": "{site}-augmented",
}
"""What each command writes beside the run folder of a study."""


HINT: Final = (
    "Name it (of a study one of its sites), or write a study with 'asyndgan init FOLDER ...'."
)


def completed(command: Any, ctx: Any, words: list[str]) -> list[str]:
    """The words of a command line, with those that a study adds; these are printed.

    The study is that of `--study`. Without this option it is that of the current folder, if the
    command lacks something and was given neither a run nor the folder of a site.

    Args:
        command: a command of typer.
        ctx: its context.
        words: as the user typed them, after the command.

    Raises:
        RunError: the study cannot be used, or lacks a folder that it names.
    """
    if ctx.resilient_parsing or all(each.name != "study" for each in command.params):
        return words
    found, _, _ = command.make_parser(ctx).parse_args(list(words))
    given = {name: each for name, each in found.items() if isinstance(each, str | list | tuple)}
    given = {name: each for name, each in given.items() if each}
    lacks = any(each.required and each.name not in given for each in command.params)
    alone = "run" in given or "=" in str(given.get("site"))
    if found.get("help") or not ("study" in given or (lacks and not alone)):
        return words
    from asyndgan.cli.terminal import Terminal
    from asyndgan.runs.study import STUDY_FILE, Study

    if "study" not in given and not Path(STUDY_FILE).is_file():
        return words
    file = str(given.get("study", STUDY_FILE))
    study = Study.load(file)
    options, arguments = _added(command, study, given)
    if options or arguments:
        Terminal(stderr=True).say(f"{file} adds: {shlex.join([*arguments, *options])}")
    own = [] if "study" in given else ["--study", file]
    end = ["--"] if arguments and "--" not in words else []
    pairs = "site" in given and isinstance(given["site"], list | tuple)
    return [*options, *own, *_with_folders(words, study.sites, pairs), *end, *arguments]


def _added(command: Any, study: "Study", given: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    options: list[str] = []
    arguments: list[str] = []
    for each in command.params:
        if each.name not in TAKEN[command.name].split():
            continue
        if each.name in given and each.name != "overrides":
            continue
        values = _values(each, command.name, study, str(given.get("site", "")))
        if each.param_type_name == "argument":
            arguments += values
        else:
            options += [word for value in values for word in (each.opts[0], value)]
    return options, arguments


def _values(parameter: Any, command: str, study: "Study", site: str) -> list[str]:
    """What a study says of a parameter, if `site` was given."""
    from asyndgan.runs.study import existing

    sites = study.sites
    if not site and len(sites) == 1:
        site = next(iter(sites))
    match parameter.name:
        case "recipe":
            return [study.recipe] if study.recipe else []
        case "overrides":
            return study.overrides
        case "run":
            return [str(study.out)]
        case "folders":
            return [str(existing(folder)) for folder in sites.values()]
        case "site" | "sites" if parameter.multiple or parameter.nargs != 1:
            return [f"{name}={existing(folder)}" for name, folder in sites.items()]
        case "site" | "folder":
            return [str(existing(sites[site]))] if site in sites else []
        case "test" | "holdout":
            return [str(existing(study.test))] if study.test else []
        case "synthetic":
            painted = study.beside(WRITTEN["generate"])
            return [str(painted)] if painted.is_dir() else []
        case _:
            if command == "train":
                return [str(study.out)]
            name = WRITTEN[command]
            if "{site}" in name and site not in sites:
                return []
            return [str(study.beside(name.format(site=site)))]


def _with_folders(words: list[str], sites: Mapping[str, Path], pairs: bool) -> list[str]:
    """The same words, with the folder of each site that `--site` gives by its name alone."""
    apart = [
        part
        for word in words
        for part in (word.split("=", 1) if word.startswith("--site=") else [word])
    ]
    return [
        (f"{word}=" if pairs else "") + str(sites[word])
        if before == "--site" and word in sites
        else word
        for before, word in pairwise(["", *apart])
    ]
