import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from asyndgan.errors import DataError
from asyndgan.export.writing import write_dataset, written_whole
from asyndgan.intake import patients
from asyndgan.intake.description import describe
from asyndgan.intake.patients import patient_of, patients_of
from asyndgan.intake.readers import LOSSLESS, READERS
from asyndgan.store.case import RawCase
from reading import read_cases

LABELS = {"background": 0, "lesion": 1}
SPACING = (1.5, 0.5)


def picture(seed: int, shape: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)


def mask(seed: int, shape: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, shape)


def raw_cases(count: int = 2, modalities: tuple[str, ...] = ("T1", "T2")) -> Iterator[RawCase]:
    for place in range(count):
        channels = {name: picture(10 * place + i) for i, name in enumerate(modalities)}
        yield RawCase(f"ann_s{place}", "ann", channels, mask(place), SPACING)


def write(folder: Path, **changes: object) -> Path:
    arguments = {"modalities": ("T1", "T2"), "labels": LABELS, "name": "tiny", **changes}
    write_dataset(folder, arguments.pop("cases", raw_cases()), **arguments)
    return folder


def rewrite_json(folder: Path, change: Callable[[dict], object]) -> None:
    table = json.loads((folder / "dataset.json").read_text())
    change(table)
    (folder / "dataset.json").write_text(json.dumps(table))


def volume_folder(folder: Path, affine: np.ndarray, voxels: np.ndarray) -> Path:
    (folder / "imagesTr").mkdir(parents=True)
    nib.save(nib.Nifti1Image(voxels, affine), folder / "imagesTr/bob_0000.nii.gz")
    table = {"channel_names": {"0": "MRI"}, "labels": LABELS, "file_ending": ".nii.gz"}
    table["numTraining"] = 1
    (folder / "dataset.json").write_text(json.dumps(table))
    return folder


@pytest.mark.parametrize("ending", LOSSLESS)
def test_what_is_written_is_read_back(tmp_path: Path, ending: str) -> None:
    folder = write(tmp_path / "a", file_ending=ending)
    for stored, written in zip(read_cases(folder), raw_cases(), strict=True):
        assert (stored.name, stored.patient) == (written.name, "ann")
        for modality, pixels in written.channels.items():
            np.testing.assert_array_equal(stored.channels[modality], pixels)
            assert stored.channels[modality].dtype == np.float32
        np.testing.assert_array_equal(stored.mask, written.mask)
        assert stored.mask.dtype == np.int64
        spacing = SPACING if READERS[ending].spaced else (1.0, 1.0)
        assert stored.spacing == pytest.approx(spacing, rel=1e-6)


def test_intensities_are_rounded_and_clipped_in_png(tmp_path: Path) -> None:
    pixels = np.array([[-3.0, 0.6], [254.4, 300.0]], np.float32)
    case = RawCase("a", "a", {"T1": pixels}, None)
    (stored,) = read_cases(write(tmp_path / "a", cases=[case], modalities=("T1",)))
    np.testing.assert_array_equal(stored.channels["T1"], [[0, 1], [254, 255]])


def test_an_rgb_picture_is_three_modalities(tmp_path: Path) -> None:
    cases = list(raw_cases(1, ("R", "G", "B")))
    folder = write(tmp_path / "a", cases=cases, modalities=("R", "G", "B"))
    assert [path.name for path in (folder / "imagesTr").iterdir()] == ["ann_s0_0000.png"]
    (stored,) = read_cases(folder)
    assert list(stored.channels) == ["R", "G", "B"]
    for modality in "RGB":
        np.testing.assert_array_equal(stored.channels[modality], cases[0].channels[modality])


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("TCGA_CS_4941_s09", "TCGA_CS_4941"),
        ("ann_s1_left", "ann"),
        ("bob_z0012", "bob"),
        ("hippocampus_033", "hippocampus_033"),
    ],
)
def test_a_patient_is_all_before_the_slice_number(name: str, patient: str) -> None:
    assert patient_of(name) == patient


def test_spellings_of_a_patient_are_the_first_of_them() -> None:
    names = ["zoe\u0308_s1", "Zo\u00eb_s0", "ann_s0", "Bob"]
    assert patients_of(names) == dict(
        zip(names, ["Zo\u00eb", "Zo\u00eb", "ann", "Bob"], strict=True)
    )
    assert patients_of(reversed(names)) == patients_of(names)


def test_a_patient_pattern_that_takes_for_ever_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patients, "PATIENCE_S", 0.5)
    with pytest.raises(DataError, match=r"takes more than 0\.5 s for 1 name\. Repeat nothing"):
        patient_of("a" * 40 + "b", "(a|a)*$")


