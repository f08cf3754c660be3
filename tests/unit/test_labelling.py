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


def resized(mask: np.ndarray, way: Picture.Resampling) -> np.ndarray:
    small = Picture.fromarray(mask).resize((36, 36), way)
    return np.array(small.resize((48, 48), way))


def through_jpeg(mask: np.ndarray, folder: Path) -> np.ndarray:
    Picture.fromarray(mask).save(folder / "a.jpg", quality=80)
    return np.array(Picture.open(folder / "a.jpg"))


def instances(highest: int) -> np.ndarray:
    """Squares of four pixels, each with a number of its own, some of them side by side."""
    numbers = np.linspace(1, highest, 36).round().astype(int).reshape(6, 6)
    mask = np.kron(numbers, np.ones((4, 4), int))
    mask[::8] = 0
    return mask


def looks(mask: np.ndarray, labels: dict[str, int]) -> tuple[str, str]:
    with pytest.raises(DataFileError) as found:
        check_mask(PATH, mask.astype(np.int64), labels)
    assert found.value.file == PATH
    return found.value.reason, found.value.remedy


def test_a_mask_of_0_and_255_is_told_to_be_one() -> None:
    white = (head() > 0) * 255
    reason, remedy = looks(white, TWO)
    assert reason.startswith("looks like a 0/255 mask")
    assert remedy == "Divide it by 255, so that 255 becomes label 1 ('head')."
    # With more labels nobody knows which of them is white.
    assert looks(white, THREE)[1] == "Replace 255 by the number of the label that it means."
    assert looks(np.full((8, 8), 255), TWO)[0] == reason


@pytest.mark.parametrize("levels", [(0, 127, 255), (0, 128, 255), (0, 50, 100), (0, 85, 170)])
def test_grey_levels_in_place_of_labels_are_named(levels: tuple[int, ...]) -> None:
    reason, remedy = looks(np.array(levels)[head()], THREE)
    assert reason == f"holds grey levels ({', '.join(map(str, levels))}) in place of labels"
    assert remedy == "Replace each level by the number of its label."


@pytest.mark.parametrize(
    "way", [Picture.Resampling.BILINEAR, Picture.Resampling.BICUBIC, Picture.Resampling.LANCZOS]
)
@pytest.mark.parametrize("scale", [255, 100, 60])
def test_a_mask_that_was_resized_with_interpolation_is_told_to_be(
    way: Picture.Resampling, scale: int
) -> None:
    box = np.zeros((48, 48), int)
    box[11:30, 7:33] = 1  # its edges have the same value all along
    for mask, labels in (((head() > 0) * scale, TWO), (head() * scale, THREE), (box * scale, TWO)):
        reason, remedy = looks(resized(mask.astype(np.uint8), way), labels)
        assert reason.startswith("looks interpolated")
        assert "nearest neighbour" in remedy and "labels there" not in remedy


def test_a_mask_that_went_through_jpeg_and_a_picture_look_interpolated(tmp_path: Path) -> None:
    jpeg = through_jpeg(((head() > 0) * 255).astype(np.uint8), tmp_path)
    picture = np.random.default_rng(0).normal(120, 30, (48, 48)).clip(0, 255).round()
    for mask in (jpeg, picture, np.stack([np.roll(jpeg, i, 0) for i in range(3)], -1)):
        assert looks(mask, TWO)[0].startswith("looks interpolated, or like a picture")


@pytest.mark.parametrize("highest", [36, 255, 1300])
def test_numbers_of_instances_are_told_from_labels(highest: int) -> None:
    reason, remedy = looks(instances(highest), TWO)
    assert reason.startswith("looks like a map of instances")
    assert "the label of its object" in remedy


@pytest.mark.parametrize(("marks", "labels"), [((-1,), THREE), ((255,), THREE), ((-1, 65535), TWO)])
def test_marks_of_what_nobody_annotated_are_told_from_labels(
    marks: tuple[int, ...], labels: dict[str, int]
) -> None:
    mask = head().astype(int) % len(labels)
    for place, mark in enumerate(marks):
        mask[4 * place : 4 * place + 3] = mark
    reason, remedy = looks(mask, labels)
    assert reason.startswith(f"holds {' and '.join(map(str, sorted(marks)))}, by which programs")
    assert remedy.startswith("Write 0 in its place where it is background")


def test_a_label_that_is_merely_not_named_is_said_to_be() -> None:
    mask = head().astype(int)
    mask[0, 0], mask[0, 5] = 7, -1
    reason, remedy = looks(mask, THREE)
    assert reason == "has the labels -1, 7, which dataset.json does not name"
    assert remedy == "Name them under labels there, or remap the mask."
    check_mask(PATH, head(), THREE)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "store",
    [
        lambda labels: labels * np.float32(0.999995),
        lambda labels: labels + 9e-4,
        lambda labels: labels - 9e-4,
    ],
    ids=["scaled", "above", "below"],
)
def test_labels_that_are_off_by_rounding_are_read(
    tmp_path: Path, ending: str, store: Callable[[np.ndarray], np.ndarray]
) -> None:
    path = tmp_path / f"mask{ending}"
    nib.save(nib.Nifti1Image(store(head().astype(np.float32))[..., None], np.eye(4)), path)
    np.testing.assert_array_equal(read_mask(path).values[..., 0], head())


def test_labels_that_a_header_scales_are_read(tmp_path: Path) -> None:
    stored = nib.Nifti1Image(head().astype(np.float64)[..., None], np.eye(4))
    stored.set_data_dtype(np.int16)  # nibabel then stores them with a slope
    nib.save(stored, tmp_path / "mask.nii.gz")
    values = read_mask(tmp_path / "mask.nii.gz").values
    assert values.dtype == np.int64
    np.testing.assert_array_equal(values[..., 0], head())


@pytest.mark.parametrize("value", [0.5, 0.01, 1.998, np.nan, np.inf])
def test_labels_between_whole_numbers_are_refused(tmp_path: Path, value: float) -> None:
    voxels = head().astype(np.float32)[..., None]
    voxels[3, 3] = value
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "mask.nii.gz")
    with pytest.raises(DataFileError, match=r"not (whole )?numbers.* nearest neighbour"):
        read_mask(tmp_path / "mask.nii.gz")
