import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer
from PIL import Image as Picture
from typer.testing import CliRunner

from asyndgan.cli.check import check
from asyndgan.export.writing import write_dataset
from asyndgan.intake.between import compare_folders
from asyndgan.intake.check import Fault, check_folder
from asyndgan.intake.readers import DataFileError
from asyndgan.recipe import ImageSection
from asyndgan.store.case import RawCase
from asyndgan.texts import named_alike

LABELS = {"background": 0, "lesion": 1}


def data_set(folder: Path, patient: str = "ann", **changes: object) -> Path:
    chance = np.random.default_rng(sum(map(ord, patient)))
    cases = [
        RawCase(
            f"{patient}_s{place}",
            patient,
            {name: chance.integers(0, 256, (16, 16)).astype(np.float32) for name in ("T1", "T2")},
            chance.integers(0, 2, (16, 16)),
        )
        for place in range(3)
    ]
    arguments = {"modalities": ("T1", "T2"), "labels": LABELS, "name": "tiny", **changes}
    write_dataset(folder, cases, **arguments)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return data_set(tmp_path / "north")


def set_json(folder: Path, **keys: object) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def only_fault(folder: Path, **options: object) -> Fault:
    (fault,) = check_folder(folder, **options).faults
    assert fault.remedy.endswith(".")
    return fault


def test_a_clean_folder_has_no_faults(folder: Path) -> None:
    assert check_folder(folder).faults == ()


def test_the_table_counts_what_is_there(folder: Path) -> None:
    rows = dict(check_folder(folder).rows)
    assert rows["cases"] == "3 (3 with a mask)"
    assert rows["patients"] == "1"
    assert rows["modalities"] == "T1, T2"
    assert rows["size"] == "16 x 16"
    assert rows["label 1 lesion"].endswith("in 3 cases")
    assert "intensity T2" in rows


def test_a_table_of_volumes_has_their_spacing(tmp_path: Path) -> None:
    rows = dict(check_folder(data_set(tmp_path / "a", file_ending=".nii.gz")).rows)
    assert rows["size"] == "16 x 16 x 1"
    assert rows["spacing (mm)"] == "1 x 1 x 1"


def test_a_missing_modality_is_named(folder: Path) -> None:
    (folder / "imagesTr/ann_s1_0001.png").unlink()
    fault = only_fault(folder)
    assert fault.file.name == "ann_s1_0001.png"
    assert fault.reason == "modality 'T2' is missing for this case"


def test_a_modality_that_dataset_json_does_not_list_is_named(folder: Path) -> None:
    Picture.new("L", (16, 16)).save(folder / "imagesTr/ann_s1_0002.png")
    fault = only_fault(folder)
    assert fault.file.name == "ann_s1_0002.png"
    assert "no modality number 2" in fault.reason


def test_a_mask_without_an_image_is_named(folder: Path) -> None:
    Picture.new("L", (16, 16)).save(folder / "labelsTr/bob_s0.png")
    fault = only_fault(folder)
    assert fault.file == folder / "labelsTr/bob_s0.png"
    assert fault.reason == "this mask has no image"


@pytest.mark.parametrize("name", ["ann_s00.png", "an_s0.png", "ann_s0_.png"])
def test_the_image_that_a_mask_nearly_names_is_named(name: str, folder: Path) -> None:
    (folder / "labelsTr/ann_s0.png").rename(folder / "labelsTr" / name)
    remedies = " ".join(fault.remedy for fault in check_folder(folder).faults)
    assert "ann_s0.png" in remedies, remedies


def test_an_image_without_a_mask_is_named_where_others_have_one(folder: Path) -> None:
    (folder / "labelsTr/ann_s0.png").unlink()
    fault = only_fault(folder)
    assert fault.file == folder / "labelsTr/ann_s0.png"
    assert "no mask" in fault.reason


