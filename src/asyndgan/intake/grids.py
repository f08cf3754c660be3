"""Whether the files of a case lie on one grid: same shape, same voxel positions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from asyndgan.intake.readers import DataFileError, Stored
from asyndgan.lazy import Late
from asyndgan.texts import shown_shape

nib: Any = Late("nibabel")  # half a second that pictures need not

AFFINE_TOLERANCE = 1e-3  # for spacings (relative) and directions: tools round header values
ORIGIN_TOLERANCE = 0.1  # voxels

WITH_AFFINE = (
    "python -c \"import nibabel as n; m = n.load('FILE'); "
    "n.save(n.Nifti1Image(m.dataobj, n.load('IMAGE').affine, m.header), 'NEW.nii.gz')\""
)
_RESAMPLE = "resample it to one grid with the others (a mask with nearest neighbour)."


def on_grid_of(path: Path, stored: Stored, others: Mapping[str, Stored]) -> Stored:
    """Checks that a file lies on the grid of its case, and turns its array as the case's first.

    `others`: modality to array, of the files read so far; the first defines the grid. Affines that
    are equal but for rounding may be closest to two orientations. Raises `DataError` if the grids
    differ; the remedy depends on whether the stored shapes do.
    """
    if not others:
        return stored
    modality, first = next(iter(others.items()))
    named = f"modality '{modality}' of the case"
    difference = _difference(stored, first, named)
    if not difference:
        return stored
    turned = _turned_like(stored, first)
    if turned is None:
        remedy = "Export it again at the size of the image, labels with nearest neighbour."
        if stored.affine is not None:
            remedy = f"It holds other voxels: {_RESAMPLE}"
        raise DataFileError(path, difference, remedy)
    if not _difference(turned, first, named):
        return turned
    if stored.affine is not None and np.array_equal(stored.affine, np.eye(4)):
        difference = f"has no geometry of its own (identity affine), and as many voxels as {named}"
    command = WITH_AFFINE if path.name.endswith(".gz") else WITH_AFFINE.replace(".nii.gz", ".nii")
    raise DataFileError(
        path,
        difference,
        "If it was drawn on this image, voxel by voxel, give it the image's affine, and put the "
        f"new file in its place: {command}. Otherwise {_RESAMPLE}",
    )


def _turned_like(stored: Stored, first: Stored) -> Stored | None:
    """`stored` turned from its file's axes as `first` was; None if the files' shapes differ."""
    if stored.affine is None or stored.turn is None or first.turn is None:
        return None
    turn = np.empty((3, 2))
    for (axis, flip), (wanted, wanted_flip) in zip(stored.turn, first.turn, strict=True):
        turn[int(axis)] = wanted, flip * wanted_flip
    values = nib.orientations.apply_orientation(stored.values, turn)
    if values.shape != first.values.shape:
        return None
    affine = stored.affine @ nib.orientations.inv_ornt_aff(turn, stored.values.shape)
    return Stored(np.ascontiguousarray(values), affine, first.turn)


def _difference(stored: Stored, first: Stored, named: str) -> str:
    """Describes how the grid of `stored` differs from that of `first`, called `named`, or ""."""
    if stored.values.shape != first.values.shape:
        shape, wanted_shape = shown_shape(stored.values.shape), shown_shape(first.values.shape)
        return f"is {shape}, but {named} is {wanted_shape}"
    if stored.affine is None or first.affine is None:
        return ""
    spacing, wanted = stored.spacing, first.spacing
    if not np.allclose(spacing, wanted, rtol=AFFINE_TOLERANCE, atol=0):
        mm, wanted_mm = (shown_shape(f"{side:g}" for side in each) for each in (spacing, wanted))
        return f"has voxels of {mm} mm, but {named} has {wanted_mm} mm"
    directions = first.affine[:3, :3] / wanted  # a column of length 1 for each axis
    if not np.allclose(stored.affine[:3, :3] / spacing, directions, rtol=0, atol=AFFINE_TOLERANCE):
        return f"is turned against {named}"
    voxels = float(np.abs((stored.affine - first.affine)[:3, 3] @ directions / wanted).max())
    return f"lies {voxels:.3g} voxels off {named}" if voxels > ORIGIN_TOLERANCE else ""
