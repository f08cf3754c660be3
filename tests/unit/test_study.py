"""Studies: how their files are read, what is wrong with one, and what they add to commands."""

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from asyndgan.cli import app
from asyndgan.cli.study import TAKEN, completed
from asyndgan.errors import AsyndganError, RunError
from asyndgan.export.writing import write_dataset
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet
from asyndgan.runs import load_recipe
from asyndgan.runs.study import Study, site_names
from asyndgan.store.case import RawCase
from commands import asyndgan

STUDY = """
recipe = "own.toml"
out = "first/run"
test = "~/test"
[sites]
north = "data/north"
south = "/data/south"
[set]
training.steps = 2
image.size = "48x64"
image.intensity."T1.5" = {kind = "percentiles", low = 1, high = 99}
"loss.segmentation" = 0.5
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that takes a study, by its name."""
    top = typer.main.get_command(app)
    for name in TAKEN:
        yield name, top.resolve_command(top.make_context("asyndgan", ["check"]), [name])[1]


COMMANDS = dict(commands())


def words(name: str, line: str) -> list[str]:
    command = COMMANDS[name]
    return completed(command, typer.Context(command, info_name=name), shlex.split(line))


def parsed(name: str, line: str) -> dict[str, Any]:
    """Parameters of a command as it is called with this line."""
    return dict(COMMANDS[name].make_context(name, shlex.split(line)).params)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with three data sets and a study of them."""
    for name in ("north", "south", "test"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "dataset.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    sites = 'sites = {north = "data/north", south = "data/south"}'
    text = f'recipe = "default"\ntest = "data/test"\n{sites}\nset.training.steps = 2'
    (tmp_path / "study.toml").write_text(text)
    return tmp_path


def test_paths_are_relative_to_the_file_and_overrides_are_those_of_set(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    (tmp_path / "s.toml").write_text(STUDY)
    study = Study.load(tmp_path / "s.toml")
    assert study.sites == {"north": tmp_path / "data/north", "south": Path("/data/south")}
    assert study.test == Path("/home/someone/test") and study.recipe == str(tmp_path / "own.toml")
    assert study.beside("audit") == tmp_path / "first" / "audit"
    recipe = load_recipe("default", study.overrides)
    assert recipe.training.steps == 2 and recipe.image.size == (48, 64)
    assert recipe.loss.segmentation == 0.5 and recipe.image.intensity["T1.5"].low == 1
    assert Study.parsed("", tmp_path / "s.toml").out == tmp_path / "run"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("testt = 'a'", "testt is no key here. Did you mean test?"),
        ("sites = {a = 'x', b = './x'}", "site a and site b have one data set"),
        ("sites = {'../a' = 'x'}", "site ../a: a name has letters"),
        ("sites = {a = 'x', A = 'y'}", "each name once"), ("sites = ['a']", "sites = ['a']"),
        ("sites = {a = 3}", "sites.a = 3: write the path of a folder in quotes."),
        ("training = 0", "training is no key here. Did you mean set.training?"),
        ("out = 'a'\ntest = 'c'\nout = 'b'", "line 3: out is there already."),
        ("\nout = a\u0246\n", "line 2, 'out = a\\u0246': write KEY = VALUE, with text in quotes."),
        ('sites = {a = "x\\u0000"}', "a path is of printable characters"),
        (f"out = '{'x' * 5000}'", "at most 4096 characters"), ("set = 3", "set = 3"),
        ("recipe = ", "cannot be used"), ("a" + ".a" * 100 + " = 1", "dots"),
        ('[sites]\na = "C:\\Users\\a"', "line 2: in double quotes a backslash is an escape"),
        ("set = " + "[" * 100 + "]" * 100, "nested too deeply"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_used_is_answered_with_what_is_wrong(text, says):
    with pytest.raises(RunError) as caught:
        Study.parsed(text, Path("here/study.toml"))
    assert says in str(caught.value) and "here/study.toml" in str(caught.value)
    assert str(caught.value).isascii() and "\x1b" not in str(caught.value)
    assert not re.search("Input|valid |pathlib|at line|at end", str(caught.value))


def test_what_is_no_file_of_text_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "vast").write_bytes(b"#" * 2**21)
    for name in ("pipe", "binary", "vast", "", "nowhere"):
        with pytest.raises(RunError, match=f"{tmp_path}.*cannot be read"):
            Study.load(tmp_path / name)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "line", "wanted"),
    [
        ("check", "", {"test": "data/test", "overrides": ["training.steps=2"]}),
        ("train", "", {"out": "run", "recipe": "default"}),
        (
            "train",
            "--set training.steps=9",
            {"overrides": ["training.steps=2", "training.steps=9"]},
        ),
        ("train", "demo --out b", {"recipe": "demo", "out": "b"}),
        ("generate", "", {"run": "run", "out": "synthetic"}),
        ("evaluate", "", {"site": ["north=data/north", "south=data/south"], "synthetic": None}),
        ("evaluate", "--test other --steps 2", {"test": "other", "out": "evaluation", "steps": 2}),
        ("audit", "--site north", {"site": ["north=data/north"], "holdout": "data/test"}),
        ("augment", "--site north", {"site": "data/north", "out": "north-augmented"}),
        ("evaluate", "r --study study.toml", {"run": "r", "out": "evaluation"}),
    ],
)
def test_a_study_gives_what_a_command_line_leaves_out(name, line, wanted):
    found = parsed(name, line)
    for key, value in wanted.items():
        as_text = [*map(str, found[key])] if isinstance(value, list) else str(found[key] or None)
        assert as_text == (value if isinstance(value, list) else str(value)), key
    assert str(found["study"]) == "study.toml"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("train", "--site a=b"),  # whoever names a site says all: nothing is added to their recipe
        ("generate", "run2"),
        ("check", "data/north"),
        ("train", "--help"),
    ],
)
def test_who_names_a_run_or_folders_gets_no_study_unasked(name, line):
    assert words(name, line) == shlex.split(line)


def test_a_study_elsewhere_is_used_if_it_is_named_and_missing_things_are_said(here, monkeypatch):
    (here / "else").mkdir()
    monkeypatch.chdir(here / "else")
    assert words("train", "") == []
    found = parsed("evaluate", "--study ../study.toml")
    assert found["site"] == ["north=../data/north", "south=../data/south"]
    assert str(found["out"]) == "../evaluation"
    (here / "data" / "south").rename(here / "gone")
    with pytest.raises(RunError, match="data/south does not exist, or is no folder"):
        parsed("evaluate", "--study ../study.toml")
    assert parsed("report", "--study ../study.toml")["run"]  # which needs no site
    assert parsed("audit", "--study ../study.toml --site north")["site"]
    with pytest.raises(typer.BadParameter) as missing:
        parsed("augment", "--study ../study.toml")  # of which site?
    assert "'--site'" in missing.value.format_message()


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["a/north", "b/Köln 2"], ["north", "Köln-2"]),
        (["x/n/Data", "y/n/data", "n"], ["n-Data", "n-data-2", "n"]),
        (["nnUNet_raw/Dataset012_Liver", "..."], ["Liver", "site"]),
        (["a" * 99 + "/x", "b" * 99 + "/x"], ["a" * 64, "b" * 64]),
    ],
)
def test_sites_are_named_as_their_folders_and_differently(folders, names, tmp_path):
    found = site_names([tmp_path / folder for folder in folders])
    assert found == names
    Study.parsed(f"sites = {{{', '.join(f'{json.dumps(n)} = {n!r}' for n in found)}}}", Path("s"))


def test_init_writes_a_study_of_what_it_finds_and_overwrites_nothing(here):
    (here / "study.toml").unlink()
    (here / "data" / "painted").mkdir()
    (here / "data" / "painted" / "dataset.json").write_text('{"synthetic": true}')
    (here / "data" / "notes").mkdir()
    said = asyndgan("init", "data")
    study = Study.load("study.toml")
    assert study.sites == {"north": Path("data/north"), "south": Path("data/south")}
    assert study.test == Path("data/test") and not study.overrides
    assert "site north: data/north" in said and study.recipe is None
    with pytest.raises(RunError, match=r"study\.toml exists already"):
        asyndgan("init", "data")
    (here / "data" / "recipe.toml").touch()
    with pytest.raises(RunError, match=r"recipe\.toml exists already") as there:
        asyndgan("init", "data/north", "--out", "data/d.toml")
    asyndgan("init", "data/north", *str(there.value).split()[-2:])  # the remedy is true
    assert Study.load("data/other/study.toml").sites == {"north": here / "data" / "north"}
    (here / "data" / "recipe.toml").unlink()
    asyndgan("init", "data/north", "data/south", "--out", "b.toml")
    assert Study.load("b.toml").overrides == ["training.hold_out=0.2"]
    asyndgan("init", "data/north", "--test", "data/south", "--out", here / "data" / "c.toml")
    assert '"south"' in (here / "data" / "c.toml").read_text()
    assert Study.load("data/c.toml").test == Path("data/south")
    assert "hold_out" not in (here / "data" / "c.toml").read_text()
    load_recipe("default", Study.load("b.toml").overrides)


def test_a_folder_of_imagests_is_the_test_set_and_every_command_reads_it(here):
    (here / "study.toml").unlink()
    for name in ("east", "held"):
        mask = np.pad(np.ones((8, 8), np.int64), 8)
        cases = [
            RawCase(f"{name}{n}", f"{name}{n}", {"T1": 100 * mask + np.eye(24) * (n + 1.0)}, mask)
            for n in range(4)
        ]
        labels = {"background": 0, "organ": 1}
        write_dataset(here / name, cases, modalities=("T1",), labels=labels, name=name)
    for part in ("images", "labels"):
        (here / "held" / f"{part}Tr").rename(here / "held" / f"{part}Ts")
    asyndgan("init", "east", "held")
    assert Study.load().test == Path("held") and [*Study.load().sites] == ["east"]
    assert all(files.mask for files in DataSet(here / "held").files)
    assert check_folder(here / "held").faults == ()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("data/test", "data/test: a study has sites"),
        ("data/north data/north", "have one data set"),
        ("data/north data/test data/Test", "one test set at most. Name one with --test"),
        ("data/north/empty", "dataset.json"),
    ],
)
def test_init_says_what_keeps_it_from_writing(line, says, here):
    (here / "study.toml").unlink()
    (here / "data" / "north" / "empty").mkdir()
    (here / "data" / "Test").mkdir()
    (here / "data" / "Test" / "dataset.json").write_text("{}")
    with pytest.raises(AsyndganError, match=says):
        asyndgan("init", *line.split())
    assert not (here / "study.toml").exists()
