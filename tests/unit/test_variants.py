"""Data sets as others describe them: MSD's, nnU-Net's lists of files and regions, and JPEG."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from asyndgan.errors import DataError
from asyndgan.export.copying import write_completed
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.description import describe
from asyndgan.intake.nnunet import read_masks
from asyndgan.recipe import ImageSection
from reading import read_cases

LABELS = {"background": 0, "lesion": 1}


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)


def described(folder: Path, **keys: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(keys))
    return folder


def decathlon(folder: Path, modalities: int = 2) -> Path:
    """A set as the Medical Segmentation Decathlon publishes it."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for name in ("BRATS_001", "BRATS_002"):
        axes = (6, 5, 3, modalities) if modalities > 1 else (6, 5, 3)
        nib.save(nib.Nifti1Image(random(*axes), np.eye(4)), folder / f"imagesTr/{name}.nii.gz")
        labels = random(6, 5, 3) % 2
        nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / f"labelsTr/{name}.nii.gz")
    return described(
        folder,
        name="BRATS",
        tensorImageSize="4D",
        modality={str(number): f"M{number}" for number in range(modalities)},
        labels={"0": "background", "1": "lesion"},
        numTraining=2,
        numTest=1,
        training=[
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in ("BRATS_001", "BRATS_002")
        ],
        test=["./imagesTs/BRATS_003.nii.gz"],
    )


@pytest.mark.parametrize("modalities", [1, 2])
def test_a_set_of_the_decathlon_is_read_as_it_is(modalities: int, tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "a", modalities)
    info = describe(folder)
    assert (info.labels, info.file_ending, info.training) == (LABELS, ".nii.gz", 2)
    cases = list(read_cases(folder))
    assert [case.name for case in cases[:4]] == [
        *(f"BRATS_001_z000{z}" for z in range(3)),
        "BRATS_002_z0000",
    ]
    assert list(cases[0].channels) == [f"M{number}" for number in range(modalities)]
    last = random(6, 5, 3, modalities) if modalities > 1 else random(6, 5, 3)[..., None]
    expected = np.flip(last[:, :, 0, -1]).T
    np.testing.assert_array_equal(cases[0].channels[f"M{modalities - 1}"], expected)
    assert len(list(read_masks(folder))) == 6
    assert not check_folder(folder).faults


def test_a_gap_in_a_case_of_nnunets_version_1_is_that_of_its_modality(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "a", 1)
    table = json.loads((folder / "dataset.json").read_text())
    names = {"0": "T1", "1": "T2", "2": "FLAIR"}
    described(folder, **{**table, "modality": names})
    for path in list((folder / "imagesTr").iterdir()):
        for number in range(3):
            image = nib.Nifti1Image(random(6, 5, 3) + number, np.eye(4))
            nib.save(image, path.with_name(path.name.replace(".nii", f"_{number:04d}.nii")))
        path.unlink()
    (folder / "imagesTr/BRATS_001_0001.nii.gz").unlink()
    (fault,) = check_folder(folder).faults
    assert fault.file.name == "BRATS_001_0001.nii.gz" and "'T2' is missing" in fault.reason
    described(folder, **{**table, "modality": names, "incomplete": True})
    assert not check_folder(folder).faults
    channels = next(iter(DataSet(folder).raw(DataSet(folder).files[0], ImageSection()))).channels
    assert list(channels) == ["T1", "FLAIR"]
    np.testing.assert_array_equal(channels["FLAIR"] - channels["T1"], 2)


