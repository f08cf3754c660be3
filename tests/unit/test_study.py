"""Studies: how their files are read, what is wrong with one, and what they add to commands."""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.cli.following import next_commands
from asyndgan.cli.study import TAKEN, completed
from asyndgan.errors import AsyndganError, RunError
from asyndgan.runs import load_recipe
from asyndgan.runs.study import Study, site_names

STUDY = """
recipe = "own.toml"
out = "first/run"
test = "~/test"
patient_pattern = '(.+)_ses-\\d+$'
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
    """Every command that takes a study, by its name, with the words that lead to it."""
    top = typer.main.get_command(app)
    for name in TAKEN:
        _, found, _ = top.resolve_command(
            top.make_context("asyndgan", ["check"]), ["federation" if name == "submit" else name]
        )
        yield name, found.commands["submit"] if name == "submit" else found


COMMANDS = dict(commands())


def words(name: str, line: str) -> list[str]:
    command = COMMANDS[name]
    return completed(command, typer.Context(command, info_name=name), shlex.split(line))


def parsed(name: str, line: str) -> dict[str, Any]:
    """Parameters of a command as it is called with this line."""
    return dict(COMMANDS[name].make_context(name, shlex.split(line)).params)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with three data sets and a study of them."""
    for name in ("north", "south", "test"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "dataset.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    sites = 'sites = {north = "data/north", south = "data/south"}'
    text = f'recipe = "default"\ntest = "data/test"\n{sites}\nset.training.steps = 2'
    (tmp_path / "study.toml").write_text(text)
    return tmp_path


def asyndgan(*given: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in given])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_paths_are_relative_to_the_file_and_overrides_are_those_of_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        ("sties = {a = 'b'}", "Did you mean sites?"),
        ("sites = {a = 'x', b = './x'}", "site a and site b have one folder"),
        ("test = 'x'\nsites = {test = 'x'}", "site test and the test set have one folder"),
        ("sites = {'../a' = 'x'}", "site ../a: a name has letters"),
        ("sites = {a = 'x', A = 'y'}", "each name once"),
        ("sites = ['a']", "sites = ['a']"),
        ("sites = {a = 3}", "sites.a = 3"),
        ('sites = {a = "x\\u0000"}', "all of them printable"),
        ('test = "x\\u001b[2J"', "all of them printable"),
        (f"out = '{'x' * 5000}'", "at most 4096 characters"),
        ("set = 3", "set = 3"),
        ("set.a = 1979-05-27", "set.a"),
        ("recipe = {name = 'a'}", "recipe = {'name': 'a'}"),
        ("recipe = ", "cannot be used"),
        ("a" + ".a" * 100 + " = 1", "dots"),
        ("set = " + "[" * 100 + "]" * 100, "nested too deeply"),
    ],
)
def test_a_study_that_cannot_be_used_is_answered_with_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(RunError) as caught:
        Study.parsed(text, Path("here/study.toml"))
    assert says in str(caught.value) and "here/study.toml" in str(caught.value)
    assert str(caught.value).isascii() and "\x1b" not in str(caught.value)


def test_what_is_no_file_of_text_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "vast").write_bytes(b"#" * 2**21)
    for name in ("pipe", "binary", "vast", "", "nowhere"):
        with pytest.raises(RunError, match=f"{tmp_path}.*cannot be read"):
            Study.load(tmp_path / name)


def test_every_command_with_the_option_takes_parameters_of_its_own() -> None:
    top = typer.main.get_command(app)
    for name, command in COMMANDS.items():
        own = {each.name for each in command.params}
        assert {"study", *TAKEN[name].split()} <= own, name
    for name in set(top.list_commands(top.make_context("asyndgan", ["check"]))) - set(TAKEN):
        _, found, _ = top.resolve_command(top.make_context("asyndgan", ["check"]), [name])
        assert all(each.name != "study" for each in found.params), name


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "line", "wanted"),
    [
        ("check", "", {"test": "data/test", "overrides": ["training.steps=2"]}),
        ("train", "", {"out": "run", "recipe": "default"}),
        ("plan", "", {"sites": ["north=data/north", "south=data/south"]}),
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
        ("audit", "--site=south", {"site": ["south=data/south"], "out": "audit"}),
        ("report", "", {"run": "run", "site": None}),
        ("augment", "--site north", {"site": "data/north", "out": "north-augmented"}),
        ("complete", "--site south --out o", {"site": "data/south", "out": "o"}),
        ("submit", "fed", {"folder": "fed", "recipe": "default", "site": None, "run": None}),
        ("submit", "fed --set a=b", {"overrides": ["training.steps=2", "a=b"]}),
        ("evaluate", "r --study study.toml", {"run": "r", "out": "evaluation"}),
    ],
)
def test_a_study_gives_what_a_command_line_leaves_out(
    name: str, line: str, wanted: dict[str, Any]
) -> None:
    found = parsed(name, line)
    for key, value in wanted.items():
        as_text = [*map(str, found[key])] if isinstance(value, list) else str(found[key] or None)
        assert as_text == (value if isinstance(value, list) else str(value)), key
    assert str(found["study"]) == "study.toml"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("train", "demo --site a=b --out c"),
        ("train", "--site a=b"),  # whoever names a site says all: nothing is added to their recipe
        ("generate", "run2"),
        ("check", "data/north"),
        ("submit", "fed demo"),
        ("train", "--help"),
    ],
)
def test_who_names_a_run_or_folders_gets_no_study_unasked(name: str, line: str) -> None:
    assert words(name, line) == shlex.split(line)


