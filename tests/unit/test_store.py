"""The copy of a data set that commands keep beside its folder."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from asyndgan.intake import dataset
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.fingerprint import measured
from asyndgan.recipe import ImageSection
from asyndgan.store import Cohort
from asyndgan.store.prepare import prepare
from asyndgan.store.prepared import Case
from asyndgan.store.store import MOST_PARTS, Store
from reading import read_cases

IMAGE = ImageSection(size=(16, 16))


def written(
    folder: Path, kind: str = ".png", *, lacking: bool = False, unmasked: bool = False
) -> Path:
    """Four cases of two patients: grey pictures, RGB ones (`rgb`) or volumes (`.nii.gz`)."""
    ending, random = kind.replace("rgb", ".png"), np.random.default_rng(0)
    names = {"0": "r", "1": "g", "2": "b"} if kind == "rgb" else {"0": "T1", "1": "FLAIR"}
    for name in ("imagesTr", *([] if unmasked else ["labelsTr"])):
        (folder / name).mkdir(parents=True)
    shape = {"rgb": (20, 24, 3), ".png": (20, 24)}.get(kind, (20, 24, 5))
    for number in range(4):
        case = f"p{number % 2}_s{number}"
        for channel in range(1 if kind == "rgb" else 2):
            if lacking and channel and number == 3:
                continue
            values = random.integers(0, 255, shape, np.uint8)
            _save(folder / "imagesTr" / f"{case}_000{channel}{ending}", values)
        if not unmasked:
            mask = random.integers(0, 3, shape[: 2 if ending == ".png" else 3], np.uint8)
            _save(folder / "labelsTr" / f"{case}{ending}", mask)
    table = {"channel_names": names, "labels": {"background": 0, "a": 1, "b": 2}}
    table |= {"numTraining": 4, "file_ending": ending, "incomplete": lacking}
    (folder / "dataset.json").write_text(json.dumps(table))
    return folder


def _save(path: Path, values: np.ndarray) -> None:
    if path.suffix == ".png":
        Image.fromarray(values).save(path)
    else:
        scaled = values if "labels" in path.parent.name else values.astype(np.float32) / 7 - 3
        nibabel.save(nibabel.Nifti1Image(scaled, np.diag([-1, 1, 2, 1])), path)


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path / "north")


@pytest.fixture
def closed(monkeypatch):
    """From the call on, nothing reads a file of a case."""

    def close():
        def read(*_):
            raise AssertionError("a file is read again")

        monkeypatch.setattr(dataset, "read_arrays", read)

    return close


def store_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.store")


def same(found: list[Case], wanted: list[Case]) -> bool:
    return len(found) == len(wanted) and all(
        torch.equal(one.image, other.image)
        and torch.equal(one.mask, other.mask)
        and one.mask.dtype == torch.int64
        and one.__dict__.keys() == other.__dict__.keys()
        and all(getattr(one, key) == getattr(other, key) for key in ("name", "patient", "absent"))
        and one.preparation == other.preparation
        and one.modalities == other.modalities
        for one, other in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize("slices", ["all", "labelled"])
@pytest.mark.parametrize(
    ("kind", "lacking", "unmasked"),
    [
        (".png", False, True), ("rgb", False, False), (".nii.gz", True, False),
    ],
)  # fmt: skip
def test_cases_of_a_store_are_those_of_the_files_bit_by_bit(
    tmp_path, kind, lacking, unmasked, slices
):
    if unmasked and slices == "labelled":
        pytest.skip("no case is left")
    folder = written(tmp_path / "north", kind, lacking=lacking, unmasked=unmasked)
    image = ImageSection.model_validate({"size": 16, "fit": "crop", "slices": slices})
    names = DataSet(folder).info.modalities
    made = [prepare(raw, image, names, incomplete=lacking) for raw in read_cases(folder)]
    wanted = [one for one in made if slices == "all" or one.preparation.labelled]
    for _ in range(2):
        assert same(DataSet(folder).cases(image, incomplete=True), wanted)


def test_files_are_read_once_for_all_commands(folder, closed):
    report = check_folder(folder, image=IMAGE)
    assert not report.faults
    closed()
    assert check_folder(folder, image=IMAGE).rows == report.rows
    assert measured(folder).modalities
    cases = DataSet(folder).cases(IMAGE)
    assert same(DataSet(folder).cases(IMAGE), cases)


def test_a_changed_file_is_read_again(folder):
    name = "labelsTr/p0_s0.png"
    first = DataSet(folder).cases(IMAGE)
    old = Image.open(folder / name)
    _save(folder / name, np.flip(np.array(old)))
    second = DataSet(folder).cases(IMAGE)
    assert not same(first, second)
    assert len([*store_of(folder).glob("cases-*")]) == 1


def test_a_store_is_of_its_user_alone(folder):
    DataSet(folder).cases(IMAGE)
    assert store_of(folder).stat().st_mode & 0o777 == 0o700
    store_of(folder).chmod(0o755)
    DataSet(folder).cases(IMAGE)
    assert store_of(folder).stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in folder.parent.iterdir()) == [".north.store", "north"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "", lambda text: "{}", lambda text: "[" * 100_000,
        lambda text: text.replace('"|u1"', '"|O"'),
        lambda text: re.sub(r'("\|u1", \[)\d+', r"\g<1>2000", text),
        lambda text: text.replace('"p0_s0"', '"somebody"'),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("kind", "sealed"), [("cases", True), ("prepared", False)])
def test_a_damaged_store_is_made_anew(folder, kind, sealed, change):
    wanted = DataSet(folder).cases(IMAGE)
    raw = [[*DataSet(folder).raw(files, IMAGE)] for files in DataSet(folder).files]
    (part,) = store_of(folder).glob(f"{kind}-*")
    digest, text = (part / "items.json").read_text().split("\n")
    changed = change(text)
    assert changed != text
    digest = hashlib.sha256(changed.encode()).hexdigest() if sealed else digest
    (part / "items.json").write_text(f"{digest}\n{changed}")
    assert same(DataSet(folder).cases(IMAGE), wanted)
    data = DataSet(folder)
    for files, slices in zip(data.files, raw, strict=True):
        for found, one in zip(data.raw(files, IMAGE), slices, strict=True):
            assert found.source == one.source
            assert np.array_equal(found.channels["T1"], one.channels["T1"])


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("cases", lambda content: content[:-1]),
        ("prepared", lambda content: bytes([content[0] ^ 1]) + content[1:]),
    ],
)
def test_arrays_that_are_not_those_that_were_written_are_made_anew(folder, kind, spoil):
    wanted = DataSet(folder).cases(IMAGE)
    (part,) = store_of(folder).glob(f"{kind}-*")
    content = (part / "arrays.bin").read_bytes()
    (part / "arrays.bin").unlink()  # what is mapped stays as it was
    (part / "arrays.bin").write_bytes(spoil(content))
    assert same(DataSet(folder).cases(IMAGE), wanted)
    assert [*DataSet(folder).raw(DataSet(folder).files[0], IMAGE)]


def test_what_is_killed_half_way_leaves_nothing_half(folder, monkeypatch):
    read = dataset.read_arrays

    def interrupted(files, info):
        if files.name == "p1_s3":
            raise KeyboardInterrupt
        return read(files, info)

    monkeypatch.setattr(dataset, "read_arrays", interrupted)
    with pytest.raises(KeyboardInterrupt):
        DataSet(folder).cases(IMAGE)
    assert not [*store_of(folder).iterdir()]
    monkeypatch.undo()
    monkeypatch.setattr("asyndgan.store.store.YOUNG_S", 0.0)
    left = store_of(folder) / "new-killed"
    left.mkdir()
    (left / "arrays.bin").write_bytes(b"half")
    assert len(DataSet(folder).cases(IMAGE)) == 4
    assert {path.name.partition("-")[0] for path in store_of(folder).iterdir()} == {*MOST_PARTS}


def test_a_folder_that_is_no_store_is_not_removed(folder):
    DataSet(folder).cases(IMAGE)
    (store_of(folder) / "thesis.txt").write_text("mine")
    assert Store(folder).remove() == []
    assert (store_of(folder) / "thesis.txt").exists()


def test_nothing_stays_of_a_case_that_was_taken_out(folder):
    DataSet(folder).cases(IMAGE)
    DataSet(folder).cases(ImageSection(size=(32, 32)))
    for path in folder.glob("*/p0_s0*"):
        path.unlink()
    about = json.loads((folder / "dataset.json").read_text())
    about["numTraining"] -= 1
    (folder / "dataset.json").write_text(json.dumps(about))
    assert len(DataSet(folder).cases(IMAGE)) == 3
    listed = [path.read_text() for path in store_of(folder).glob("*/items.json")]
    assert len(listed) == 2 and not any("p0_s0" in text for text in listed)


def test_two_processes_at_once_make_one_store(folder):
    code = """import sys; from pathlib import Path
