"""Masks whose numbers are not labels of their data set, and what they look like."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from asyndgan.intake.labelling import check_mask, read_mask
from asyndgan.intake.readers import DataFileError

TWO = {"background": 0, "head": 1}
THREE = {**TWO, "lesion": 2}
PATH = Path("labelsTr/ann.png")


def head(size: int = 48) -> np.ndarray:
    """A disc (1) with a smaller one (2) in it."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    far = np.hypot(y, x)
    return (far < 0.4 * size).astype(np.uint8) + (far < 0.15 * size)


def looks(mask: np.ndarray, labels: dict[str, int]) -> tuple[str, str]:
    with pytest.raises(DataFileError) as found:
        check_mask(PATH, mask.astype(np.int64), labels)
    assert found.value.file == PATH
    return found.value.reason, found.value.remedy


@pytest.mark.parametrize(("marks", "labels"), [((-1,), THREE), ((255,), THREE), ((-1, 65535), TWO)])
def test_marks_of_what_nobody_annotated_are_told_from_labels(
    marks: tuple[int, ...], labels: dict[str, int]
) -> None:
    mask = head().astype(int) % len(labels)
    for place, mark in enumerate(marks):
        mask[4 * place : 4 * place + 3] = mark
    reason, remedy = looks(mask, labels)
    assert reason.startswith(f"holds {', '.join(map(str, sorted(marks)))}, by which programs")
    assert remedy.startswith("Write 0 in its place where it is background")


def test_a_mask_that_went_through_jpeg_is_told_to_be_exported_again(tmp_path: Path) -> None:
    Picture.fromarray(head() * 90).save(tmp_path / "a.jpg", quality=80)
    reason, remedy = looks(np.array(Picture.open(tmp_path / "a.jpg")), TWO)
    assert "numbers that are no label" in reason and remedy.startswith("Export the mask again")


@pytest.mark.parametrize(
    "store",
    [lambda labels: labels * np.float32(0.999995), lambda labels: labels + 9e-4],
    ids=["scaled", "above"],
)
def test_labels_that_are_off_by_rounding_are_read(
    tmp_path: Path, store: Callable[[np.ndarray], np.ndarray]
) -> None:
    path = tmp_path / "mask.nii"
    nib.save(nib.Nifti1Image(store(head().astype(np.float32))[..., None], np.eye(4)), path)
    np.testing.assert_array_equal(read_mask(path).values[..., 0], head())


def test_labels_that_a_header_scales_are_read(tmp_path: Path) -> None:
    stored = nib.Nifti1Image(head().astype(np.float64)[..., None], np.eye(4))
    stored.set_data_dtype(np.int16)  # nibabel then stores them with a slope
    nib.save(stored, tmp_path / "mask.nii.gz")
    values = read_mask(tmp_path / "mask.nii.gz").values
    assert values.dtype == np.int64
    np.testing.assert_array_equal(values[..., 0], head())


@pytest.mark.parametrize("value", [0.01, 1.998, np.nan, np.inf])
def test_labels_between_whole_numbers_are_refused(tmp_path: Path, value: float) -> None:
    voxels = head().astype(np.float32)[..., None]
    voxels[3, 3] = value
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "mask.nii.gz")
    with pytest.raises(DataFileError, match=r"not whole numbers.* nearest neighbour"):
        read_mask(tmp_path / "mask.nii.gz")
