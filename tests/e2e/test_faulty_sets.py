"""No command goes silently past what `check` reports of files and names."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.errors import DataError, RunError
from asyndgan.intake.check import check_folder
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.runs.sites import RunSites
from asyndgan.runs.train import train


@pytest.fixture(scope="module")
def run(
    tiny: Callable[..., Recipe],
    phantoms: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> RunFolder:
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
    "complete": "complete {run} --site {set} --out {out}",
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(
    "spoil", [dangling, other_ending, not_text, ignoring, black_and_white], ids=lambda f: f.__name__
)
def test_every_command_stops_at_the_fault_that_check_reports(
    words: str,
    spoil: Callable[[Path], None],
    run: RunFolder,
    phantoms: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(phantoms["north"], folder)
    if words.startswith("complete"):  # which wants something that is missing
        about = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({**about, "incomplete": True}))
        max((folder / "imagesTr").glob("*_0001.png")).unlink()
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
def test_a_table_is_no_site_of_a_run_that_paints_images(
    run: RunFolder, tables: dict[str, Path], tmp_path: Path, command: str
) -> None:
    site, table = next(iter(tables.items()))
    words = f"{command} {run.path} --site {site}={table} --out {tmp_path / 'out'}".split()
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, RunError), result.output
    assert "is a table, and this run paints images" in str(result.exception)


def test_sites_whose_folders_are_swapped_are_refused_before_anything_is_painted(
    run: RunFolder, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    swapped = f"--site north={phantoms['south']} --site south={phantoms['north']}"
    words = f"evaluate {run.path} {swapped} --out {tmp_path / 'out'}".split()
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, RunError), result.output
    assert "are those that" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_site_whose_masks_have_changed_since_is_told(
    run: RunFolder, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    assert RunSites.opened(run, phantoms).changed() == []
    north = shutil.copytree(phantoms["north"], tmp_path / "north")
    for path in sorted((north / "labelsTr").iterdir()):
        with Image.open(path) as picture:
            Image.fromarray(np.array(picture)[::-1]).save(path)
    assert RunSites.opened(run, {**phantoms, "north": north}).changed() == ["north"]
