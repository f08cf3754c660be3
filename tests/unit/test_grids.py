"""Files of a case that do not lie on one grid, and remedies that lead to one."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from asyndgan.intake.check import check_folder
from reading import read_cases

AFFINE = np.array([[-1.0, 0, 0, 20], [0, 1.0, 0, -22], [0, 0, 4.0, -10], [0, 0, 0, 1]])
VOXELS = np.random.default_rng(0).integers(0, 2, (6, 8, 3)).astype(np.uint8)


def data_set(
    folder: Path,
    affine: np.ndarray,
    mask_affine: np.ndarray,
    *,
    mask: np.ndarray = VOXELS,
    coded: bool = True,
) -> Path:
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    image = np.random.default_rng(1).random((6, 8, 3), np.float32)
    nib.save(nib.Nifti1Image(image, affine), folder / "imagesTr/ann_0000.nii.gz")
    stored = nib.Nifti1Image(mask, mask_affine if coded else None)
    nib.save(stored, folder / "labelsTr/ann.nii.gz")
    (folder / "dataset.json").write_text(
        '{"channel_names": {"0": "T1"}, "labels": {"background": 0, "head": 1}, '
        '"file_ending": ".nii.gz"}'
    )
    return folder


def test_a_mask_of_other_voxels_is_to_be_resampled_and_not_to_be_given_the_affine(
    tmp_path: Path,
) -> None:
    folder = data_set(tmp_path, AFFINE, np.eye(4), mask=np.ones((6, 8, 12), np.uint8))
    (fault,) = check_folder(folder).faults
    assert fault.reason == "is 6 x 8 x 12, but modality 'T1' of the case is 6 x 8 x 3"
    assert fault.remedy == (
        "It holds other voxels: resample it to one grid with the others (a mask with nearest "
        "neighbour)."
    )


def oblique(degrees: float, axis: str = "z") -> np.ndarray:
    turned = {axis: np.deg2rad(degrees)}
    matrix = nib.eulerangles.euler2mat(**turned) @ np.diag([1.0, 1.0, 4.0])
    return nib.affines.from_matvec(matrix, [3, -5, 7])


@pytest.mark.parametrize(("axis", "degrees"), [("x", 45), ("z", 135)])
@pytest.mark.parametrize("apart", [1e-4, -1e-4])
def test_oblique_files_that_are_equal_but_for_rounding_lie_on_one_grid(
    tmp_path: Path, axis: str, degrees: float, apart: float
) -> None:
    """Half way between two axes, rounding decides which of them is the closest."""
    folder = data_set(tmp_path, oblique(degrees - apart, axis), oblique(degrees + apart, axis))
    assert check_folder(folder).faults == ()
    image = nib.load(folder / "imagesTr/ann_0000.nii.gz").get_fdata()
    labels = nib.load(folder / "labelsTr/ann.nii.gz").get_fdata()
    for axis_name in ("axial", "coronal", "sagittal"):
        cases = list(read_cases(folder, axis=axis_name))
        pairs = {
            (float(one), int(other))
            for case in cases
            for one, other in zip(case.channels["T1"].flat, case.mask.flat, strict=True)
        }
        assert pairs == set(zip(image.ravel().tolist(), labels.ravel().tolist(), strict=True))


def test_oblique_files_that_differ_by_more_are_turned_against_each_other(tmp_path: Path) -> None:
    folder = data_set(tmp_path, oblique(44), oblique(46))
    (fault,) = check_folder(folder).faults
    assert "affine" in fault.remedy
