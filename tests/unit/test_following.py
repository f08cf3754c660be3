"""What `train` says that a run will lack, and the commands that follow it."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from asyndgan.auditing.expected import expected_seconds
from asyndgan.auditing.run import audit_run
from asyndgan.cli import app
from asyndgan.cli.following import in_lines, lacking, next_commands, undecided
from asyndgan.cli.help import at_home
from asyndgan.cli.options import parsed_sites
from asyndgan.cli.plan import tell_planned
from asyndgan.cli.terminal import Terminal
from asyndgan.demo.phantoms import write_phantoms
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.errors import DataError, RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.judging.bench import Bench
from asyndgan.judging.of_run import evaluate_run
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder, load_recipe
from asyndgan.runs.planned import planned
from asyndgan.runs.sites import RunSites

SITES = {"a": Path("data/north wing"), "b": Path("/data/west")}


@pytest.mark.parametrize(
    ("overrides", "named", "unnamed"),
    [
        ([], ["training.hold_out", "--test", "--holdout"], ["masks."]),
        (["masks.source=own"], ["masks.source=given", "training.hold_out"], []),
        (["masks.source=own", "masks.release=true"], ["training.hold_out"], ["masks."]),
        (["masks.source=own", "training.hold_out=0.3"], ["masks.source=given"], ["--test"]),
        (["training.hold_out=0.3"], [], ["generate", "audit"]),
        (
            ["condition.kind=none", "generator.kind=dcgan", "discriminator.kind=dcgan",
             "loss.segmentation=0", "generator.noise=0", "generator.soften=0",
             "discriminator.norm=instance"],
            ["--holdout"],
            ["masks.", "--masks", "evaluate"],
        ),
    ],
)  # fmt: skip
def test_what_a_run_lacks_is_said_with_the_option_that_allows_it(
    overrides: list[str], named: list[str], unnamed: list[str]
) -> None:
    recipe = load_recipe("default", overrides)
    said = "\n".join(lacking(recipe, masks=recipe.keeps_masks or recipe.given_masks))
    assert all(text in said for text in named), said
    assert not any(text in said for text in unnamed), said
    for line in said.splitlines():
        for word in line.split():
            if "=" in word:  # what is advised can be set
                load_recipe("default", [*overrides, word.strip(",.")])


@pytest.mark.parametrize(
    ("patients", "hold_out", "said"),
    [
        (100, 0.2, ""),
        (99, 0.1, "89 patients and 10 held out"),
        (66, 0.2, "training.hold_out=0.31"),
        (30, 0.2, "have 40 patients at the sites"),
        (12, 0, "have 20 patients at the sites"),
        (20, 0, ""),
    ],
)
def test_before_a_training_it_is_said_whether_an_audit_could_permit_a_release(
    patients: int, hold_out: float, said: str
) -> None:
    recipe = load_recipe("default", [f"training.hold_out={hold_out}"])
    lines = "\n".join(lacking(recipe, masks=True, tested=True, patients=patients))
    assert (said in lines) if said else not lines
    if "hold_out=" in said:
        enough = load_recipe("default", [said])
        assert not lacking(enough, masks=True, tested=True, patients=patients)


@pytest.mark.parametrize(
    ("hold_out", "said"),
    [(0.2, "100 patients at"), (0.75, "80 patients at"), (0, "20 patients at")],
)
def test_of_patients_that_nobody_knows_it_is_said_how_many_it_takes(
    hold_out: float, said: str
) -> None:
    (line,) = undecided(None, hold_out)
    assert said in line
    assert not undecided(int(re.findall(r"(\d+) patients at", line)[0]), hold_out)


def test_a_plan_says_whether_an_audit_could_permit_a_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_phantoms(tmp_path, size=32, patients_scale=0.5)
    tell_planned(Terminal(), planned({"north": tmp_path / "north"}, ["training.hold_out=0.5"]))
    said = " ".join(capsys.readouterr().out.split())
    assert "An audit of 7 patients and 6 held out will hardly permit the release" in said
    assert "have 40 patients at the sites together" in said


def test_who_submits_a_run_is_told_whether_an_audit_could_permit_a_release(tmp_path: Path) -> None:
    fed = federation_here(tmp_path / "f", tmp_path / "north")

    def submitted(run: str, *words: str) -> str:
        ask = ["federation", "submit", str(fed.path), "default", "--yes", "--run", run, *words]
        done = CliRunner().invoke(app, ask, env={"COLUMNS": "200"})
        assert done.exit_code == 0, done.exception
        return " ".join(done.output.split())

    said = submitted("one", "--set", "training.hold_out=0.25")
    assert "80 patients at the sites together" in said
    write_phantoms(tmp_path / "data", size=32, patients_scale=0.5)
    study = tmp_path / "study.toml"
    study.write_text('out = "run"\n[sites]\nnorth = "data/north"\n')
    assert "An audit of 13 patients" in submitted("two", "--study", str(study))


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("overrides", [[], ["training.hold_out=0.3"]])
@pytest.mark.parametrize("pattern", [DEFAULT_PATIENT_PATTERN, r"(p\d+) .*"])
def test_the_next_commands_are_whole_and_have_the_paths_of_this_run(
    masks: bool, overrides: list[str], pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audit").mkdir()
    recipe, run = load_recipe("default", overrides), Path("my run")
    commands = next_commands(run, recipe, SITES, pattern, masks=masks)
    lines = [" ".join(command) for command in commands]
    assert [line.split()[1] for line in lines] == ["generate", "evaluate", "audit", "report"]
    assert ("--masks MASKS" in lines[0]) is not masks
    unseen = [f"{option} OTHER_PATIENTS" in line for option, line in
              zip(("--test", "--holdout"), lines[1:3], strict=True)]  # fmt: skip
    assert unseen == [not overrides] * 2
    assert lines[2].endswith("--out audit2")  # since there is an audit already
    assert ("--synthetic synthetic" in lines[3]) is not masks
    assert lines[3].endswith("--audit audit2")  # which is not found by its name
    for command, line in zip(commands, lines, strict=True):
        shown = in_lines(command).splitlines()
        assert all(len(each) <= 80 for each in shown)
        assert [each.split()[1] for each in shown if each.startswith("#")] == [
            f"{word}:" for word in line.split() if word.isupper()
        ]
        copied = "\n".join(each for each in shown if not each.startswith("#"))
        assert shlex.split(copied.replace("\\\n", "")) == shlex.split(line)
        program, command, *words = shlex.split(line)
        assert program == "asyndgan"
        top = typer.main.get_command(app)
        _, found, _ = top.resolve_command(top.make_context("asyndgan", ["check"]), [command])
        context = typer.Context(found, info_name=found.name)
        given, rest, _ = found.make_parser(context).parse_args(words)
        assert given["run"] == str(run) and not rest
        if given.get("site"):
            assert parsed_sites(given["site"]) == SITES
            assert given.get("patient_pattern", DEFAULT_PATIENT_PATTERN) == pattern


@pytest.mark.parametrize("site", ["north", "deep/er/north"])
def test_a_test_set_beside_a_site_is_named_in_place_of_a_word_to_replace(
    site: str, tmp_path: Path
) -> None:
    unseen = (tmp_path / site).parent / "test"
    sites = {"n": tmp_path / site, "w": Path("elsewhere/west")}

    def said() -> str:
        return str(next_commands(Path("run"), load_recipe("default"), sites, "(.)", masks=True))

    unseen.mkdir(parents=True)
    assert "OTHER_PATIENTS" in said()
    (unseen / "dataset.json").write_text("{}")
    assert "OTHER_PATIENTS" not in said()
    assert said().count(f" {unseen}'") == 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made")
    write_phantoms(made, size=32, patients_scale=0.1)
    return made


def asyndgan(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_train_says_before_and_after_what_is_missing_and_later_commands_read_nothing_first(
    folder: Path, tmp_path: Path, tiny: Callable[..., Recipe]
) -> None:
    run, missing = tmp_path / "run", {"north": tmp_path / "there is no such folder"}
    (tmp_path / "tiny.toml").write_text(
        tiny("image.size=32", "masks.release=false", "training.steps=12").to_toml()
    )
    said = asyndgan(
        "train", tmp_path / "tiny.toml", "--site", f"north={folder / 'north'}", "--out", run
    )
    before, _, after = said.partition("step 1/12")
    for part in (before, after):
        assert "masks.source=given" in part and "training.hold_out=0.2" in part
    assert "The other 2 steps will take about" in after
    one_line = after.replace(" \\\n ", "")
    unseen = folder / "test"
    assert f"asyndgan audit {run} --site north={folder / 'north'} --holdout {unseen}" in one_line
    sites = RunSites.opened(RunFolder(run), missing)
    with pytest.raises(RunError, match="no patients to judge on"):
        evaluate_run(sites, None, None, Bench(tmp_path / "evaluation"))
    with pytest.raises(RunError, match="no patients to compare members with"):
        audit_run(sites, tmp_path / "audit")
    other = DataSet(missing["north"])
    with pytest.raises(DataError, match="cannot judge by label tumor; the data set has background"):
        evaluate_run(sites, other, None, Bench(tmp_path / "evaluation"), targets=["tumor"])
    assert not (tmp_path / "evaluation").exists() and not (tmp_path / "audit").exists()
    said = asyndgan("generate", run, "--masks", folder / "west", "--out", tmp_path / "synthetic")
    told = re.findall(r"^ *(\d+) %  paint cases \((\d+) of (\d+)\)$", said, re.MULTILINE)
    assert len(told) > 5 and told[-1][0] == "100"
    assert f"{told[-1][1]} synthetic cases" in said


@pytest.mark.parametrize(("steps", "said"), [(3, False), (4, True)])
def test_a_run_of_some_length_says_how_long_its_evaluation_and_audit_will_take(
    steps: int, said: bool, folder: Path, tmp_path: Path, tiny: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("asyndgan.cli.train.LONG", 4)
    monkeypatch.setattr("asyndgan.cli.train.MEASURED", 2)
    (tmp_path / "tiny.toml").write_text(tiny("image.size=32", f"training.steps={steps}").to_toml())
    sites = ("--site", f"north={folder / 'north'}")
    text = asyndgan("train", tmp_path / "tiny.toml", *sites, "--out", tmp_path / "run")
    found = re.search(r"Then 'evaluate' takes about (.+) here, 'audit' about (.+)\.", text)
    assert bool(found) is said
    if found:
        assert all(re.fullmatch(r"[\d ]+(s|min|h)( \d+ (s|min))?", each) for each in found.groups())
        before, threads = torch.get_rng_state(), torch.get_num_threads()
        evaluation, audit = expected_seconds(RunFolder(tmp_path / "run"))
        assert 1 < evaluation < 10**4 and 0.01 < audit < 10**4
        assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


@pytest.mark.parametrize("overrides", [["masks.source=own"], ["training.hold_out=0.3"]])
def test_submit_says_what_train_says_of_a_run(overrides: list[str], tmp_path: Path) -> None:
    federation_here(tmp_path / "fed", tmp_path / "north")
    recipe = load_recipe("default", overrides)
    given = [word for override in overrides for word in ("--set", override)]
    said = asyndgan("federation", "submit", tmp_path / "fed", "default", "--yes", *given)
    lines = lacking(recipe, masks=recipe.keeps_masks or recipe.given_masks)
    assert bool(lines) is not recipe.given_masks
    lines += undecided(None, recipe.training.hold_out)
    told = said.splitlines()[1:]
    assert [line for line in told if not line.startswith("Before it, run default-masks")] == lines
    assert (told == lines) is not recipe.given_masks


@pytest.mark.parametrize("option", ["--site=", "--policy=", ""])
def test_a_path_after_a_name_is_expanded(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    words = ["a=~", "b=~/data/west", "c=data/~", "d=~nobody-of-this-name/x"]
    assert [at_home(option + word) for word in words] == [
        f"{option}a=/home/someone",
        f"{option}b=/home/someone/data/west",
        f"{option}c=data/~",
        f"{option}d=~nobody-of-this-name/x",
    ]