def test_a_list_has_null_in_the_place_of_an_image_that_a_case_lacks(tmp_path: Path) -> None:
    names = {"0": "T1", "1": "T2", "2": "FLAIR"}
    folder = listed(tmp_path / "a", channel_names=names, incomplete=True)
    fault, *_ = check_folder(folder).faults
    assert fault.reason == "lists 2 images of ann, for 3 modalities" and "null" in fault.remedy
    table = json.loads((folder / "dataset.json").read_text())
    for files in table["dataset"].values():
        files["images"].insert(1, None)
    described(folder, **table)
    assert not check_folder(folder).faults
    data = DataSet(folder)
    raw = [next(iter(data.raw(files, ImageSection()))) for files in data.files]
    assert [list(each.channels) for each in raw] == [["T1", "FLAIR"]] * 2


@pytest.mark.parametrize(
    "labels",
    [{"0": ["a"], "1": "b"}, {"9" * 5000: "a"}, {"0": None}, ["a"]],
)
def test_labels_of_the_decathlon_that_name_nothing_are_refused(
    labels: object, tmp_path: Path
) -> None:
    folder = decathlon(tmp_path / "a", 1)
    table = json.loads((folder / "dataset.json").read_text())
    with pytest.raises(DataError, match=r"dataset\.json"):
        describe(described(folder, **{**table, "labels": labels}))


def listed(folder: Path, **keys: object) -> Path:
    """A set that lists its files, as nnU-Net's version 2 allows."""
    for name in ("one/ann.png", "two/ben.png"):
        (folder / name).parent.mkdir(parents=True)
        for number in range(2):
            path = folder / name.replace(".png", f"-{number}.png")
            Picture.fromarray(random(16, 16) + number).save(path)
        Picture.fromarray(random(16, 16) % 2).save(folder / name.replace(".png", "-mask.png"))
    files = {
        name: {"images": [f"{at}-0.png", f"{at}-1.png"], "label": f"{at}-mask.png"}
        for name, at in (("ann", "one/ann"), ("ben", "two/ben"))
    }
    about = {"channel_names": {"0": "T1", "1": "T2"}, "labels": LABELS, "file_ending": ".png"}
    return described(folder, **{**about, "numTraining": 2, "dataset": files, **keys})


def test_a_set_that_lists_its_files_is_read_by_the_list(tmp_path: Path) -> None:
    folder = listed(tmp_path / "a")
    cases = list(read_cases(folder))
    assert [(case.name, list(case.channels)) for case in cases] == [
        ("ann", ["T1", "T2"]),
        ("ben", ["T1", "T2"]),
    ]
    np.testing.assert_array_equal(cases[1].channels["T2"], random(16, 16) + 1)
    np.testing.assert_array_equal(cases[1].mask, random(16, 16) % 2)
    assert [case.name for case in read_masks(folder)] == ["ann", "ben"]


def test_listed_files_that_are_missing_or_of_another_format_are_faults(tmp_path: Path) -> None:
    folder = listed(tmp_path / "a", numTraining=3)
    (folder / "one/ann-1.png").unlink()
    reasons = [fault.reason for fault in check_folder(folder).faults]
    assert "is no file" in reasons
    assert "numTraining is 3, but it lists 2 cases" in reasons
    table = json.loads((folder / "dataset.json").read_text())
    table["dataset"]["ben"]["label"] = None
    table["dataset"]["ann"]["images"] = ["one/ann-0.tif"]
    (folder / "dataset.json").write_text(json.dumps(table))
    reasons = [fault.reason for fault in check_folder(folder).faults]
    assert "is listed in dataset.json and does not end in .png" in reasons
    with pytest.raises(DataError, match=r"does not end in|numTraining"):
        list(read_cases(folder))


def test_listed_masks_are_painted_from_without_images_and_none_is_left_out(tmp_path: Path) -> None:
    folder = listed(tmp_path / "a")
    (folder / "one/ann-1.png").unlink()
    assert [case.name for case in read_masks(folder)] == ["ann", "ben"]
    (folder / "two/ben-mask.png").unlink()
    with pytest.raises(DataError, match=r"ben-mask.*is no file"):
        list(read_masks(folder))
    table = json.loads((folder / "dataset.json").read_text())
    for files in table["dataset"].values():
        del files["label"]
    described(folder, **table)
    with pytest.raises(DataError, match="without masks"):
        list(read_masks(folder))