def test_slices_are_cut_along_the_anatomical_axis_whatever_the_files_orientation(
    tmp_path: Path,
) -> None:
    canonical = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)  # right, anterior, superior
    straight = volume_folder(tmp_path / "ras", np.diag([1.0, 2.0, 3.0, 1.0]), canonical)
    # The same head, stored as (posterior, inferior, right).
    turned = np.ascontiguousarray(np.flip(canonical.transpose(1, 2, 0), (0, 1)))
    affine = np.array([[0, 0, 1, 0], [-2, 0, 0, 4], [0, -3, 0, 9], [0, 0, 0, 1.0]])
    other = volume_folder(tmp_path / "pir", affine, turned)
    for axis, count, spacing in (
        ("sagittal", 2, (3.0, 2.0)),
        ("coronal", 3, (3.0, 1.0)),
        ("axial", 4, (2.0, 1.0)),
    ):
        here, there = (list(read_cases(folder, axis=axis)) for folder in (straight, other))
        assert [case.name for case in here] == [f"bob_z{i:04d}" for i in range(count)]
        for one, two in zip(here, there, strict=True):
            np.testing.assert_array_equal(one.channels["MRI"], two.channels["MRI"])
            assert one.spacing == pytest.approx(spacing)
            assert two.spacing == pytest.approx(spacing)
            assert one.patient == "bob"


def test_an_axial_slice_has_anterior_up_and_the_patients_right_at_the_left(tmp_path: Path) -> None:
    voxels = np.zeros((5, 6, 2), np.float32)
    voxels[4, 5, 1] = 1  # rightmost, foremost, uppermost
    slices = list(read_cases(volume_folder(tmp_path / "a", np.eye(4), voxels)))
    assert slices[1].channels["MRI"][0, 0] == 1
    assert slices[1].channels["MRI"].shape == (6, 5)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cases": []}, "no case to write"),
        ({"labels": {"background": 0}}, "has the labels 1, which"),
        (
            {"cases": [RawCase("../x", "x", {"T1": picture(0), "T2": picture(1)}, None)]},
            "file name",
        ),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path: Path, changes: dict, text: str) -> None:
    with pytest.raises(DataError, match=text):
        write(tmp_path / "a", **changes)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda table: table.update(labels={"a": 0, "whole": [1, 2]}), "'whole' is a region"),
        (lambda table: table.update(labels=["background"]), "where a map is wanted"),
        (lambda table: table.update(labels={"a": 0, "b": 0}), "same number"),
        (lambda table: table.update(labels={"a": 0, "b": 10**9}), "none of 0 to 255"),
        (lambda table: table.pop("labels"), "labels is missing"),
        (lambda table: table.update(channel_names={"0": "T" * 65}), "the name of modality 'T"),
        (lambda table: table.update(labels={"a": 0, "\ud800": 1}), r"label '\\ud800' is"),
        (
            lambda table: (table.pop("file_ending"), table.update(modality={"0": "MRI"})),
            "with 'modality' it is of nnU-Net's version 1",
        ),
    ],
)
def test_a_dataset_json_that_cannot_be_used_says_why(
    tmp_path: Path, change: Callable[[dict], object], text: str
) -> None:
    folder = write(tmp_path / "a")
    rewrite_json(folder, change)
    with pytest.raises(DataError, match=text) as caught:
        describe(folder)
    assert "dataset.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "[" * 100_000, "\xff"])
def test_a_dataset_json_that_is_no_json_object_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="JSON"):
        describe(tmp_path)


def one_bad_image(folder: Path, content: bytes, ending: str = ".png") -> Path:
    write(folder, file_ending=ending)
    (folder / f"imagesTr/ann_s0_0000{ending}").write_bytes(content)
    return folder


def nifti_bytes(shape: tuple[int, ...], kind: type = np.uint8) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(kind)
    header.set_data_shape(shape)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return header.binaryblock + bytes(4) + bytes(64)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (gzip.compress(nifti_bytes((4, 4, 1, 4))), "where a volume was expected"),
        (gzip.compress(nifti_bytes((2, 2, 2), np.complex64)), "holds values of kind complex64"),
    ],
    ids=["4-D", "complex"],
)
def test_a_broken_or_hostile_nifti_is_named(tmp_path: Path, content: bytes, text: str) -> None:
    folder = one_bad_image(tmp_path / "a", content, ".nii.gz")
    with pytest.raises(DataError, match=text) as caught:
        list(read_cases(folder))
    assert "ann_s0_0000.nii.gz" in str(caught.value)


def test_a_data_set_that_was_cut_short_is_written_anew_and_never_half_there(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    with pytest.raises(KeyboardInterrupt), written_whole(folder) as half:
        write(half)
        raise KeyboardInterrupt
    assert not folder.exists()
    with written_whole(folder) as half:
        write(half)
    assert describe(folder).training == 2
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