def test_images_without_any_masks_are_no_fault(folder: Path) -> None:
    for path in (folder / "labelsTr").iterdir():
        path.unlink()
    (folder / "labelsTr").rmdir()
    assert check_folder(folder).faults == ()


def test_a_mask_of_another_size_than_its_image_is_named(folder: Path) -> None:
    Picture.new("L", (8, 16)).save(folder / "labelsTr/ann_s0.png")
    fault = only_fault(folder)
    assert fault.file == folder / "labelsTr/ann_s0.png"
    assert fault.reason == "is 16 x 8, but modality 'T1' of the case is 16 x 16"


def test_modalities_of_different_size_are_named(folder: Path) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    Picture.fromarray(pixels).save(folder / "imagesTr/ann_s0_0001.png")
    reasons = {fault.file.name: fault.reason for fault in check_folder(folder).faults}
    assert reasons["ann_s0_0001.png"] == "is 8 x 32, but modality 'T1' of the case is 16 x 16"


VOXELS = np.random.default_rng(0).integers(0, 2, (16, 16, 1)).astype(np.uint8)
TURNED = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1), [0, 0, 0])


@pytest.mark.parametrize("file", ["imagesTr/ann_s0_0001.nii.gz", "labelsTr/ann_s0.nii.gz"])
@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        (np.diag([1, 1, 3, 1]), "has voxels of 1 x 1 x 3 mm, but {} has 1 x 1 x 1 mm"),
        (np.diag([-1, 1, 1, 1]), "lies 15 voxels off {}"),
        (nib.affines.from_matvec(np.eye(3), [0, 0.2, 0]), "lies 0.2 voxels off {}"),
        (TURNED, "is turned against {}"),
    ],
    ids=["spacing", "mirrored", "shifted", "turned"],
)
def test_files_of_a_case_that_lie_elsewhere_in_space_are_one_fault(
    tmp_path: Path, file: str, affine: np.ndarray, reason: str
) -> None:
    folder = data_set(tmp_path / "a", file_ending=".nii.gz")
    nib.save(nib.Nifti1Image(VOXELS, affine), folder / file)
    fault = only_fault(folder)
    assert fault.file == folder / file
    assert fault.reason == reason.format("modality 'T1' of the case")
    assert "one grid" in fault.remedy


@pytest.mark.parametrize(
    "affine",
    [np.diag([1.0004, 1, 1, 1]), nib.affines.from_matvec(np.eye(3), [0.05, 0, -0.05])],
    ids=["spacing", "origin"],
)
def test_what_a_header_rounds_away_is_no_fault(tmp_path: Path, affine: np.ndarray) -> None:
    folder = data_set(tmp_path / "a", file_ending=".nii.gz")
    nib.save(nib.Nifti1Image(VOXELS, affine), folder / "labelsTr/ann_s0.nii.gz")
    assert check_folder(folder).faults == ()


def test_one_head_stored_in_two_orientations_is_no_fault(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "a", file_ending=".nii.gz")
    mirrored = nib.affines.from_matvec(np.diag([-1, 1, 1]), [15, 0, 0])
    nib.save(nib.Nifti1Image(VOXELS, mirrored), folder / "labelsTr/ann_s0.nii.gz")
    assert check_folder(folder).faults == ()


def test_labels_outside_dataset_json_are_named(folder: Path) -> None:
    Picture.new("L", (16, 16), 3).save(folder / "labelsTr/ann_s2.png")
    fault = only_fault(folder)
    assert fault.file.name == "ann_s2.png"
    assert fault.reason == "has the labels 3, which dataset.json does not name"


