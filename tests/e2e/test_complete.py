"""A site gets its own patients' missing modality, as a person types it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.data.check import check_folder
from asyndgan.data.nnunet import describe
from asyndgan.errors import AsyndganError
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder, train


@pytest.fixture(scope="module")
def run(
    tiny: Callable[..., Recipe],
    phantoms: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> RunFolder:
    recipe = tiny("image.size=32", "training.steps=2", "generator.noise=2")
    return train(recipe, phantoms, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def without_t2(phantoms: dict[str, Path], tmp_path: Path) -> Path:
    folder = tmp_path / "without"
    shutil.copytree(phantoms["north"], folder)
    about = json.loads((folder / "dataset.json").read_text())
    assert about["channel_names"] == {"0": "T1", "1": "T2", "2": "FLAIR"}
    about["channel_names"] = {"0": "T1", "1": "FLAIR"}
    (folder / "dataset.json").write_text(json.dumps(about))
    for path in sorted((folder / "imagesTr").glob("*_0001.png")):
        path.unlink()
    for path in sorted((folder / "imagesTr").glob("*_0002.png")):
        path.rename(path.with_name(path.name.replace("_0002", "_0001")))
    return folder


def complete(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["complete", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize("way", ["translated", "painted"])
def test_a_case_gets_the_modality_that_it_lacks(
    run: RunFolder, without_t2: Path, tmp_path: Path, way: str
) -> None:
    out = tmp_path / "out"
    said = complete(run.path, "--site", without_t2, "--out", out, "--way", way, "--steps", 2)
    cases = len(list((without_t2 / "labelsTr").iterdir()))
    assert f"{cases} files of synthetic T2 in" in said
    info = describe(out)
    assert info.modalities == ("T1", "FLAIR", "synthetic T2")
    assert not check_folder(out).faults
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["way"] == way
    assert provenance["generator_sha256"] == run.facts().generator_sha256
    assert len(provenance["files"]) == cases


def test_nothing_is_left_of_a_completion_that_fails(
    run: RunFolder, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(AsyndganError, match=r"every case in .* has T1, T2, FLAIR already"):
        complete(run.path, "--site", phantoms["north"], "--out", out)
    assert not out.exists()


def test_a_modality_that_the_run_does_not_paint_is_refused(
    run: RunFolder, without_t2: Path, tmp_path: Path
) -> None:
    path = without_t2 / "dataset.json"
    path.write_text(path.read_text().replace('"FLAIR"', '"flair"'))
    with pytest.raises(AsyndganError, match="holds flair, which this run does not paint"):
        complete(run.path, "--site", without_t2, "--out", tmp_path / "out")


def test_cases_without_masks_are_translated_and_not_painted(
    run: RunFolder, without_t2: Path, tmp_path: Path
) -> None:
    shutil.rmtree(without_t2 / "labelsTr")
    with pytest.raises(AsyndganError, match="has no mask to paint from"):
        complete(run.path, "--site", without_t2, "--out", tmp_path / "painted", "--way", "painted")
    complete(run.path, "--site", without_t2, "--out", tmp_path / "out", "--steps", 2)
    assert not (tmp_path / "out" / "labelsTr").exists()
