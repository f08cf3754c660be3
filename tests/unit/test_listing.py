"""Files whose names keep them out of a data set: every command stops at what `check` reports."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from asyndgan.errors import DataError
from asyndgan.export.writing import write_dataset
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.listing import listed
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


@pytest.fixture(params=[".png", ".nii.gz"])
def ending(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path: Path, ending: str) -> Path:
    return data_set(tmp_path / "north", ending)


def renamed(folder: Path, part: str, change: Callable[[str], str], *, first: bool = False) -> None:
    """Renames the files of a part of a data set, or the first only."""
    for path in sorted((folder / part).iterdir())[: 1 if first else None]:
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


def test_links_to_what_is_not_there_are_faults_of_images_and_masks(
    folder: Path, ending: str
) -> None:
    for part, name in (("imagesTr", f"ann_0000{ending}"), ("labelsTr", f"ann{ending}")):
        (folder / part / name).unlink()
        (folder / part / name).symlink_to("/annex/objects/MD5E-s1--a")
    assert [(name, reason) for name, reason, _ in stops(folder)] == [
        (f"ann_0000{ending}", "is a link to a file that does not exist"),
        (f"ann{ending}", "is a link to a file that does not exist"),
    ]


def test_a_link_that_leads_in_a_circle_and_a_folder_named_like_a_file_are_faults(
    folder: Path, ending: str
) -> None:
    (folder / "imagesTr" / f"zoe_0000{ending}").symlink_to(f"zoe_0000{ending}")
    (folder / "imagesTr" / f"ian_0000{ending}").mkdir()
    (folder / "labelsTr" / f"ian{ending}").mkdir()
    reasons = [reason for _, reason, _ in stops(folder)]
    assert reasons == ["is no file", "is a link to a file that does not exist", "is no file"]
    with pytest.raises(DataError, match=f"ian{ending}: is no file"):
        list(read_masks(folder))


def test_a_set_whose_images_are_all_dangling_links_is_one_fault(folder: Path) -> None:
    for path in sorted((folder / "imagesTr").iterdir()):
        path.unlink()
        path.symlink_to("/nowhere")
    ((name, reason, remedy),) = stops(folder)
    assert name == "imagesTr"
    assert reason.endswith("is a link to a file that does not exist")
    assert "datalad get" in remedy


@pytest.mark.parametrize(
    ("stored", "other", "advice"),
    [
        (".png", ".jpg", "Convert it to grey PNG; each original moves"),
        (".png", ".tif", "mogrify -path NEW -format png FILES"),
        (".png", ".PNG", "small letters"),
        (".png", ".nii.gz", "export it as .png"),
        (".nii.gz", ".nii", "gzip FILE"),
        (".nii", ".nii.gz", "gunzip FILE"),
        (".nii.gz", ".NII.GZ", "small letters"),
        (".nii.gz", ".mha", "Convert it to NIfTI"),
        (".nii.gz", ".png", "export it as .nii.gz"),
    ],
)
def test_an_image_that_ends_otherwise_is_not_left_out_silently(
    tmp_path: Path, stored: str, other: str, advice: str
) -> None:
    folder = data_set(tmp_path / "a", stored)
    renamed(folder, "imagesTr", lambda name: name.replace(stored, other), first=True)
    ((name, reason, remedy),) = stops(folder)
    assert name == f"ann_0000{other}"
    assert reason == f"ends in {other}, where dataset.json says {stored}, so it is not read"
    assert advice in remedy
    assert other == stored.upper() or "ename" not in remedy


def test_a_mask_in_a_lossy_format_is_to_be_exported_again(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "a")
    renamed(folder, "labelsTr", lambda name: name.replace(".png", ".jpeg"))
    assert {remedy for _, _, remedy in stops(folder)} == {
        "Export the mask again as .png: JPEG has changed its labels."
    }


def test_a_file_that_was_converted_and_kept_is_told_from_one_that_drops_out(
    tmp_path: Path,
) -> None:
    folder = data_set(tmp_path / "a", ".nii.gz")
    packed = folder / "imagesTr/ann_0000.nii.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    ((name, reason, remedy),) = stops(folder)
    assert (name, remedy) == ("ann_0000.nii", "Keep one of the two.")
    assert reason.startswith("is not read, since the file of the same name")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda stem: f"{stem}_0000", "has the number of a modality"),
        (lambda stem: f"{stem}_mask", "is not named like its image"),
        (lambda stem: f"{stem}-seg", "is not named like its image"),
        (lambda stem: f"mask_{stem}", "is not named like its image"),
        (str.upper, "is not named like its image"),
    ],
    ids=["0000", "_mask", "-seg", "mask_", "capitals"],
)
@pytest.mark.parametrize("first", [False, True])
def test_masks_of_nearly_the_right_name_are_one_cause_with_an_example(
    folder: Path, ending: str, change: Callable[[str], str], what: str, first: bool
) -> None:
    renamed(
        folder, "labelsTr", lambda name: change(name.removesuffix(ending)) + ending, first=first
    )
    found = stops(folder)
    assert len(found) == (1 if first else len(NAMES))
    assert {reason for _, reason, _ in found} == {f"{what}, so its image has no mask"}
    (remedy,) = {remedy for _, _, remedy in found}
    assert remedy.endswith(f"{change('ann')}{ending} as ann{ending}.")


def test_masks_that_are_all_named_otherwise_are_one_fault(folder: Path, ending: str) -> None:
    numbers = iter(range(3))
    renamed(folder, "labelsTr", lambda _: f"export{next(numbers)}{ending}")
    ((name, reason, remedy),) = stops(folder)
    assert (name, f"export0{ending} and ann_0000{ending}" in reason) == ("labelsTr", True)
    assert remedy.endswith(f"number of the modality: ann{ending}.")


@pytest.mark.parametrize(("image", "mask"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_letters_may_be_written_in_either_way_of_unicode(
    tmp_path: Path, ending: str, image: str, mask: str
) -> None:
    folder = data_set(tmp_path / "a", ending, ("m\u00fcller", "s\u00e1nchez"))
    for part, way in (("imagesTr", image), ("labelsTr", mask)):
        renamed(folder, part, lambda name, way=way: unicodedata.normalize(way, name))
    assert check_folder(folder).faults == ()
    cases = list(read_cases(folder))
    assert [case.name for case in cases] == ["m\u00fcller", "s\u00e1nchez"]
    assert all(case.mask is not None for case in cases)


def test_two_files_of_one_name_in_both_ways_of_unicode_are_a_fault(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "a", names=("m\u00fcller",))
    for path in list(folder.glob("*/m*.png")):
        twin = path.with_name(unicodedata.normalize("NFD", path.name))
        twin.write_bytes(path.read_bytes())
    assert {reason for _, reason, _ in stops(folder)} == {
        "has the name of another file here, written with other letters (NFC and NFD of Unicode)"
    }


@pytest.mark.parametrize("raw", [b"m\xfcller", b"\xc4\xe3"], ids=["latin-1", "gbk"])
def test_names_that_are_no_text_are_one_fault_at_listing(
    folder: Path, ending: str, raw: bytes
) -> None:
    for part, old in (("imagesTr", f"ann_0000{ending}"), ("labelsTr", f"ann{ending}")):
        path = folder / part / old
        path.rename(path.with_name(os.fsdecode(os.fsencode(old).replace(b"ann", raw))))
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


def test_deleted_files_on_a_nas_are_never_to_be_moved_over_others(
    folder: Path, ending: str
) -> None:
    for name in ("#recycle", "@Recycle", ".Trash-1000", "lost+found"):
        touched(folder / "labelsTr" / name / f"ann{ending}")
        touched(folder / "imagesTr/notes" / name / f"ann_0000{ending}")
    assert check_folder(folder).faults == ()


@pytest.mark.parametrize(
    ("added", "remedy"),
    [(".bz2", "Unpack it"), (".zip", "Unpack it"), (".part", "download it again"),
     (".crdownload", "download it again"), (" (1)", "Store it as"), (".bak", "Store it as")],
)  # fmt: skip
def test_images_and_masks_of_unknown_endings_are_faults(
    added: str, remedy: str, folder: Path, ending: str
) -> None:
    about = json.loads((folder / "dataset.json").read_text())
    del about["numTraining"]
    (folder / "dataset.json").write_text(json.dumps(about))
    files = [folder / f"imagesTr/ann_0000{ending}", folder / f"labelsTr/ann{ending}"]
    copies = [file.with_name(f"{file.name}{added}") for file in files]
    for file, copy in zip(files, copies, strict=True):
        copy.write_bytes(file.read_bytes())
    assert check_folder(folder).faults == ()
    files[0].unlink()
    (image,) = [one for one in stops(folder) if one[0] == copies[0].name]
    files[1].unlink()
    found = stops(folder)
    assert [name for name, _, _ in found] == [copy.name for copy in copies]
    assert {reason for _, reason, _ in found} == {f"ends in {ending}{added}, which is not read"}
    assert all(remedy in text for _, _, text in (image, *found))


@pytest.mark.parametrize("name", ["ann.raw", "ann.seg"])
def test_a_mask_of_an_ending_that_no_format_has_is_named(
    name: str, folder: Path, ending: str
) -> None:
    (folder / f"labelsTr/ann{ending}").rename(folder / "labelsTr" / name)
    ((file, reason, _),) = stops(folder)
    assert (file, reason) == (name, f"ends in {name[3:]}, which is not read")


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_a_link_to_a_folder_that_is_not_there_is_a_fault(part: str, folder: Path) -> None:
    (folder / part / "extra").symlink_to("/nowhere/extra")
    ((name, reason, _),) = stops(folder)
    assert (name, reason) == ("extra", "is a link to a file that does not exist")


@pytest.mark.parametrize("name", ["preview.jpg", "overview.gif"])
def test_a_picture_that_is_no_case_is_not_to_be_converted(name: str, folder: Path) -> None:
    touched(folder / "imagesTr" / name)
    ((_, reason, remedy),) = stops(folder)
    assert reason.startswith("is not named like CASE_0000")
    assert remedy == "Move it out of imagesTr, where only images of cases belong."


def test_images_in_folders_of_their_own_are_one_fault(folder: Path, ending: str) -> None:
    for path in sorted((folder / "imagesTr").iterdir()):
        inside = path.parent / path.name[:3]
        inside.mkdir()
        path.rename(inside / path.name)
    ((name, reason, remedy),) = stops(folder)
    assert (name, reason.partition(": ")[2]) == (
        "imagesTr", "ann is a folder, and files in it are not read",
    )  # fmt: skip
    assert f"Move its files up into imagesTr itself, as CASE_0000{ending}" in remedy
    assert f"ann/ann_0000{ending} is one" in remedy


def test_a_folder_of_images_beside_images_drops_out_and_is_a_fault(
    folder: Path, ending: str
) -> None:
    (folder / "imagesTr/more").mkdir()
    (folder / f"imagesTr/ann_0000{ending}").rename(folder / f"imagesTr/more/ann_0000{ending}")
    ((name, reason, _),) = stops(folder)
    assert (name, reason) == ("more", "is a folder, and files in it are not read")


@pytest.mark.parametrize(("part", "name"), [("imagesTr", "images"), ("labelsTr", "masks")])
def test_a_folder_of_nearly_the_right_name_is_named(folder: Path, part: str, name: str) -> None:
    (folder / part).rename(folder / name)
    found = check_folder(folder).faults
    assert [(fault.file.name, fault.remedy) for fault in found] == [
        (name, f"Rename the folder {name} to {part}.")
    ]
    with pytest.raises(DataError, match=f"{name}: is not read"):
        DataSet(folder).cases(IMAGE)


def test_a_number_of_cases_that_disagrees_stops_whoever_reads(folder: Path, ending: str) -> None:
    (folder / f"imagesTr/bob_0000{ending}").unlink()
    (folder / f"labelsTr/bob{ending}").unlink()
    ((name, reason, remedy),) = stops(folder)
    assert (name, reason) == ("dataset.json", "numTraining is 3, but imagesTr holds 2 cases")
    assert remedy.startswith("Add what is missing")


def test_an_empty_folder_of_masks_is_one_fault_and_none_at_all_a_note(folder: Path) -> None:
    for path in (folder / "labelsTr").iterdir():
        path.unlink()
    ((name, reason, _),) = stops(folder)
    assert (name, reason) == ("labelsTr", "holds no mask")
    (folder / "labelsTr").rmdir()
    report = check_folder(folder)
    assert report.faults == ()
    assert report.notes[0].startswith("holds no masks: 'train', 'evaluate' and 'audit' need them")
    assert len(DataSet(folder).cases(IMAGE)) == len(NAMES)
    with pytest.raises(DataError, match="labelsTr: this folder does not exist"):
        DataSet(folder).cases(IMAGE, unmasked=False)


def touched(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def dicom(folder: Path) -> None:
    touched(folder / "p0/study/series/IM0001", bytes(128) + b"DICM\2\0")


def bids(folder: Path) -> None:
    touched(folder / "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz")
    touched(folder / "dataset_description.json", b"{}")


@pytest.mark.parametrize(
    ("make", "reason", "remedy"),
    [
        (lambda folder: touched(folder / "p0/a.dcm"), "holds DICOM files, as p0/a.dcm", "import"),
        (dicom, "holds DICOM files, as p0/study/series/IM0001", "asyndgan import FOLDER NEW"),
        (
            bids,
            "a BIDS data set, with sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
            "images in imagesTr",
        ),
        (lambda folder: data_set(folder / "x/y/set"), "", "Name the folder of one data set: x/y/"),
        (lambda folder: touched(folder / "Dataset.json"), "", "Rename Dataset.json to"),
        (lambda folder: touched(folder / "dataset.json.txt"), "", "Rename dataset.json.txt to"),
        (lambda folder: touched(folder / "a.png"), "", "Move a.png and the others: put images in"),
        (lambda folder: touched(folder / "a.doc"), "", "Write it as nnU-Net wants it"),
    ],
    ids=["dcm", "dicom", "bids", "nested", "capital", "txt", "loose", "nothing"],
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


def test_a_folder_within_a_data_set_is_told_to_be_one(folder: Path) -> None:
    (fault,) = check_folder(folder / "imagesTr").faults
    assert fault.remedy == f"Name the folder above, which holds it: {folder}."


def test_a_set_of_pictures_in_a_format_that_is_not_read_is_one_fault(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "a")
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**about, "file_ending": ".webp"}))
    for path in list(folder.glob("*/*.png")):
        Picture.open(path).save(path.with_suffix(".webp"))
        path.unlink()
    (fault,) = check_folder(folder).faults
    assert fault.reason == "file_ending is '.webp'"
    assert "Convert it to grey PNG; each original moves" in fault.remedy


def test_a_set_of_folders_of_dicom_files_is_told_to_be_one(folder: Path) -> None:
    for path in list((folder / "imagesTr").iterdir()):
        path.unlink()
        touched(folder / "imagesTr" / path.name[:3] / "IM0001", bytes(128) + b"DICM\2\0")
    ((name, reason, remedy),) = stops(folder)
    assert name == "imagesTr"
    assert reason.endswith("ann is a folder of DICOM files, which are not read")
    assert "asyndgan import" in remedy


@pytest.mark.parametrize(("images", "masks"), [(0, 1), (1, 0), (9, 10)])
def test_masks_that_are_numbered_one_off_are_one_fault(
    images: int, masks: int, tmp_path: Path, ending: str
) -> None:
    folder = data_set(tmp_path / "a", ending, tuple(f"scan_{images + n:04d}" for n in range(5)))
    step = masks - images
    for path in sorted((folder / "labelsTr").iterdir(), reverse=step > 0):
        number = int(path.name.removesuffix(ending)[-4:]) + step
        path.rename(path.with_name(f"scan_{number:04d}{ending}"))
    ((name, reason, remedy),) = stops(folder)
    assert name == "labelsTr"
    assert f"masks from scan_{masks:04d} on, and imagesTr images from scan_{images:04d}" in reason
    assert "Compare a mask with its image" in remedy


def test_modalities_that_are_counted_from_1_are_one_fault(folder: Path, ending: str) -> None:
    renamed(folder, "imagesTr", lambda name: name.replace("_0000", "_0001"))
    ((name, reason, _),) = stops(folder)
    assert name == "imagesTr"
    assert reason == f"holds no modality 0000: they are counted from 0001, as in ann_0001{ending}"


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_of_cases_are_told_from_numbers_of_modalities(
    first: int, tmp_path: Path, ending: str
) -> None:
    names = tuple(f"scan_{first + n:04d}" for n in range(4))
    folder = data_set(tmp_path / "a", ending, names)
    renamed(folder, "imagesTr", lambda name: name.replace(f"_0000{ending}", ending))
    ((_, reason, remedy),) = stops(folder)
    assert reason.startswith("ends in the number of the case, and so does its mask")
    assert f"scan_0001_0000{ending}" in remedy
    renamed(folder, "imagesTr", lambda name: name.replace(ending, f"_0000{ending}"))
    assert check_folder(folder).faults == ()


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_a_name_in_utf_8_is_not_called_another_one_where_the_locale_is_ascii(
    part: str, tmp_path: Path
) -> None:
    folder = data_set(tmp_path / "a")
    renamed(folder, part, lambda name: name.replace("bob", "m\u00fcller"))
    code = (
        "import sys; from pathlib import Path; from asyndgan.intake.check import check_folder\n"
        "for fault in check_folder(Path(sys.argv[1])).faults: print(fault.reason, fault.remedy)"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, folder],
        env={**os.environ, **ascii_only}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "has a name in UTF-8 ('m\\xfcller" in done.stdout
    assert "reads names as ascii Set PYTHONUTF8=1" in done.stdout
    assert "not UTF-8" not in done.stdout


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


def test_only_the_first_of_many_masks_without_an_image_are_compared_with_names_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data_set(tmp_path / "north")
    for number in range(60):
        (folder / f"imagesTr/x{number}_0000.png").touch()
        (folder / f"labelsTr/y{number}z.png").touch()
    compared = []
    monkeypatch.setattr(
        "asyndgan.intake.near.difflib.get_close_matches",
        lambda name, names, **_: compared.extend(names) or [],
    )
    found = listed(folder, DataSet(folder).info)
    assert [fault.reason for fault in found.faults].count("this mask has no image") == 60
    assert 0 < len(compared) <= 500


def test_a_link_to_a_whole_disk_is_not_walked(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "north")
    (folder / "imagesTr/disk").symlink_to("/")
    began = time.monotonic()
    check_folder(folder)
    assert time.monotonic() - began < 20
