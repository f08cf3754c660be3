"""Nothing that names a patient leaves a site: not in bytes, not in any file outside it."""

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.export.writing import write_dataset
from asyndgan.runs.mask_learning import learned_masks
from asyndgan.runs.train import train
from asyndgan.store import RawCase
from asyndgan.wire.messages import ANSWERS, unpack
from commands import asyndgan
from small import named

CANARY = "Kanarienvogel"
PERCENTILES = (
    "image.intensity.default.kind=percentiles", "image.intensity.default.low=1",
    "image.intensity.default.high=99",
)  # fmt: skip


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
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
            folder / name, cases, modalities=["T1"],
            labels={"background": 0, "head": 1, "lesion": 2}, name=f"{CANARY} {name}",
            file_ending=".nii.gz",
        )  # fmt: skip
        for path in (folder / name / "imagesTr").glob("*.nii.gz"):
            volume = nibabel.load(path)
            volume.header["descrip"] = CANARY.encode()
            content = nibabel.Nifti1Image(np.asarray(volume.dataobj), volume.affine, volume.header)
            nibabel.save(content, path)
    return {name: folder / name for name in ("north", "south")}


def test_no_byte_that_leaves_a_site_and_no_file_outside_it_names_a_patient(
    sites, tiny, tmp_path, left_sites, caplog
):
    (path, *_) = sorted((sites["north"] / "imagesTr").iterdir())  # where it should be
    assert CANARY in path.name
    assert CANARY.encode() in nibabel.load(path).header["descrip"].tobytes()
    recipe = tiny(
        "image.size=32", *PERCENTILES, "training.checkpoint_every=2", "training.hold_out=0.5"
    )
    run = train(recipe, sites, tmp_path / "run")
    pairs = named(sites)
    judged = ["evaluate", run.path, *pairs, "--steps", 1, "--out"]
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


def codes(count: int, start: int) -> np.ndarray:
    """Codes (count, 8, 8) of 0 and 1, each another, whose squares of two pixels survive halving."""
    return np.random.default_rng(start).integers(0, 2, (count, 8, 8))


def likeness(arrays: list[np.ndarray], codes: np.ndarray) -> float:
    """The greatest correlation of any part of any array (..., h, w) with any code, or its mirror.

    Arrays as wide as the images are halved first: a square of a code is two pixels wide.
    """
    patterns = np.concatenate([codes, codes[..., ::-1]]).reshape(-1, 64) * 2.0 - 1
    patterns -= patterns.mean(1, keepdims=True)
    patterns /= np.linalg.norm(patterns, axis=1, keepdims=True)
    highest = 0.0
    for array in arrays:
        planes = array.reshape(-1, *array.shape[-2:]).astype(np.float64)
        if planes.shape[-1] >= 32:
            planes = (planes[:, ::2, ::2] + planes[:, 1::2, 1::2]) / 2
        windows = np.lib.stride_tricks.sliding_window_view(planes, (8, 8), axis=(1, 2))
        windows = windows.reshape(-1, 64)
        windows = windows - windows.mean(1, keepdims=True)
        lengths = np.linalg.norm(windows, axis=1)
        windows = windows[lengths > 1e-9] / lengths[lengths > 1e-9, None]
        highest = max(highest, float((windows @ patterns.T).max(initial=0)))
    return highest


def arrays_that_left(payloads: list[bytes]) -> list[np.ndarray]:
    """Arrays of two axes of space in every answer of a site."""
    answers = [unpack(payload, ANSWERS, limit=10**8) for payload in payloads]
    tensors = (value for answer in answers for value in vars(answer).values())
    return [
        value.numpy()
        for value in tensors
        if isinstance(value, torch.Tensor) and value.ndim >= 3 and value.numel()
    ]


def test_no_array_that_leaves_a_site_is_like_a_patients_mask_or_image(
    few_masks, tiny, tmp_path, left_sites
):
    """Each patient's image and mask hold another code; patients' own masks would bring it out."""
    data, stored = {}, set()
    for place, name in enumerate(("north", "south")):
        cases = []
        for number, code in enumerate(codes(18, start=place)):
            drawn = np.kron(code, np.ones((2, 2), np.int64))
            mask = np.zeros((32, 32), np.int64)
            mask[8:24, 8:24] = 1 + drawn
            image = (60.0 * mask + 40).astype(np.float32)
            cases.append(RawCase(f"p{number}", f"p{number}", {"T1": image}, mask))
            stored |= {mask.astype(kind).tobytes() for kind in (np.uint8, np.int64)}
            stored |= {image.astype(kind).tobytes() for kind in (np.float32, np.float16, np.uint8)}
        labels = {"background": 0, "head": 1, "lesion": 2}
        write_dataset(tmp_path / name, cases, modalities=["T1"], labels=labels, name=name)
        data[name] = tmp_path / name
    every = ("image.size=32", "training.steps=20", "masks.release=false")
    train(tiny(*every), data, tmp_path / "sends masks")
    assert likeness(arrays_that_left(left_sites), codes(18, start=0)) > 0.99
    recipe, out = tiny(*every, "masks.source=given"), tmp_path / "outside" / "run"
    left_sites.clear()
    masks = learned_masks(recipe, data, out)
    run = train(recipe, data, out, masks=masks, resume=True)
    asyndgan("generate", run.path, "--out", tmp_path / "outside" / "painted")
    arrays = arrays_that_left(left_sites)
    assert len(left_sites) > 80 and len(arrays) >= 80
    outside = [
        path
        for path in (tmp_path / "outside").rglob("*")
        if path.is_file() and "sites" not in path.relative_to(tmp_path).parts
    ]
    arrays += [np.asarray(Image.open(path)) for path in outside if path.suffix == ".png"]
    strangers = max(likeness(arrays, codes(36, start=start)) for start in (7, 8, 9))
    patients = max(likeness(arrays, codes(18, start=place)) for place in (0, 1))
    assert patients < strangers + 0.1 < 0.8, (patients, strangers)
    for content in [*left_sites, *(path.read_bytes() for path in outside)]:
        assert not any(case in content for case in stored)
