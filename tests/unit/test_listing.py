"""Files whose names keep them out of a data set: every command stops at what `check` reports."""

import os
import shutil
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asyndgan.errors import DataError
from asyndgan.export.writing import write_dataset
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.nnunet import read_masks
from asyndgan.intake.readers import DataFileError
from asyndgan.recipe import ImageSection
from asyndgan.store.case import RawCase
from lab.digests import digest_of_files
from reading import read_cases

NAMES = ("ann", "bob", "eve")
IMAGE = ImageSection(size=(16, 16))


def data_set(folder: Path, ending: str = ".png", names: tuple[str, ...] = NAMES) -> Path:
    chance = np.random.default_rng(0)
    cases = [
        RawCase(name, name, {"T1": chance.integers(1, 256, (16, 16)).astype(np.float32)},
                chance.integers(0, 2, (16, 16)))
        for name in names
    ]  # fmt: skip
    labels = {"background": 0, "lesion": 1}
    write_dataset(folder, cases, modalities=["T1"], labels=labels, file_ending=ending, name="set")
    return folder


@pytest.fixture
def ending() -> str:
    return ".png"


@pytest.fixture
def folder(tmp_path: Path, ending: str) -> Path:
    return data_set(tmp_path / "north", ending)


def renamed(folder: Path, part: str, change: Callable[[str], str]) -> None:
    """Renames the files of a part of a data set."""
    for path in sorted((folder / part).iterdir()):
        path.rename(path.with_name(change(path.name)))


def stops(folder: Path) -> list[tuple[str, str, str]]:
    """The faults that `check` reports; whoever reads the set stops at the first of those names."""
    found = [(fault.file.name, fault.reason, fault.remedy) for fault in check_folder(folder).faults]
    with pytest.raises(DataFileError) as error:
        DataSet(folder).cases(IMAGE, unmasked=False)
    raised = (error.value.file.name, error.value.reason)
    assert raised in [(name, reason) for name, reason, _ in found]
    assert not found[1:] or f"names {len(found) - 1} other fault" in error.value.remedy
    assert all(remedy.endswith(".") for _, _, remedy in found)
    return found


def test_a_set_whose_images_are_all_dangling_links_is_one_fault(folder: Path) -> None:
    for path in sorted((folder / "imagesTr").iterdir()):
        path.unlink()
        path.symlink_to("/nowhere")
    ((name, reason, remedy),) = stops(folder)
    assert name == "imagesTr"
    assert reason.endswith("is a link to a file that does not exist")
    assert "datalad get" in remedy


@pytest.mark.parametrize("form", ["{}_0000", "mask_{}", "upper"])
def test_masks_of_nearly_the_right_name_are_one_cause_with_an_example(
    folder: Path, form: str
) -> None:
    def change(name: str) -> str:
        return name.upper() if form == "upper" else form.format(name)

    renamed(folder, "labelsTr", lambda name: f"{change(name[:-4])}.png")
    found = stops(folder)
    assert len(found) == len(NAMES)
    assert {one[1] for one in found} == {"is not named like its image, so its image has no mask"}
    (remedy,) = {remedy for _, _, remedy in found}
    assert remedy.endswith(f"{change('ann')}.png as ann.png.")


def test_letters_may_be_written_in_either_way_of_unicode(tmp_path: Path, ending: str) -> None:
    folder = data_set(tmp_path / "a", ending, ("m\u00fcller", "s\u00e1nchez"))
    for part, way in (("imagesTr", "NFC"), ("labelsTr", "NFD")):
        renamed(folder, part, lambda name, way=way: unicodedata.normalize(way, name))
    assert check_folder(folder).faults == ()
    cases = list(read_cases(folder))
    assert [case.name for case in cases] == ["m\u00fcller", "s\u00e1nchez"]
    assert all(case.mask is not None for case in cases)


def test_names_that_are_no_text_are_one_fault_at_listing(folder: Path, ending: str) -> None:
    for part, old in (("imagesTr", f"ann_0000{ending}"), ("labelsTr", f"ann{ending}")):
        path = folder / part / old
        path.rename(path.with_name(os.fsdecode(os.fsencode(old).replace(b"ann", b"m\xfcller"))))
    found = check_folder(folder).faults
    assert {fault.reason for fault in found} == {
        "has a name that is not UTF-8, so no record can name it"
    }
    for read in (read_masks, read_cases, lambda where: DataSet(where).cases(IMAGE)):
        with pytest.raises(DataError, match="is not UTF-8") as error:
            list(read(folder))
        str(error.value).encode()  # may be printed anywhere


