"""The grid on which a series lies: its planes in order, and what is wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from asyndgan.dicom.files import DicomError, planes_of
from asyndgan.dicom.series import Frame, Series
from asyndgan.intake.grids import AFFINE_TOLERANCE, ORIGIN_TOLERANCE
from asyndgan.intake.readers.volumes import MAX_VOXELS, TO_RAS

TILT: Final = 0.5
"""Degrees between the slices' normal and the line through them that are told to the user."""

_SPLIT: Final = "Export each orientation, time point, echo or b-value as a series of its own."


@final
@dataclass(frozen=True, eq=False)
class Grid:
    """The planes of a series in order along their normal."""

    frames: tuple[Frame, ...]  # one a slice
    shape: tuple[int, int, int]  # columns, rows and slices
    affine: np.ndarray  # (4, 4), from those to millimetres (right, anterior, superior)
    tilt: float  # degrees by which a gantry was tilted: the affine is sheared

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between columns, rows and slices."""
        across, down, through = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(across), float(down), float(through)


def grid_of(series: Series) -> Grid:
    """The grid of a series of images.

    Raises `DicomError` if it has none: slices are missing or there twice, or its planes differ.
    """
    if series.faults:
        raise series.faults[0]
    if len(sizes := {shape[1:] for shape in series.shapes.values()}) != 1:
        raise DicomError("holds images of several sizes", _SPLIT)
    ((rows, columns),) = sizes
    frames = series.frames
    if not 0 < rows * columns * len(frames) <= MAX_VOXELS:
        raise DicomError(f"has no voxel, or more than {MAX_VOXELS}", "Export a part of it.")
    for values in ([f.orientation for f in frames], [f.spacing for f in frames]):
        if not np.allclose(values, values[0], rtol=AFFINE_TOLERANCE, atol=AFFINE_TOLERANCE):
            raise DicomError("holds images of several orientations or spacings", _SPLIT)
    row, column = np.array(frames[0].orientation).reshape(2, 3)
    if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-3):
        raise DicomError("has rows and columns that are not at right angles", "Export it again.")
    normal = np.cross(row, column)
    order = np.argsort([normal @ f.position for f in frames], kind="stable")
    ordered = tuple(frames[int(place)] for place in order)
    down, across = ordered[0].spacing
    step = _step(np.array([f.position for f in ordered]), normal, min(down, across))
    step = normal * (ordered[0].thickness or 1.0) if step is None else step
    cosine = step @ normal / np.linalg.norm(step)
    affine = np.eye(4)
    affine[:3] = np.column_stack([row * across, column * down, step, ordered[0].position])
    tilt = float(np.degrees(np.arccos(min(1.0, cosine))))
    return Grid(
        ordered, (columns, rows, len(ordered)), TO_RAS @ affine, tilt if tilt > TILT else 0.0
    )


def _step(places: np.ndarray, normal: np.ndarray, pixel: float) -> np.ndarray | None:
    """The way from slice to slice in millimetres; None of one slice; else `DicomError`."""
    if len(places) < 2:
        return None
    depths = places @ normal
    gaps = np.diff(depths)
    apart = gaps > 1e-3 * gaps.max()
    if not apart.all():
        raise DicomError(
            f"holds {len(depths)} images at {int(apart.sum()) + 1} places (time points, echoes, "
            "b-values or phases)",
            _SPLIT,
        )
    step = (places[-1] - places[0]) / (len(places) - 1)
    off = places - places[0] - np.outer(np.arange(len(places)), step)
    usual = float(np.median(gaps))
    if np.abs(off @ normal).max() > ORIGIN_TOLERANCE * usual:
        missing = np.round(gaps / usual) - 1
        if np.abs(gaps / usual - missing - 1).max() < ORIGIN_TOLERANCE:
            raise DicomError(
                f"lacks slices: {int(missing.sum())} in {int((missing > 0).sum())} gaps",
                "Export all of its images.",
            )
        raise DicomError(
            f"has slices {gaps.min():.3g} to {gaps.max():.3g} mm apart",
            "Resample it to even spacing, or export each part as a series of its own.",
        )
    if np.linalg.norm(off - np.outer(off @ normal, normal), axis=1).max() > pixel / 10:
        raise DicomError("has slices that are shifted against each other", _SPLIT)
    straight = (step @ normal) * normal
    # A shift of rounding would make the affine a sheared one, which ITK refuses.
    slight = np.linalg.norm(step - straight) * (len(places) - 1) < pixel / 100
    return straight if slight else step


def voxels_of(series: Series, grid: Grid) -> np.ndarray:
    """Values of a series in its units, shaped as `grid.shape`.

    Of the stored integer type if they need no scaling, int16 or int32 if scaled by whole numbers,
    else float32 (float64 of 32-bit integers). Raises `DicomError` if one cannot be decoded.
    """
    places = {(f.file, f.number): place for place, f in enumerate(grid.frames)}
    scales = np.array([(f.slope, f.intercept) for f in grid.frames])
    plain = bool((scales == (1, 0)).all())
    whole = bool((scales == np.round(scales)).all() and np.abs(scales).max() < 2**14)
    volume = np.empty(0)
    kinds: set[np.dtype] = set()
    for file in dict.fromkeys(f.file for f in grid.frames):
        for number, plane in enumerate(planes_of(file, series.shapes[file])):
            place = places.get((file, number))
            if place is None:
                continue
            wide = plane.dtype.itemsize > 2
            if not volume.size:
                scaled = np.dtype(np.int32 if whole and not wide else np.float64 if wide else "f4")
                volume = np.empty(grid.shape, plane.dtype if plain else scaled, order="F")
            slope, intercept = scales[place]
            kinds.add(plane.dtype)
            volume[..., place] = plane.T if plain else plane.T * slope + intercept
    if len(kinds) > 1:
        raise DicomError("stores its images in several number types", _SPLIT)
    if volume.dtype == np.int32 and not plain and -(2**15) <= volume.min() <= volume.max() < 2**15:
        volume = volume.astype(np.int16)
    return volume


def frames_on(grid: Grid, frames: Sequence[Frame], shape: tuple[int, int]) -> list[int]:
    """The slice of a grid on which each frame (rows, columns) of a segmentation lies.

    Raises `DicomError` if a frame lies elsewhere, or its pixels do.
    """
    columns, rows, slices = grid.shape
    corners = np.array([[0, 0], [columns - 1, 0], [0, rows - 1]])  # columns, rows
    inverse = np.linalg.inv(TO_RAS @ grid.affine)
    found = []
    for frame in frames:
        row, column = np.array(frame.orientation).reshape(2, 3)
        ways = np.stack([row * frame.spacing[1], column * frame.spacing[0]])
        millimetres = np.array(frame.position) + corners @ ways
        voxels = millimetres @ inverse[:3, :3].T + inverse[:3, 3]
        place = round(float(np.clip(voxels[0, 2], -1, slices)))
        wanted = np.column_stack([corners, np.full(3, place)])
        if (
            shape != (rows, columns)
            or not 0 <= place < slices
            or not np.allclose(voxels, wanted, rtol=0, atol=ORIGIN_TOLERANCE)
        ):
            raise DicomError(
                "lies on another grid than its image",
                "Export it on the grid of the image (3D Slicer: Resample, nearest neighbour).",
            )
        found.append(place)
    return found