@pytest.mark.parametrize(
    "place",
    ["../b.png", "/etc/b.png", "a/../../b.png", "", "a\nb.png", "\ud800.png", "b/" * 300],
)
def test_a_list_never_leads_out_of_the_folder(place: str, tmp_path: Path) -> None:
    folder = listed(tmp_path / "a")
    table = json.loads((folder / "dataset.json").read_text())
    for files in (
        {"ann": {"images": [place], "label": "a.png"}},
        {"ann": {"images": ["a.png"], "label": place}},
        {place: {"images": ["a.png"], "label": "b.png"}},
    ):
        described(folder, **{**table, "dataset": files})
        with pytest.raises(DataError, match="dataset names"):
            describe(folder)


@pytest.mark.parametrize(
    ("regions", "disjoint"),
    [
        (
            {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
            {"background": 0, "rest of whole": 1, "rest of core": 2, "enhancing": 3},
        ),
        (
            {"background": 0, "A": [1, 2], "B": [2, 3]},
            {"background": 0, "rest of A (1)": 1, "rest of A (2)": 2, "rest of B": 3},
        ),
        (
            {"background": 0, "rest of A": 1, "A": [1, 2]},
            {"background": 0, "rest of A": 1, "rest of A (2)": 2},
        ),
    ],
)
def test_regions_become_labels_that_do_not_overlap(
    regions: dict, disjoint: dict, tmp_path: Path
) -> None:
    folder = listed(tmp_path / "a", labels=regions, regions_class_order=[1, 2, 3])
    assert describe(folder).labels == disjoint


def photographs(folder: Path, colours: int = 0) -> Path:
    """JPEG images with masks in PNG."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for name in ("ann", "ben"):
        shape = (16, 16, 3) if colours else (16, 16)
        Picture.fromarray(random(*shape)).save(folder / f"imagesTr/{name}_0000.jpg")
        Picture.fromarray(random(16, 16) % 2).save(folder / f"labelsTr/{name}.png")
    names = ["red", "green", "blue"] if colours else ["photograph"]
    channels = {str(number): name for number, name in enumerate(names)}
    about = {"labels": LABELS, "numTraining": 2, "file_ending": ".jpg"}
    return described(folder, channel_names=channels, **about)


def test_images_in_jpeg_have_their_masks_in_png(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "a", 3)
    assert describe(folder).mask_ending == ".png"
    assert [case.mask is not None for case in read_cases(folder)] == [True, True]
    assert not check_folder(folder).faults
    (folder / "labelsTr/ann.png").rename(folder / "labelsTr/ann.jpg")
    (fault,) = check_folder(folder).faults
    assert fault.remedy == "Export the mask again as .png: JPEG has changed its labels."


@pytest.mark.parametrize("made", [decathlon, listed, lambda at: photographs(at, 3)])
def test_copies_hold_the_same_cases_under_names_of_the_convention(
    made: Callable[[Path], Path], tmp_path: Path
) -> None:
    source = DataSet(made(tmp_path / "a"))
    before = list(read_cases(source.folder))
    planes = {
        files.name: {
            "made": [np.full(b.mask.shape, 7.0) for b in before if b.source.name == files.name]
        }
        for files in source.files
    }
    folder = tmp_path / "copy"
    write_completed(source, folder, planes, axis="axial", made_from={}, provenance={})
    info, after = describe(folder), list(read_cases(folder))
    assert info.listed is None and info.modalities[-1] == "synthetic made"
    for old, new in zip(before, after, strict=True):
        assert new.name == old.name
        np.testing.assert_array_equal(new.mask, old.mask)
        for modality, values in old.channels.items():
            np.testing.assert_array_equal(new.channels[modality], values)
        assert (new.channels["synthetic made"] == 7).all()
