"""Training, and its check, without a recipe and without an option: the plan alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.runs import RunFolder, load_recipe
from small import SMALL, named
from volumes import write_volumes

TINY = (*SMALL[1:], "training.steps=2")
SHORT = (*(word for override in TINY for word in ("--set", override)), "--threads", "1")
HOUNSFIELD = ("image.intensity.default.low=-1000", "image.intensity.default.high=1000")


def scans(folder: Path, chance: np.random.Generator, spacing: float) -> Path:
    """CT-like volumes of five patients in Hounsfield units: air, a body, an organ at one side."""
    rows, columns = np.mgrid[-1:1:48j, -1:1:48j]
    cases = {}
    for number in range(5):
        image = np.full((48, 48, 10), -1000.0)
        mask = np.zeros(image.shape, np.uint8)
        body = rows**2 + columns**2 < chance.uniform(0.6, 0.8)
        organ = (rows + 0.4) ** 2 + (columns - chance.uniform(-0.1, 0.1)) ** 2 < 0.06
        image[body] = 40
        image[organ, 3:7], mask[organ, 3:7] = 110, 1
        image += chance.normal(0, 12, image.shape)
        affine = np.diag([spacing, spacing, 5.0, 1.0])
        cases[f"{folder.name}{number}"] = image.astype(np.int16), mask, affine
    return write_volumes(folder, cases, channels=["CT"], label="liver")


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    made, chance = tmp_path_factory.mktemp("ct"), np.random.default_rng(0)
    return {name: scans(made / name, chance, mm) for name, mm in (("north", 3.0), ("south", 2.5))}


def asyndgan(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "80"})
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_scans_in_hounsfield_units_train_without_an_option(few_masks, sites, tmp_path):
    shown = " ".join(asyndgan("train", *named(sites), "--out", tmp_path / "run", *SHORT).split())
    assert "Planned for north (5 patients), south (5 patients)" in shown
    assert "spacings differ: 3 x 3 mm at north, 2.5 x 2.5 mm at south; taken: 3 mm" in shown
    recipe = RunFolder(tmp_path / "run").recipe()
    found = recipe.image.intensity_of("CT")
    about = recipe.name, recipe.image.slices, recipe.training.flip
    assert about == ("planned", "labelled", False)
    assert found.kind == "range" and -100 < found.low < 110 < found.high < 400


def test_a_run_that_is_resumed_keeps_its_recipe(sites, tmp_path):
    begun = load_recipe("default", ["name=kept", "masks.source=own", *TINY, *HOUNSFIELD])
    RunFolder.create(tmp_path / "run", begun)
    shown = asyndgan(
        "train", *named(sites), "--out", tmp_path / "run", "--resume", "--threads", "1"
    )
    assert "Planned" not in shown and "2 steps" in shown
    assert RunFolder(tmp_path / "run").recipe() == begun


def test_a_check_without_a_recipe_takes_the_planned_one(sites):
    checked = asyndgan("check", *sites.values(), "--json")
    for folder in json.loads(checked)["folders"]:
        assert not folder["faults"]
        assert "slices of" in folder["facts"]["in training"]
        assert "without a label are left out" in folder["facts"]["in training"]
    notes = " ".join(json.loads(checked)["notes"])
    assert "spacings differ" in notes and "north" in notes and "south" in notes
    window = [word for end in HOUNSFIELD for word in ("--set", end)]
    named = asyndgan("check", *sites.values(), "--recipe", "default", *window, "--json")
    assert "left out" not in str([one["facts"] for one in json.loads(named)["folders"]])
