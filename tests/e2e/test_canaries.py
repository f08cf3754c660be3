"""Nothing that names a patient leaves a site: not in bytes, not in any file outside it."""

import os
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.engines import SiteSetup
from asyndgan.engines.flare.localhost import Localhost
from asyndgan.export.writing import write_dataset
from asyndgan.recipe import Recipe
from asyndgan.runs import Interrupted, RunFolder
from asyndgan.runs.train import train, train_over
from asyndgan.store import RawCase

CANARY = "Kanarienvogel"
PERCENTILES = (
    "image.intensity.default.kind=percentiles", "image.intensity.default.low=1",
    "image.intensity.default.high=99",
)  # fmt: skip


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sites whose paths, patients and headers hold a word that must not be seen elsewhere."""
    folder = tmp_path_factory.mktemp(f"hospital-{CANARY}")
    random = np.random.default_rng(0)
    for name in ("north", "south"):
        cases = []
        for number in range(18):
            mask = np.zeros((32, 32), np.int64)
            mask[8:24, 8 : 20 + number % 3] = 1
            mask[12:16, 12:16] = 2
            image = (60.0 * mask + random.normal(40, 4, mask.shape)).astype(np.float32)
            patient = f"{CANARY}_{name}{number // 3}"
            cases.append(RawCase(f"{patient}_s{number % 3}", patient, {"T1": image}, mask))
        write_dataset(
            folder / name,
            cases,
            modalities=["T1"],
            labels={"background": 0, "head": 1, "lesion": 2},
            name=f"{CANARY} {name}",
            file_ending=".nii.gz",
        )
        for path in (folder / name / "imagesTr").glob("*.nii.gz"):
            volume = nibabel.load(path)
            volume.header["descrip"] = CANARY.encode()
            content = nibabel.Nifti1Image(np.asarray(volume.dataobj), volume.affine, volume.header)
            nibabel.save(content, path)
    return {name: folder / name for name in ("north", "south")}


def test_the_word_is_where_it_should_be(sites: dict[str, Path]) -> None:
    (path, *_) = sorted((sites["north"] / "imagesTr").iterdir())
    assert CANARY in path.name
    assert CANARY.encode() in nibabel.load(path).header["descrip"].tobytes()


def test_no_byte_that_leaves_a_site_and_no_file_outside_it_names_a_patient(
    sites: dict[str, Path],
    tiny: Callable[..., Recipe],
    tmp_path: Path,
    left_sites: list[bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = tiny(
        "image.size=32", *PERCENTILES, "training.checkpoint_every=2",
        "training.hold_out=0.5",
    )  # fmt: skip
    run = train(recipe, sites, tmp_path / "run")
    pairs = [word for name, data in sites.items() for word in ("--site", f"{name}={data}")]
    judged = ["evaluate", run.path, *pairs, "--steps", 2, "--out"]
    for words in (
        ["generate", run.path, "--out", tmp_path / "synthetic"],
        [*judged, tmp_path / "judged"],
        [*judged, tmp_path / "refused", "--test", sites["north"]],
        ["audit", run.path, *pairs, "--out", tmp_path / "audit"],
        ["report", run.path, "--evaluation", tmp_path / "judged"],
    ):
        said = CliRunner().invoke(app, [str(word) for word in words])
        assert (said.exit_code == 0) == ("--test" not in words), said.output
        assert CANARY not in said.output + str(said.exception).replace(str(sites["north"]), "")
    assert len(left_sites) > 10
    assert not any(CANARY.encode() in payload for payload in left_sites)
    outside = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and "sites" not in path.relative_to(tmp_path).parts
    ]
    assert len(outside) > 15
    for path in outside:
        assert CANARY not in str(path.relative_to(tmp_path))
        assert CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in caplog.text


def test_no_file_of_a_federations_coordinator_names_a_patient(
    sites: dict[str, Path], tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Neither FLARE's logs and job folders nor the run, although a site fails on the way."""
    recipe = tiny("image.size=32", "training.steps=5000", "quorum.least=0.5", *PERCENTILES)
    states, hidden = tmp_path / "states", sites["south"].with_name("away")
    own_log = states / "south" / "site.log"
    setups = [SiteSetup(name, data, states / name) for name, data in sites.items()]
    folder = RunFolder.create(tmp_path / "run", recipe)
    with closing(Localhost(setups, recipe, folder=tmp_path / "here")) as local:

        def lose(*_: Any) -> None:
            if not hidden.exists():
                sites["south"].rename(hidden)
                os.kill(local.pid("south") or 0, signal.SIGKILL)

        try:
            with pytest.raises(Interrupted):
                train_over(
                    folder, local, engine="flare", sites=tuple(sites), watch=lose,
                    stop=lambda: own_log.exists() and CANARY in own_log.read_text(),
                )  # fmt: skip
        finally:
            hidden.rename(sites["south"])
    outside = [
        path
        for part in ("here/federation", "run")
        for path in (tmp_path / part).rglob("*")
        if path.is_file()
    ]
    assert any("log" in path.name for path in outside) and len(outside) > 30
    for path in outside:
        assert CANARY not in str(path.relative_to(tmp_path))
        assert CANARY.encode() not in path.read_bytes(), path
