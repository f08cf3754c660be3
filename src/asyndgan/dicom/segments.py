"""Masks from segmentations: DICOM SEG frame by frame, RTSTRUCT by its contours."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from asyndgan.data.grids import ORIGIN_TOLERANCE
from asyndgan.data.readers.volumes import TO_RAS
from asyndgan.dicom.files import DicomError, header_of, planes_of
from asyndgan.dicom.geometry import Grid, frames_on
from asyndgan.dicom.series import Series, is_closed

MAX_SEGMENT_PIXELS: Final = 2**34
"""Most pixels of all frames of a SEG, which are decoded one frame at a time."""

MAX_CROSSINGS: Final = 2**25
"""Most rows of pixels that the edges of an RTSTRUCT's contours cross, each of about 0.1 us."""


def draw(
    mask: np.ndarray, segmentation: Series, grid: Grid, labels: Mapping[int, int], *, ordered: bool
) -> None:
    """Draws the segments of one segmentation into a mask, and notes its gaps.

    Args:
        mask: uint8 of the grid's shape; 0 where nothing was drawn yet.
        segmentation: a SEG or an RTSTRUCT.
        grid: of the image.
        labels: number of a segment to the number of its label; others are left out.
        ordered: whether a higher label is drawn over a lower one; otherwise none may overlap.

    Raises:
        DicomError: it cannot be read, does not lie on the grid, or labels overlap.
    """
    drawn = _of_contours if segmentation.kind == "RTSTRUCT" else _of_frames
    places: dict[int, set[int]] = {}
    for label, place, inside in drawn(segmentation, grid, labels):
        if inside.any():
            places.setdefault(label, set()).add(place)
        here = mask[..., place]
        if not ordered and (inside & (here > 0) & (here != label)).any():
            raise DicomError(
                "holds segments that overlap, and a mask has one label a voxel",
                "Name the labels with --label, in an order in which a later one covers an earlier.",
            )
        here[inside & (here < label)] = label
    segmentation.gaps = any(max(each) - min(each) >= len(each) for each in places.values())


def _of_frames(
    segmentation: Series, grid: Grid, labels: Mapping[int, int]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Label, slice and pixels [columns, rows] of each segment in each frame of a SEG."""
    if segmentation.faults:
        raise segmentation.faults[0]
    for file, shape in segmentation.shapes.items():
        if int(np.prod(shape, dtype=object)) > MAX_SEGMENT_PIXELS:
            raise DicomError("has too many frames", "Export fewer segments.")
        frames = [frame for frame in segmentation.frames if frame.file == file]
        places = frames_on(grid, frames, shape[1:])
        for frame, place, plane in zip(frames, places, planes_of(file, shape), strict=True):
            if frame.segment:
                if frame.segment in labels:
                    yield labels[frame.segment], place, plane.T > 0
                continue
            for number in np.unique(plane[plane > 0]):  # a label map
                if int(number) in labels:
                    yield labels[int(number)], place, number == plane.T


def _of_contours(
    segmentation: Series, grid: Grid, labels: Mapping[int, int]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Label, slice and pixels [columns, rows] of each region of an RTSTRUCT.

    A pixel is inside a region if its centre is inside an odd number of its contours.
    """
    (path,) = segmentation.files
    inverse = np.linalg.inv(TO_RAS @ grid.affine)
    crossings = 0
    with header_of(path, ("ROIContourSequence",)) as dataset:
        regions = {
            int(item.ReferencedROINumber): list(_contours(item))
            for item in dataset.get("ROIContourSequence") or ()
            if int(item.ReferencedROINumber) in labels
        }
    for number, contours in regions.items():
        slices: dict[int, np.ndarray] = {}
        for points in contours:
            voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
            place = round(float(np.clip(voxels[0, 2], -1, grid.shape[2])))
            if not 0 <= place < grid.shape[2] or (
                np.abs(voxels[:, 2] - place).max() > ORIGIN_TOLERANCE
            ):
                raise DicomError(
                    "has contours that lie on no slice of its image",
                    "Export it with the series on which it was drawn.",
                )
            inside = slices.setdefault(place, np.zeros(grid.shape[:2], bool))
            crossings += _toggle(inside, voxels[:, :2], MAX_CROSSINGS - crossings)
        for place, inside in slices.items():
            yield labels[number], place, inside


def _contours(region: Any) -> Iterator[np.ndarray]:
    """The closed contours of a region, in millimetres [points, 3] (left, posterior, superior)."""
    for contour in region.get("ContourSequence") or ():
        if not is_closed(contour):
            continue
        data = contour.get_item("ContourData").value  # text: as objects it takes fifty times more
        numbers = data.split(b"\\") if isinstance(data, bytes) else data
        points = np.array(numbers, np.float64).reshape(-1, 3)
        if not np.isfinite(points).all():
            raise ValueError("not finite")
        yield points


def _toggle(inside: np.ndarray, points: np.ndarray, most: int) -> int:
    """Inverts the pixels [columns, rows] whose centres a contour surrounds.

    Along each row a pixel changes as often as an edge crosses the row before it. PIL would add the
    outline, and matplotlib tests each pixel against each edge: 16 s for the body in a CT.

    Returns:
        How many rows its edges cross.

    Raises:
        DicomError: they are more than `most`.
    """
    x, y = points.T
    x_next, y_next = np.roll(x, -1), np.roll(y, -1)
    ends = np.ceil(
        [np.minimum(y, y_next), np.maximum(y, y_next)]
    )  # half open, so none counts twice
    first, last = np.clip(ends, 0, inside.shape[1]).astype(int)
    counts = last - first
    if (total := int(counts.sum())) > most:
        raise DicomError("has contours of too many points", "Simplify them, or export fewer.")
    edge = np.repeat(np.arange(len(x)), counts)
    row = np.arange(total) - np.repeat(np.cumsum(counts) - counts - first, counts)
    slope = (x_next - x)[edge] / (y_next - y)[edge]
    column = np.ceil(x[edge] + (row - y[edge]) * slope).clip(0, inside.shape[0]).astype(int)
    changes = np.zeros((inside.shape[0] + 1, inside.shape[1]), np.int64)
    np.add.at(changes, (column, row), 1)
    inside ^= (np.cumsum(changes, axis=0)[:-1] % 2).astype(bool)
    return total