def test_images_of_one_grey_value_are_noted_and_a_fault_if_all_are(folder: Path) -> None:
    Picture.new("L", (16, 16), 7).save(folder / "imagesTr/ann_s0_0000.png")
    report = check_folder(folder)
    assert report.faults == ()
    (note,) = report.notes
    assert note.startswith("modality T1 is empty, one grey value, in 1 of 3 cases (ann_s0)")
    assert '"incomplete": true' in note
    for place in (1, 2):
        Picture.new("L", (16, 16), place).save(folder / f"imagesTr/ann_s{place}_0000.png")
    fault = only_fault(folder)
    assert fault.file == folder
    assert fault.reason == "modality T1 is empty: every image is one grey value"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    folder = data_set(tmp_path / "a", file_ending=".nii.gz")
    voxels = np.arange(256, dtype=np.float32).reshape(16, 16, 1)
    voxels[3, 3] = value
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "imagesTr/ann_s0_0000.nii.gz")
    fault = only_fault(folder)
    assert fault.file.name == "ann_s0_0000.nii.gz"
    assert "1 intensities that are infinite or not numbers" in fault.reason


@pytest.mark.parametrize("ending", [".png", ".nii.gz"])
def test_a_truncated_image_is_named(tmp_path: Path, ending: str) -> None:
    folder = data_set(tmp_path / "a", file_ending=ending)
    path = folder / f"imagesTr/ann_s0_0000{ending}"
    path.write_bytes(path.read_bytes()[:150])
    fault = only_fault(folder)
    assert fault.file == path
    assert "cannot be read" in fault.reason
    assert "truncated" in fault.remedy


def test_a_truncated_mask_is_named(folder: Path) -> None:
    path = folder / "labelsTr/ann_s0.png"
    path.write_bytes(path.read_bytes()[:50])
    assert only_fault(folder).file == path


def test_a_file_that_is_not_named_like_an_image_is_named(folder: Path) -> None:
    (folder / "imagesTr/ann_s9.png").write_bytes(b"")
    assert "not named like CASE_0000.png" in only_fault(folder).reason


def test_a_hidden_file_is_no_fault(folder: Path) -> None:
    for name in ("imagesTr/.DS_Store", "labelsTr/.DS_Store", "imagesTr/._ann_s0_0000.png"):
        (folder / name).write_bytes(b"")
    assert check_folder(folder).faults == ()


def test_a_patient_in_train_and_in_a_separate_test_folder_is_named(
    folder: Path, tmp_path: Path
) -> None:
    test = data_set(tmp_path / "test")
    fault = only_fault(folder, test=test)
    assert fault.file == test / "imagesTr/ann_s0_0000.png"
    assert fault.reason.startswith("is of the test set, but its patient is in")
    assert check_folder(folder, test=data_set(tmp_path / "other", "bob")).faults == ()


def test_a_patient_in_train_and_in_the_same_folders_images_ts_is_named(folder: Path) -> None:
    (folder / "imagesTs").mkdir()
    Picture.new("L", (16, 16)).save(folder / "imagesTs/ann_s7_0000.png")
    assert only_fault(folder).file == folder / "imagesTs/ann_s7_0000.png"


def test_a_patient_pattern_decides_who_is_the_same(folder: Path, tmp_path: Path) -> None:
    test = data_set(tmp_path / "test", "ann-2")
    assert check_folder(folder, test=test).faults == ()
    assert only_fault(folder, test=test, patient_pattern="[a-z]+").reason.startswith(
        "is of the test set"
    )


def test_a_missing_dataset_json_is_named_and_the_images_are_read_all_the_same(folder: Path) -> None:
    (folder / "dataset.json").unlink()
    path = folder / "imagesTr/ann_s0_0001.png"
    path.write_bytes(path.read_bytes()[:-30])
    report = check_folder(folder)
    assert [fault.file.name for fault in report.faults] == ["dataset.json", path.name]
    assert dict(report.rows)["cases"] == "3 (3 with a mask)"


def test_an_unreadable_dataset_json_is_named(folder: Path) -> None:
    (folder / "dataset.json").write_text("{")
    assert "cannot be read as JSON" in only_fault(folder).reason


