"""No command goes silently past what `check` reports of files and names."""

import json
import shutil
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.errors import DataError, RunError
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet
from asyndgan.runs.sites import RunSites
from asyndgan.runs.train import train
from commands import AS_OPTIONS


@pytest.fixture(scope="module")
def run(tiny, phantoms, tmp_path_factory):
    recipe = tiny("image.size=32", "training.steps=2", "training.hold_out=0.4")
    return train(recipe, phantoms, tmp_path_factory.mktemp("run") / "run")


def dangling(folder: Path) -> None:
    path = min((folder / "labelsTr").iterdir())
    path.unlink()
    path.symlink_to("/annex/objects/MD5E-s1--a.png")


def other_ending(folder: Path) -> None:
    path = min((folder / "labelsTr").iterdir())
    path.rename(path.with_suffix(".PNG"))


def not_text(folder: Path) -> None:
    path = min((folder / "labelsTr").iterdir())
    path.rename(path.with_name("m\udcfcller.png"))


def ignoring(folder: Path) -> None:
    about = json.loads((folder / "dataset.json").read_text())
    about["labels"]["ignore"] = 9
    (folder / "dataset.json").write_text(json.dumps(about))


def black_and_white(folder: Path) -> None:
    path = min((folder / "labelsTr").iterdir())
    with Image.open(path) as picture:
        white = (np.array(picture) > 0) * np.uint8(255)
    Image.fromarray(white).save(path)


COMMANDS = {
    "train": "train {recipe} --site north={set} --out {out}",
    "evaluate": "evaluate {run} --site north={set} --site south={south} --out {out}",
    "test": "evaluate {run} --site north={north} --site south={south} --test {set} --out {out}",
    "audit": "audit {run} --site north={set} --site south={south} --out {out}",
    "generate": "generate {run} --masks {set} --out {out}",
    "augment": "augment {run} --site {set} --out {out}",
}


SPOILT = cycle([dangling, other_ending, not_text, ignoring, black_and_white])


@pytest.mark.parametrize(
    ("words", "spoil"), zip(COMMANDS.values(), SPOILT, strict=False), ids=COMMANDS
)
def test_every_command_stops_at_the_fault_that_check_reports(words, spoil, run, phantoms, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(phantoms["north"], folder)
    spoil(folder)
    fault = check_folder(folder).faults[0]
    places = {name: str(path) for name, path in phantoms.items()}
    typed = words.format(
        **places, run=run.path, recipe=run.recipe_file, set=folder, out=tmp_path / "out"
    )
    result = CliRunner().invoke(app, typed.split())
    assert isinstance(result.exception, DataError), result.output
    assert fault.reason in str(result.exception)


@pytest.mark.parametrize("command", ["evaluate", "audit"])
def test_a_table_is_no_site_of_a_run_that_paints_images(run, tables, tmp_path, command):
    site, table = next(iter(tables.items()))
    words = f"{command} {run.path} --site {site}={table} --out {tmp_path / 'out'}".split()
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, RunError), result.output
    assert "is a table, and this run paints images" in str(result.exception)


def test_sites_whose_folders_are_swapped_are_refused_before_anything_is_painted(
    run, phantoms, tmp_path
):
    swapped = f"--site north={phantoms['south']} --site south={phantoms['north']}"
    words = f"evaluate {run.path} {swapped} --out {tmp_path / 'out'}".split()
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, RunError), result.output
    assert "are those that" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_site_whose_masks_have_changed_since_is_told(run, phantoms, tmp_path):
    assert RunSites.opened(run, phantoms).changed() == []
    north = shutil.copytree(phantoms["north"], tmp_path / "north")
    for path in sorted((north / "labelsTr").iterdir()):
        with Image.open(path) as picture:
            Image.fromarray(np.array(picture)[::-1]).save(path)
    assert RunSites.opened(run, {**phantoms, "north": north}).changed() == ["north"]


def test_an_evaluation_without_states_is_refused_before_a_case_is_read(
    run, phantoms, tmp_path, monkeypatch
):
    shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("sites"))
    monkeypatch.setattr(DataSet, "arrays", lambda *_: pytest.fail("a case was read"))
    sites = [word for name, path in phantoms.items() for word in ("--site", f"{name}={path}")]
    words = ["evaluate", tmp_path / "run", *sites, "--test", phantoms["north"]]
    result = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, RunError), result.output
    assert "holds no states of" in str(result.exception)


def test_an_audit_of_few_patients_says_so_before_a_case_is_read(
    run, phantoms, tmp_path, monkeypatch
):
    monkeypatch.setattr(DataSet, "arrays", lambda *_: pytest.fail("a case was read"))
    few = tmp_path / "few"
    shutil.copytree(phantoms["south"], few)
    first = min((few / "labelsTr").iterdir()).name.partition("_")[0]
    for path in (one for one in few.glob("*Tr/*") if not one.name.startswith(f"{first}_")):
        path.unlink()
    about = json.loads((few / "dataset.json").read_text())
    del about["numTraining"]
    (few / "dataset.json").write_text(json.dumps(about))
    site = f"north={phantoms['north']}"
    words = ["audit", run.path, "--site", site, "--holdout", few, "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert isinstance(result.exception, DataError), result.output
    assert "there is 1 patient" in str(result.exception)
    assert "and 1 other will hardly permit the release of a set: it takes about 20" in result.output


@pytest.mark.parametrize("twice", ["patient", "picture"])
def test_a_training_is_refused_as_a_check_is_where_sites_share_a_patient_or_a_picture(
    twice, phantoms, tmp_path
):
    south = tmp_path / "south"
    shutil.copytree(phantoms["south"], south)
    name = min((phantoms["north"] / "labelsTr").iterdir()).name.removesuffix(".png")
    other = name if twice == "patient" else f"x{name}"
    for path in phantoms["north"].glob(f"*Tr/{name}[._]*"):
        shutil.copy(path, south / path.parent.name / path.name.replace(name, other))
    about = json.loads((south / "dataset.json").read_text())
    (south / "dataset.json").write_text(json.dumps({**about, "numTraining": None}))
    sites = {"north": phantoms["north"], "south": south}
    recipe = ["--recipe", "default", "--set", "image.size=32"]
    checked = CliRunner().invoke(app, ["check", "--json", *map(str, sites.values()), *recipe])
    words = [word for site, path in sites.items() for word in ("--site", f"{site}={path}")]
    words = ["train", *recipe[1:], *words, "--out", str(tmp_path / "run")]
    trained = CliRunner().invoke(app, words)
    reason = "is of a patient who is at" if twice == "patient" else "is a picture of"
    assert reason in checked.output and checked.exit_code == 1
    assert isinstance(trained.exception, DataError) and reason in str(trained.exception)
    assert not (tmp_path / "run").exists()


def test_a_release_without_its_audits_is_refused_before_a_mask_is_read(run, tmp_path, monkeypatch):
    monkeypatch.setattr("asyndgan.kinds.chosen_masks", lambda *_: pytest.fail("masks were read"))
    words = ["release", run.path, "--audit", tmp_path / "none", *AS_OPTIONS]
    result = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, RunError), result.output
    assert "none" in str(result.exception) and not (tmp_path / "out").exists()
