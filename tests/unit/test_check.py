import hashlib
import io
import json
import shutil
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
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.readers import DataFileError
from asyndgan.recipe import ImageSection
from asyndgan.store.case import RawCase
from asyndgan.texts import named_alike
from reading import told_by

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


def only_fault(folder: Path, **options: object) -> DataFileError:
    (fault,) = check_folder(folder, **options).faults
    assert fault.remedy.endswith(".")
    return fault


def stops(folder: Path) -> DataFileError:
    """The only fault, at which whoever reads the set stops as well."""
    fault = only_fault(folder)
    with pytest.raises(DataFileError) as error:
        DataSet(folder).cases(ImageSection(size=(16, 16)), unmasked=False)
    assert (error.value.file, error.value.reason) == (fault.file, fault.reason)
    return fault


def picture(size: tuple[int, int] = (16, 16), value: int = 0, kind: str = "L") -> bytes:
    content = io.BytesIO()
    Picture.new(kind, size, value).save(content, "PNG")
    return content.getvalue()


GONE = b"gone"
FAULTS: dict[str, tuple[dict[str, bytes], str, str]] = {
    "an unlisted modality": (
        {"imagesTr/ann_s1_0002.png": picture()}, "", "dataset.json has no modality number 2",
    ),
    "sizes": (
        {"labelsTr/ann_s0.png": picture((8, 16))}, "",
        "is 16 x 8, but modality 'T1' of the case is 16 x 16",
    ),
    "colours": ({"imagesTr/ann_s0_0000.png": picture(kind="RGBA")}, "", "a picture of kind RGBA"),
    "truncated": ({"labelsTr/ann_s0.png": picture()[:40]}, "", "cannot be read as PNG"),
    "no names": (
        {f"imagesTr/ann_s{n}_000{m}.png": GONE for n in range(3) for m in range(2)}
        | {"imagesTr/ann_s0.png": picture()}, "imagesTr",
        "no file here can be read as CASE_0000.png: ann_s0.png is not named like",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_named_with_its_file_and_stops_whoever_reads_the_set(
    kind: str, folder: Path
) -> None:
    files, where, reason = FAULTS[kind]
    for name, content in files.items():
        path = folder / name
        if content != GONE:
            path.write_bytes(content)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    fault = stops(folder)
    assert fault.file == folder / (where or next(iter(files)))
    assert reason in fault.reason


VOXELS = np.random.default_rng(0).integers(0, 2, (16, 16, 1)).astype(np.uint8)
TURNED = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1), [0, 0, 0])


@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        (np.diag([1, 1, 3, 1]), "has voxels of 1 x 1 x 3 mm, but {} has 1 x 1 x 1 mm"),
        (nib.affines.from_matvec(np.eye(3), [0, 0.2, 0]), "lies 0.2 voxels off {}"),
        (TURNED, "is turned against {}"),
    ],
    ids=["spacing", "shifted", "turned"],
)
def test_files_of_a_case_that_lie_elsewhere_in_space_are_one_fault(
    tmp_path: Path, affine: np.ndarray, reason: str
) -> None:
    folder = data_set(tmp_path / "a", file_ending=".nii.gz")
    file = folder / "labelsTr/ann_s0.nii.gz"
    nib.save(nib.Nifti1Image(VOXELS, affine), file)
    fault = stops(folder)
    assert fault.file == file
    assert fault.reason == reason.format("modality 'T1' of the case")
    assert "one grid" in fault.remedy


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1.0004, 1, 1, 1]),
        nib.affines.from_matvec(np.diag([-1, 1, 1]), [15, 0, 0]),
    ],
    ids=["rounded", "mirrored"],
)
def test_what_a_header_rounds_or_stores_in_another_orientation_is_no_fault(
    tmp_path: Path, affine: np.ndarray
) -> None:
    folder = data_set(tmp_path / "a", file_ending=".nii.gz")
    nib.save(nib.Nifti1Image(VOXELS, affine), folder / "labelsTr/ann_s0.nii.gz")
    assert check_folder(folder).faults == ()


def test_a_patient_in_train_and_in_a_separate_test_folder_is_named(
    folder: Path, tmp_path: Path
) -> None:
    test = data_set(tmp_path / "test")
    fault = only_fault(folder, test=test)
    assert fault.file == test / "imagesTr/ann_s0_0000.png"
    assert fault.reason.startswith("is of the test set, but its patient is in")
    assert check_folder(folder, test=data_set(tmp_path / "other", "bob")).faults == ()


def test_a_patient_pattern_decides_who_is_the_same(folder: Path, tmp_path: Path) -> None:
    test = data_set(tmp_path / "test", "ann-2")
    assert check_folder(folder, test=test).faults == ()
    told_by(test, "[a-z]+")  # of each set by its own
    assert only_fault(folder, test=test).reason.startswith("is of the test set")


def test_every_fault_is_collected(folder: Path) -> None:
    set_json(folder, numTraining=4)
    (folder / "imagesTr/ann_s0_0000.png").write_bytes(b"")
    (folder / "imagesTr/ann_s1_0001.png").unlink()
    (folder / "labelsTr/ann_s2.png").unlink()
    Picture.new("L", (16, 16)).save(folder / "labelsTr/bob.png")
    assert len(check_folder(folder).faults) == 5


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


def test_modalities_that_only_capitals_tell_apart_are_named(folder: Path, tmp_path: Path) -> None:
    south = data_set(tmp_path / "south", "bob")
    set_json(south, channel_names={"0": "t1", "1": "PD"})
    (fault,) = compare_folders([check_folder(folder), check_folder(south)])
    assert fault.reason == f"modality 't1' here is 'T1' in {folder}"
    assert named_alike(["T2", "T2*", "T1 c", "T1", "t1-C"]) == [("T1 c", "t1-C")]
    assert not named_alike(["grade 1.1", "grade 11", "T1.5", "T15"])


def run(*arguments: object, columns: int = 80) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(check)
    one_network = ("--set", "discriminator.cross_fitted=false")  # as each set here has one patient
    words = [str(argument) for argument in (*arguments, *one_network)]
    result = CliRunner().invoke(app, words, env={"COLUMNS": str(columns)})
    return result.exit_code, result.output + str(result.exception)


def test_a_damaged_file_leaves_sound_folders_free_of_faults(folder: Path, tmp_path: Path) -> None:
    bright = data_set(tmp_path / "south", "bob")
    for path in bright.glob("imagesTr/*"):  # 16 bits, which 'default' would refuse
        wide = np.asarray(Picture.open(path)).astype(np.uint16) * 200
        Picture.fromarray(wide).save(path)
    assert run(folder, bright, columns=200)[0] == 0
    path = folder / "imagesTr/ann_s1_0000.png"
    path.write_bytes(path.read_bytes()[:-30])
    status, output = run(folder, bright, columns=300)
    assert status == 1 and output.count("ntensities and sizes are judged when") == 1
    assert "1 fault." in output and "does not fit" not in output


def test_the_command_compares_folders_with_each_other_and_with_the_test_set(
    folder: Path, tmp_path: Path
) -> None:
    status, output = run(folder, data_set(tmp_path / "south"))
    assert status == 1
    assert "Between the folders" in output
    status, _ = run(folder, "--test", data_set(tmp_path / "test"))
    assert status == 1


def test_the_command_refuses_a_pattern_that_is_no_regular_expression(folder: Path) -> None:
    for pattern, said in (("(", "not a regular expression"), (7, "patient_pattern is 7")):
        told_by(folder, pattern)
        status, output = run(folder)
        assert status == 1
        assert said in output