def test_a_region_as_label_is_named(folder: Path) -> None:
    set_json(folder, labels={"background": 0, "whole": [1, 2]})
    assert "is a region" in only_fault(folder).reason


@pytest.mark.parametrize(
    "keys",
    [
        {"channel_names": {"0": "T1", "1": "a very long name of a modality " * 3}},
        {"channel_names": {"0": "T1", "1": "T2\x1b[2J"}},
        {"labels": {"background": 0, "lesion" * 11: 1}},
        {"labels": {"background": 0, "": 1}},
    ],
    ids=["long modality", "control character", "long label", "empty label"],
)
def test_a_name_that_no_message_could_hold_is_named(folder: Path, keys: dict) -> None:
    set_json(folder, **keys)
    fault = only_fault(folder)
    assert fault.file == folder / "dataset.json"
    assert "is empty, too long or cannot be shown" in fault.reason
    assert fault.reason.isprintable()
    assert "1 to 64 characters" in fault.remedy


def test_num_training_that_disagrees_is_named(folder: Path) -> None:
    set_json(folder, numTraining=5)
    fault = only_fault(folder)
    assert fault.file.name == "dataset.json"
    assert fault.reason == "numTraining is 5, but imagesTr holds 3 cases"


def test_a_folder_that_does_not_exist_is_a_fault(tmp_path: Path) -> None:
    assert [fault.file.name for fault in check_folder(tmp_path / "no").faults] == ["no"]


def test_every_fault_is_collected(folder: Path) -> None:
    set_json(folder, numTraining=4)
    (folder / "imagesTr/ann_s0_0000.png").write_bytes(b"")
    (folder / "imagesTr/ann_s1_0001.png").unlink()
    (folder / "labelsTr/ann_s2.png").unlink()
    Picture.new("L", (16, 16)).save(folder / "labelsTr/bob.png")
    assert len(check_folder(folder).faults) == 5


def test_a_damaged_rgb_picture_is_one_fault(tmp_path: Path) -> None:
    channels = {name: np.arange(256.0).reshape(16, 16) for name in "RGB"}
    cases = [RawCase("ann", "ann", channels, None)]
    write_dataset(tmp_path / "a", cases, modalities="RGB", labels=LABELS, name="rgb")
    assert check_folder(tmp_path / "a").faults == ()
    (tmp_path / "a/imagesTr/ann_0000.png").write_bytes(b"")
    assert only_fault(tmp_path / "a").reason == "is an empty file (0 bytes)"


@pytest.mark.parametrize(
    "labels", [LABELS | {"ignore": 2}, ["background", "lesion"], {"background": 0, "lesion": [1]}]
)
def test_a_fault_of_labels_alone_brings_none_of_the_pictures(
    labels: object, tmp_path: Path
) -> None:
    channels = {name: np.arange(256.0).reshape(16, 16) for name in "RGB"}
    cases = [RawCase("ann", "ann", channels, np.eye(16, dtype=int))]
    write_dataset(tmp_path / "a", cases, modalities="RGB", labels=LABELS, name="rgb")
    set_json(tmp_path / "a", labels=labels)
    assert only_fault(tmp_path / "a").file.name == "dataset.json"


def test_nothing_on_disk_is_changed(folder: Path) -> None:
    (folder / "imagesTr/ann_s0_0000.png").write_bytes(b"")

    def state() -> dict[Path, tuple[str, int]]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {
            path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
            for path in files
        }

    before = state()
    check_folder(folder)
    assert state() == before


def test_a_label_with_two_names_is_named(folder: Path, tmp_path: Path) -> None:
    other = data_set(tmp_path / "south", "bob", labels={"background": 0, "tumour": 1})
    (fault,) = compare_folders([check_folder(folder), check_folder(other)])
    assert fault.file == other / "dataset.json"
    assert fault.reason == f"label 1 is 'tumour' here and 'lesion' in {folder}"


