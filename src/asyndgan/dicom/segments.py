"""Masks from segmentations: DICOM SEG frame by frame, RTSTRUCT by its contours."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from asyndgan.dicom.files import DicomError, header_of, planes_of
from asyndgan.dicom.geometry import Grid, frames_on
from asyndgan.dicom.series import Series, is_closed
from asyndgan.intake.grids import ORIGIN_TOLERANCE
from asyndgan.intake.readers.volumes import TO_RAS

MAX_SEGMENT_PIXELS: Final = 2**34
"""Most pixels of all frames of a SEG, which are decoded one frame at a time."""

MAX_CROSSINGS: Final = 2**25
"""Most rows of pixels that the edges of an RTSTRUCT's contours cross, each of about 0.1 us."""

PIXELS_A_CROSSING: Final = 32
"""Pixels around contours that take as long as one crossing."""

Drawn = Iterator[tuple[int, int, tuple[slice, slice], np.ndarray]]
"""Label, slice, a box in it, and the pixels [columns, rows] of the box that are drawn."""

WHOLE: Final = (slice(None), slice(None))


def draw(
    mask: np.ndarray, segmentation: Series, grid: Grid, labels: Mapping[int, int], *, ordered: bool
) -> None:
    """Draws segments into a mask, uint8 of the grid's shape, and notes gaps of the segmentation.

    `labels`: number of a segment to that of its label; others are left out. If `ordered`, a higher
    label is drawn over a lower one; otherwise none may overlap. Raises `DicomError` if it cannot be
    read, does not lie on the grid, or labels overlap.
    """
    drawn = _of_contours if segmentation.kind == "RTSTRUCT" else _of_frames
    places: dict[int, set[int]] = {}
    for label, place, box, inside in drawn(segmentation, grid, labels):
        if inside.any():
            places.setdefault(label, set()).add(place)
        here = mask[(*box, place)]
        if not ordered and (inside & (here > 0) & (here != label)).any():
            raise DicomError(
                "holds segments that overlap, and a mask has one label a voxel",
                "Name the labels with --label, in an order in which a later one covers an earlier.",
            )
        here[inside & (here < label)] = label
    segmentation.gaps = any(max(each) - min(each) >= len(each) for each in places.values())


def _of_frames(segmentation: Series, grid: Grid, labels: Mapping[int, int]) -> Drawn:
    """What each frame of a SEG shows of each segment."""
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
                    yield labels[frame.segment], place, WHOLE, plane.T > 0
                continue
            for number in np.unique(plane[plane > 0]):  # a label map
                if int(number) in labels:
                    yield labels[int(number)], place, WHOLE, number == plane.T


def _of_contours(segmentation: Series, grid: Grid, labels: Mapping[int, int]) -> Drawn:
    """Each region of an RTSTRUCT on each slice, in the box around its contours there.

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
    plane = np.zeros(grid.shape[:2], bool)
    for number, contours in regions.items():
        slices: dict[int, list[np.ndarray]] = {}
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
            slices.setdefault(place, []).append(voxels[:, :2])
        for place, own in slices.items():
            for points in own:
                crossings += _toggle(plane, points, MAX_CROSSINGS - crossings)
            box = _box(np.concatenate(own), plane.shape)
            crossings += plane[box].size // PIXELS_A_CROSSING
            yield labels[number], place, box, plane[box]
            plane[box] = False


def _box(points: np.ndarray, shape: Sequence[int]) -> tuple[slice, slice]:
    """The box around points [points, 2] in a plane of this shape, in columns and rows."""
    low = np.floor(points.min(axis=0)).clip(0, shape).astype(int)
    high = (np.ceil(points.max(axis=0)) + 1).clip(0, shape).astype(int)
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    return slice(left, right), slice(top, bottom)


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


def _toggle(plane: np.ndarray, points: np.ndarray, most: int) -> int:
    """Inverts the pixels [columns, rows] whose centres a contour surrounds.

    Along each row a pixel changes as often as an edge crosses the row before it. Returns how many
    rows its edges cross, with what the pixels around it count; raises `DicomError` above `most`.
    """
    box = _box(points, plane.shape)
    inside, (left, top) = plane[box], (side.start for side in box)
    x, y = points.T
    x_next, y_next = np.roll(x, -1), np.roll(y, -1)
    ends = np.ceil(
        [np.minimum(y, y_next), np.maximum(y, y_next)]
    )  # half open, so none counts twice
    first, last = np.clip(ends, top, box[1].stop).astype(int)
    counts = last - first
    total = int(counts.sum())
    if (cost := total + inside.size // PIXELS_A_CROSSING) > most:
        raise DicomError("has contours of too many points", "Simplify them, or export fewer.")
    edge = np.repeat(np.arange(len(x)), counts)
    row = np.arange(total) - np.repeat(np.cumsum(counts) - counts - first, counts)
    slope = (x_next - x)[edge] / (y_next - y)[edge]
    column = np.ceil(x[edge] + (row - y[edge]) * slope).clip(left, box[0].stop).astype(int)
    changes = np.zeros((inside.shape[0] + 1, inside.shape[1]), np.int64)
    np.add.at(changes, (column - left, row - top), 1)
    inside ^= (np.cumsum(changes, axis=0)[:-1] % 2).astype(bool)
    return cost
