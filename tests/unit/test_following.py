"""What `train` says that a run will lack, and the commands that follow it."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from asyndgan.auditing.run import audit_run
from asyndgan.cli import app
from asyndgan.cli.following import lacking, next_commands, too_few_for
from asyndgan.cli.options import parsed_sites
from asyndgan.demo.phantoms import write_phantoms
from asyndgan.errors import DataError, RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.judging.bench import Bench
from asyndgan.judging.of_run import evaluate_run
from asyndgan.runs import RunFolder, load_recipe
from asyndgan.runs.sites import RunSites
from commands import asyndgan

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
def test_what_a_run_lacks_is_said_with_the_option_that_allows_it(overrides, named, unnamed):
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
    [(100, 0.2, ""), (99, 0.1, "89 patients and 10 others"), (12, 0, "12 patients"), (20, 0, "")],
)
def test_before_a_training_it_is_said_whether_an_audit_could_permit_a_release(
    patients, hold_out, said
):
    lines = too_few_for(load_recipe("default", [f"training.hold_out={hold_out}"]), patients)
    assert said in "\n".join(lines) and bool(lines) is bool(said)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("overrides", [[], ["training.hold_out=0.3"]])
@pytest.mark.parametrize("engine", ["processes", "flare"])
def test_the_next_commands_are_whole_and_have_the_paths_of_this_run(masks, overrides, engine):
    recipe, run = load_recipe("default", overrides), Path("my run")
    lines = next_commands(run, recipe, SITES, engine=engine, masks=masks)
    assert [line.split()[1] for line in lines] == ["generate", "evaluate", "audit", "report"]
    assert ("--masks MASKS" in lines[0]) is not masks
    unseen = [f"{option} OTHER_PATIENTS" in line for option, line in
              zip(("--test", "--holdout"), lines[1:3], strict=True)]  # fmt: skip
    assert unseen == [not overrides] * 2
    states, flare = [" --state NAME=FOLDER" in line for line in lines], engine == "flare"
    assert states == [False, bool(overrides) and flare, flare, False]  # where sites keep them
    for line in lines:
        program, command, *words = shlex.split(line)
        assert program == "asyndgan"
        top = typer.main.get_command(app)
        _, found, _ = top.resolve_command(top.make_context("asyndgan", ["check"]), [command])
        context = typer.Context(found, info_name=found.name)
        given, rest, _ = found.make_parser(context).parse_args(words)
        assert given["run"] == str(run) and set(rest) <= {"..."}  # a state of each site
        if given.get("site"):
            assert parsed_sites(given["site"]) == SITES


def test_train_says_before_and_after_what_is_missing_and_later_commands_read_nothing_first(
    tmp_path, tiny
):
    folder = tmp_path / "made"
    write_phantoms(folder, size=32, patients_scale=0.1)
    run, missing = tmp_path / "run", {"north": tmp_path / "there is no such folder"}
    (tmp_path / "tiny.toml").write_text(
        tiny("image.size=32", "masks.release=false", "training.steps=4").to_toml()
    )
    said = asyndgan(
        "train", tmp_path / "tiny.toml", "--site", f"north={folder / 'north'}", "--out", run
    )
    before, _, after = said.partition("step 1/4")
    for part in (before, after):
        assert "masks.source=given" in part and "training.hold_out=0.2" in part
    assert f"asyndgan audit {run} --site north={folder / 'north'} --holdout OTHER" in after
    sites = RunSites.opened(RunFolder(run), missing)
    with pytest.raises(RunError, match="no patients whom the run has not seen"):
        evaluate_run(sites, None, None, Bench(tmp_path / "evaluation"))
    with pytest.raises(RunError, match="no patients whom the run has not seen"):
        audit_run(sites, tmp_path / "audit")
    other = DataSet(missing["north"])
    with pytest.raises(DataError, match="cannot judge by label tumor; the data set has background"):
        evaluate_run(sites, other, None, Bench(tmp_path / "evaluation"), label=["tumor"])
    assert not (tmp_path / "evaluation").exists() and not (tmp_path / "audit").exists()
    said = asyndgan("generate", run, "--masks", folder / "west", "--out", tmp_path / "synthetic")
    told = re.findall(r"^ *(\d+) %  paint cases \((\d+) of (\d+)\)$", said, re.MULTILINE)
    assert len(told) > 5 and told[-1][0] == "100"
    assert f"{told[-1][1]} synthetic cases" in said