def test_a_label_with_two_numbers_is_named(folder: Path, tmp_path: Path) -> None:
    labels = {"background": 0, "vessel": 1, "lesion": 2}
    other = data_set(tmp_path / "south", "bob", labels=labels)
    faults = compare_folders([check_folder(folder), check_folder(other)])
    assert f"label 'lesion' is 2 here and 1 in {folder}" in [fault.reason for fault in faults]


def test_labels_that_only_one_site_has_are_no_fault(folder: Path, tmp_path: Path) -> None:
    other = data_set(tmp_path / "south", "bob", labels={**LABELS, "vessel": 2})
    assert compare_folders([check_folder(folder), check_folder(other)]) == ()


def test_modalities_that_only_capitals_tell_apart_are_named(folder: Path, tmp_path: Path) -> None:
    south = data_set(tmp_path / "south", "bob")
    set_json(south, channel_names={"0": "t1", "1": "PD"})
    (fault,) = compare_folders([check_folder(folder), check_folder(south)])
    assert fault.reason == f"modality 't1' here is 'T1' in {folder}"
    assert named_alike(["T2", "T2*", "T1 c", "T1", "t1-C"]) == [("T1 c", "t1-C")]
    assert not named_alike(["grade 1.1", "grade 11", "T1.5", "T15"])


@pytest.mark.parametrize("name", ["Lesion", "le_sion"])
def test_labels_that_only_capitals_tell_apart_are_named(
    name: str, folder: Path, tmp_path: Path
) -> None:
    south = data_set(tmp_path / "south", "bob")
    set_json(south, labels={"background": 0, name: 2, "organ": 1})
    reasons = [fault.reason for fault in compare_folders(list(map(check_folder, (folder, south))))]
    assert f"label '{name}' here is 'lesion' in {folder}" in reasons


def test_spacings_that_differ_are_noted(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "a", file_ending=".nii.gz")
    assert check_folder(folder, image=ImageSection()).notes == ()
    for path in folder.glob("*/ann_s0*.nii.gz"):
        values = np.asarray(nib.load(path).dataobj)
        nib.save(nib.Nifti1Image(values, np.diag([2.0, 2.0, 1.0, 1.0])), path)
    report = check_folder(folder, image=ImageSection())
    assert report.faults == ()
    (spacing,) = report.notes
    assert spacing.endswith("--set image.spacing=0.5")
    brought = ImageSection(spacing=(0.5, 0.5))
    assert check_folder(folder, image=brought).notes == ()


def test_an_odd_file_beside_the_masks_is_no_fault(folder: Path) -> None:
    (folder / "labelsTr/Thumbs.db").write_bytes(b"")
    assert check_folder(folder).faults == ()


def test_images_that_are_all_named_otherwise_are_one_fault(folder: Path) -> None:
    for path in folder.glob("imagesTr/*.png"):
        path.rename(path.with_name(path.name.replace("_0000", "").replace("_0001", "b")))
    fault = only_fault(folder)
    assert fault.reason == "no file here is named like CASE_0000.png ('ann_s0.png' is not)"


def test_a_folder_of_data_sets_is_told_from_a_data_set(folder: Path) -> None:
    assert only_fault(folder.parent).remedy == "Name the folder of one data set: north."


def test_a_dataset_json_of_an_editor_that_marks_its_files_is_read(folder: Path) -> None:
    path = folder / "dataset.json"
    path.write_text(path.read_text(), "utf-8-sig")
    assert check_folder(folder).faults == ()


def test_a_patient_at_two_sites_is_named(folder: Path, tmp_path: Path) -> None:
    other = data_set(tmp_path / "south")
    (fault,) = compare_folders([check_folder(folder), check_folder(other)])
    assert fault.file == other / "imagesTr/ann_s0_0000.png"
    assert fault.reason == f"is of a patient who is at {folder} as well"