LITTER = (
    *("._ann_0000.png", ".DS_Store", "Thumbs.db", "desktop.ini", "ehthumbs.db", "Icon\r"),
    *("~$ann_0000.png", "#ann_0000.png#", "ann_0000.png.swp", ".~lock.ann_0000.png#"),
    *("ann_0000.png:Zone.Identifier", "ann_0000.png~", "ann_0000.json", "README.txt"),
)


def test_litter_of_systems_and_texts_beside_images_are_ignored(folder: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        for name in LITTER:
            (folder / part / name).write_bytes(b"\0\5\x16\7")
        for name in ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "#recycle", "@Recycle", "notes"):
            (folder / part / name).mkdir()
            (folder / part / name / "a.txt").write_text("nothing")
    assert check_folder(folder).faults == ()
    assert len(DataSet(folder).cases(IMAGE, unmasked=False)) == len(NAMES)
    assert [case.name for case in read_masks(folder)] == list(NAMES)


def test_an_empty_folder_of_masks_is_one_fault_and_none_at_all_a_note(folder: Path) -> None:
    for path in (folder / "labelsTr").iterdir():
        path.unlink()
    ((name, reason, _),) = stops(folder)
    assert (name, reason) == ("labelsTr", "holds no mask")
    (folder / "labelsTr").rmdir()
    report = check_folder(folder)
    assert report.faults == ()
    assert any("(0 with a mask)" in value for _, value in report.rows)
    assert report.notes[0].startswith("holds no masks: 'train', 'evaluate' and 'audit' need them")
    assert len(DataSet(folder).cases(IMAGE)) == len(NAMES)
    with pytest.raises(DataError, match="labelsTr: this folder does not exist"):
        DataSet(folder).cases(IMAGE, unmasked=False)


def touched(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def dicom(folder: Path) -> None:
    touched(folder / "p0/study/series/IM0001", bytes(128) + b"DICM\2\0")


@pytest.mark.parametrize(
    ("make", "reason", "remedy"),
    [
        (dicom, "holds DICOM files, as p0/study/series/IM0001", "asyndgan import /"),
        (lambda folder: data_set(folder / "x/set"), "", "Name the folder of one data set: x/set."),
        (
            lambda folder: touched(folder / "b/a.png"),
            "holds .png files, as b/a.png",
            "to imagesTr/CASE_0000.png",
        ),
    ],
    ids=["dicom", "nested", "nothing"],
)
def test_a_folder_that_is_no_data_set_is_recognised(
    tmp_path: Path, make: Callable[[Path], object], reason: str, remedy: str
) -> None:
    make(tmp_path)
    (fault,) = check_folder(tmp_path).faults
    assert fault.file == tmp_path / "dataset.json"
    assert fault.reason.startswith("this file does not exist")
    assert fault.reason.endswith(reason)
    assert remedy in fault.remedy
    with pytest.raises(DataError, match="does not exist"):
        DataSet(tmp_path).cases(IMAGE)


def test_a_set_is_known_by_the_files_of_its_cases_and_what_their_links_lead_to(
    tmp_path: Path,
) -> None:
    plain, store = data_set(tmp_path / "plain"), tmp_path / "store"
    before = digest_of_files(plain)
    shutil.move(plain / "imagesTr", store)
    (plain / "imagesTr").symlink_to(store)
    (plain / "more").symlink_to("/usr")
    (store / "notes.txt").write_text("of no case")
    assert digest_of_files(plain) == before
    (plain / "truth").mkdir()
    shutil.copy(store / "ann_0000.png", plain / "truth/ann_0001.png")
    assert digest_of_files(plain) == before != digest_of_files(plain, ["truth"])
    shutil.copy(store / "bob_0000.png", store / "ann_0000.png")
    assert digest_of_files(plain) != before


def test_a_link_to_a_whole_disk_is_not_walked(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "north")
    (folder / "imagesTr/disk").symlink_to("/")
    began = time.monotonic()
    check_folder(folder)
    assert time.monotonic() - began < 20