def test_a_study_elsewhere_is_used_if_it_is_named_and_missing_things_are_said(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_paths_that_look_like_options_stay_paths(here: Path) -> None:
    (here / "-x").mkdir()
    (here / "study.toml").write_text('sites = {a = "-x"}\nout = "-r"')
    found = parsed("evaluate", "")
    assert str(found["run"]) == "-r" and found["site"] == ["a=-x"]
    assert [str(each) for each in parsed("check", "")["folders"]] == ["-x"]
    assert str(parsed("augment", "")["site"]) == "-x"  # the only site needs no name


def test_the_next_commands_of_a_study_leave_out_what_it_says(here: Path) -> None:
    study, recipe = Study.load("study.toml"), load_recipe("default", ["masks.release=true"])
    short = Path("study.toml")
    for file, more in ((short, ""), (here / short, f" --study {here / short}")):
        own = Study.load(file)
        lines = next_commands(own.out, recipe, own.sites, r"(.+)", masks=True, study=file)
        told = [" ".join(part for part in line if "pattern" not in part) for line in lines]
        names = ("generate", "evaluate", "audit", "report")
        assert told == [f"asyndgan {name}{more}" for name in names]
    other = {"a": Path("elsewhere")}
    for line in next_commands(study.out, recipe, other, r"(.+)", masks=True, study=short):
        assert "--site a=elsewhere" in line or line[0].split()[1] in ("generate", "report")
    for line in next_commands(Path("b"), recipe, study.sites, r"(.+)", masks=True, study=short):
        assert line[0].endswith(" b")


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["a/north", "b/Köln 2"], ["north", "Köln-2"]),
        (["n/data", "s/data"], ["n-data", "s-data"]),
        (["x/n/Data", "y/n/data", "n"], ["n-Data", "n-data-2", "n"]),
        (["nnUNet_raw/Dataset012_Liver", "..."], ["Liver", "site"]),
        (["a" * 99 + "/x", "b" * 99 + "/x"], ["a" * 64, "b" * 64]),
    ],
)
def test_sites_are_named_as_their_folders_and_differently(
    folders: list[str], names: list[str], tmp_path: Path
) -> None:
    found = site_names([tmp_path / folder for folder in folders])
    assert found == names
    Study.parsed(f"sites = {{{', '.join(f'{json.dumps(n)} = {n!r}' for n in found)}}}", Path("s"))


def test_init_writes_a_study_of_what_it_finds_and_overwrites_nothing(here: Path) -> None:
    (here / "study.toml").unlink()
    (here / "data" / "painted").mkdir()
    (here / "data" / "painted" / "dataset.json").write_text('{"synthetic": true}')
    (here / "data" / "notes").mkdir()
    said = asyndgan("init", "data")
    study = Study.load("study.toml")
    assert study.sites == {"north": Path("data/north"), "south": Path("data/south")}
    assert study.test == Path("data/test") and study.overrides == ["masks.release=true"]
    assert "site north: data/north" in said and said.endswith("asyndgan check\nasyndgan train\n")
    assert "not planned: " in said and study.recipe is None  # check will say what is wrong
    with pytest.raises(RunError, match=r"study\.toml exists already"):
        asyndgan("init", "data")
    (here / "data" / "recipe.toml").touch()
    with pytest.raises(RunError, match=r"recipe\.toml exists already"):
        asyndgan("init", "data/north", "--out", "data/d.toml")
    (here / "data" / "recipe.toml").unlink()
    asyndgan("init", "data/north", "data/south", "--out", "b.toml")
    assert Study.load("b.toml").overrides == ["masks.release=true", "training.hold_out=0.2"]
    asyndgan("init", "data/north", "--test", "data/south", "--out", here / "data" / "c.toml")
    assert '"south"' in (here / "data" / "c.toml").read_text()
    assert Study.load("data/c.toml").test == Path("data/south")
    load_recipe("default", Study.load("b.toml").overrides)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("data/nowhere", "does not exist"),
        ("data/test", "data/test: a study has sites"),
        ("data/north data/north", "have one folder"),
        ("data/north data/test data/Test", "one test set at most. Name one with --test"),
        ("data/north --test data/nowhere", "does not exist"),
        ("data/north/empty", "dataset.json"),
    ],
)
def test_init_says_what_keeps_it_from_writing(line: str, says: str, here: Path) -> None:
    (here / "study.toml").unlink()
    (here / "data" / "north" / "empty").mkdir()
    (here / "data" / "Test").mkdir()
    (here / "data" / "Test" / "dataset.json").write_text("{}")
    with pytest.raises(AsyndganError, match=says):
        asyndgan("init", *line.split())
    assert not (here / "study.toml").exists()