def run(*arguments: object, columns: int = 80) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(check)
    one_network = ("--set", "discriminator.cross_fitted=false")  # as each set here has one patient
    words = [str(argument) for argument in (*arguments, *one_network)]
    result = CliRunner().invoke(app, words, env={"COLUMNS": str(columns)})
    return result.exit_code, result.output


def test_the_command_exits_with_0_for_clean_folders(folder: Path, tmp_path: Path) -> None:
    status, output = run(folder, data_set(tmp_path / "south", "bob"))
    assert status == 0
    assert "No faults." in output


def test_the_command_exits_with_1_and_names_the_fault(folder: Path) -> None:
    (folder / "imagesTr/ann_s1_0001.png").unlink()
    status, output = run(folder)
    assert status == 1
    assert "imagesTr/ann_s1_0001.png" in output
    assert "1 fault." in output


def test_a_folder_that_cannot_be_planned_has_a_fault_though_no_file_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unplanned(*_: object) -> None:
        raise DataFileError(folder, "holds figures that no scanner stores", "Check spacings.")

    monkeypatch.setattr("asyndgan.runs.planned.planned", unplanned)
    status, output = run(folder, columns=300)
    assert status == 1 and "1 fault." in output and "Check spacings." in output


def test_a_damaged_file_leaves_sound_folders_free_of_faults(folder: Path, tmp_path: Path) -> None:
    bright = data_set(tmp_path / "south", "bob")
    for path in bright.glob("imagesTr/*"):  # 16 bits, which 'default' would refuse
        wide = np.asarray(Picture.open(path)).astype(np.uint16) * 200
        Picture.fromarray(wide).save(path)
    assert run(folder, bright, columns=200)[0] == 0
    path = folder / "imagesTr/ann_s1_0000.png"
    path.write_bytes(path.read_bytes()[:-30])
    status, output = run(folder, bright, columns=300)
    assert status == 1 and output.count("not planned:") == 1
    assert f"not planned: {path} (" in output
    assert "intensities and sizes were not judged" in output
    assert "1 fault." in output and "does not fit" not in output


def test_the_command_compares_folders_with_each_other_and_with_the_test_set(
    folder: Path, tmp_path: Path
) -> None:
    status, output = run(folder, data_set(tmp_path / "south"))
    assert status == 1
    assert "Between the folders" in output
    status, _ = run(folder, "--test", data_set(tmp_path / "test"))
    assert status == 1


def test_a_test_folder_that_cannot_be_read_is_a_fault(folder: Path, tmp_path: Path) -> None:
    status, output = run(folder, "--test", tmp_path / "nowhere", columns=200)
    assert status == 1
    assert output.count("This folder does not exist.") == 1


def test_the_command_does_not_pass_over_a_truncated_test_image(
    folder: Path, tmp_path: Path
) -> None:
    path = data_set(tmp_path / "test", "bob") / "imagesTr/bob_s1_0000.png"
    path.write_bytes(path.read_bytes()[:-30])
    status, output = run(folder, "--test", tmp_path / "test", columns=200)
    assert status == 1
    assert path.name in output
    assert "1 fault." in output


def test_the_command_refuses_a_pattern_that_is_no_regular_expression(folder: Path) -> None:
    status, output = run(folder, "--patient-pattern", "(")
    assert status == 1
    assert "not a regular expression" in output


@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_is_wider_than_the_terminal(folder: Path, columns: int) -> None:
    set_json(folder, channel_names={"0": "a very long name of a modality " * 2, "1": "T2"})
    (folder / "imagesTr/ann_s1_0001.png").unlink()
    _, output = run(folder, columns=columns)
    assert max(map(len, output.splitlines())) <= columns


def test_many_files_with_one_fault_are_cut_short_unless_all_are_asked_for(folder: Path) -> None:
    for place in range(15):
        Picture.new("L", (16, 16)).save(folder / f"labelsTr/bob_s{place}.png")
    assert "and 5 more" in run(folder)[1]
    assert "and 5 more" not in run(folder, "--all")[1]