from asyndgan.intake.dataset import DataSet; from asyndgan.recipe import ImageSection
from asyndgan.store import Cohort
data = DataSet(Path(sys.argv[1])); sys.stdin.readline()
cases = data.cases(ImageSection(size=(16, 16)))
print(Cohort.from_cases(cases, labels=data.info.labels).digest)"""
    words = [sys.executable, "-c", code, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(words, **pipes) for _ in range(2)]
    for one in both:
        one.stdin.write("\n")
        one.stdin.flush()
    said = {one.communicate()[0] for one in both}
    data = DataSet(folder)
    cohort = Cohort.from_cases(data.cases(IMAGE), labels=data.info.labels)
    assert said == {cohort.digest + "\n"}
    assert len([*store_of(folder).iterdir()]) == 2


def test_where_nothing_can_be_written_beside_a_folder_the_cache_keeps_its_store(
    folder, tmp_path, monkeypatch, closed
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store_of(folder).write_text("a file")
    wanted = DataSet(folder).cases(IMAGE)
    (kept,) = (tmp_path / "cache" / "asyndgan").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700
    closed()
    assert same(DataSet(folder).cases(IMAGE), wanted)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert same(DataSet(folder).cases(IMAGE), wanted)


def test_a_store_that_is_a_link_is_not_followed(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "elsewhere").mkdir()
    store_of(folder).symlink_to(tmp_path / "elsewhere")
    DataSet(folder).cases(IMAGE)
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_a_full_disk_is_told_and_files_are_read_instead(folder, monkeypatch, caplog):
    wanted = DataSet(folder).cases(IMAGE)
    shutil.rmtree(store_of(folder))

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert same(DataSet(folder).cases(IMAGE), wanted)
    assert "No space left on device" in caplog.text
    assert not [*store_of(folder).iterdir()]
