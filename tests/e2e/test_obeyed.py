"""A remedy of data that is printed, obeyed at both of two sites, ends its fault and makes none.

`CASES` holds faults, and what a user does as the remedy says. A remedy that shows
what to type has to be in it.
"""

import json
import re
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.errors import AsyndganError
from faulty import BASES, CASES, Case
from obeying import Owned, pattern_of, remedies_of, sites

SOURCES = ("intake/**/*.py", "store/enrolment.py")
SMALL = (
    "training.steps=1", "training.batch=2", "training.precision=float32", "generator.width=4",
    "generator.blocks=1", "discriminator.width=4", "discriminator.layers=1", "masks.source=own",
)  # fmt: skip


TYPED = re.compile(r"--set|gzip|gunzip")


@cache
def texts() -> list[str]:
    return [f"{module}: {text}" for module, text in remedies_of(*SOURCES)]


def test_every_remedy_that_shows_what_to_type_is_obeyed() -> None:
    known = [key for key, _ in CASES]
    typed = [text for text in texts() if TYPED.search(text)]
    assert len(typed) > 5 and not [text for text in typed if not text.startswith(tuple(known))]
    assert [key for key in known if not any(text.startswith(key) for text in texts())] == []


class Told(NamedTuple):
    """What `check` says: for each text its site and file."""

    faults: list[tuple[Owned, Path, str]]
    notes: list[tuple[Owned, Path, str]]


def checked(made: list[Owned], options: list[str]) -> Told:
    words = ["check", *(own.named for own in made), "--json", *as_words(options)]
    done = CliRunner().invoke(app, words)
    if done.exception and not isinstance(done.exception, SystemExit):
        assert isinstance(done.exception, AsyndganError), done.exception
        return Told([(own, own.folder, str(done.exception)) for own in made], [])
    if not done.output.startswith("{"):
        return Told([(own, own.folder, done.output) for own in made], [])
    found = json.loads(done.output)
    faults = [
        (_owner(made, fault["file"]), Path(fault["file"]), fault["remedy"])
        for part in (*(one["faults"] for one in found["folders"]), found["between"])
        for fault in part
    ]
    notes = [(own, own.folder, note) for own in made for note in found["notes"]]
    for own, one in zip(made, found["folders"], strict=True):
        for what in (each for each in one["findings"] if not each["fault"]):
            name = what["cases"][0] if what["cases"] else own.images()[0].name.split("_0000")[0]
            notes.append((own, own.folder / f"imagesTr/{name}_0000{own.ending}", what["remedy"]))
    assert (done.exit_code != 0) == bool(faults)
    return Told(faults, notes)


def as_words(options: Iterable[str]) -> list[str]:
    """Options as they are typed; one that begins with `recipe:` names the recipe."""
    pairs = [one.split(":", 1) if one.startswith("recipe:") else ["set", one] for one in options]
    return [word for name, value in pairs for word in (f"--{name}", value)]


def _owner(made: list[Owned], file: str) -> Owned:
    return next((own for own in made if file.startswith((own.named, str(own.folder)))), made[0])


def refusal(made: list[Owned], options: list[str], out: Path) -> str:
    """Why `train` refuses the same sets; empty: it trains a step."""
    recipes = [one.removeprefix("recipe:") for one in options if one.startswith("recipe:")]
    words = ["train", *recipes, "--out", str(out), "--threads", "1"]
    words += [word for own in made for word in ("--site", f"{own.folder.name}={own.named}")]
    words += as_words([*SMALL, *(one for one in options if not one.startswith("recipe:"))])
    done = CliRunner().invoke(app, words)
    if done.exception and not isinstance(done.exception, SystemExit):
        assert isinstance(done.exception, AsyndganError), done.exception
        return str(done.exception)
    return done.output if done.exit_code else ""


@pytest.mark.parametrize(
    ("key", "one"), CASES, ids=[f"{number} {key}" for number, (key, _) in enumerate(CASES)]
)
def test_a_remedy_obeyed_at_all_sites_ends_its_fault_and_makes_none(
    key: str, one: Case, tmp_path: Path
) -> None:
    ending, names, slices = BASES[one.base]
    data, spoilt = tmp_path / "data", tmp_path / "spoilt"
    made, options = sites(data, ending, names, deep=slices), list(one.options)
    for own in made:
        one.spoil(own)
    patterns = [pattern_of(text.partition(": ")[2]) for text in texts() if text.startswith(key)]
    told = checked(made, options)
    hits = [hit for hit in (*told.faults, *told.notes) if any(p.search(hit[2]) for p in patterns)]
    assert hits, told
    faulty = any(hit in told.faults for hit in hits)
    refused = refusal(made, options, tmp_path / "before")
    assert bool(refused) == faulty, (told, refused)
    for own in made:
        own.told = " ".join(said for whose, _, said in (*told.faults, *told.notes) if whose is own)
    if len(one.obeys) > 1:
        shutil.copytree(data, spoilt, symlinks=True)
    for way, obey in enumerate(one.obeys):
        if way:
            shutil.rmtree(data)
            shutil.copytree(spoilt, data, symlinks=True)
        options = list(one.options)
        for own, file, said in {(hit[0].folder, hit[1]): hit for hit in hits}.values():
            more = obey(own, file, said)
            if isinstance(more, tuple):
                options = list(more)
            elif isinstance(more, list):
                options += [text for text in more if isinstance(text, str)]
        after = checked(made, options)
        assert after.faults == [], (hits, after.faults)
        assert [note for note in after.notes if any(p.search(note[2]) for p in patterns)] == []
        if faulty:  # what a note is of was trained on before
            assert refusal(made, options, tmp_path / f"after{way}") == ""
