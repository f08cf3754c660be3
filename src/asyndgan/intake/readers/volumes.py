"""What the formats of volumes share: axes turned to the closest canonical orientation, and size."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from asyndgan.intake import limits
from asyndgan.intake.readers.reader import (
    AXIAL,
    NOT_ACQUIRED,
    DataFileError,
    Geometry,
    Reader,
    Stored,
    decoding,
    storable,
    volume_of,
)
from asyndgan.lazy import Late

nib: Any = Late("nibabel")  # half a second that pictures need not

MAX_VOXELS: Final = 2**29  # twice the largest CT volumes
A_VOXEL: Final = 18  # bytes that reading takes
FLAT: Final = 1e-6  # of a determinant of directions of length 1, below which they lie in a plane
TO_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From (left, posterior, superior), DICOM's and ITK's axes, to (right, anterior, superior)."""


@final
@dataclass(frozen=True)
class Header:
    """What the header of an open file says of its voxels.

    Attributes:
        shape: voxels along the stored axes, two or three of space; a fourth is of modalities.
        dtype: type of the stored numbers.
        affine: (4, 4), from indices of the stored axes to RAS millimetres.
        note: text in the header.
        read: decodes the voxels, in `shape`; only while the file is open.
        place: fields that say where the voxels lie, for another file of the format.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray
    note: str
    read: Callable[[], np.ndarray]
    place: Any = None


class Volumes(Reader):
    """A format of slices and volumes with their place in space.

    It writes whole numbers in their type, and others in float32.
    """

    spaced = True
    volumes = True
    colour = False

    @abstractmethod
    def _opened(self, path: Path) -> AbstractContextManager[Header]:
        """Opens a file, and reads its header."""

    @abstractmethod
    def _save(
        self, path: Path, voxels: np.ndarray, affine: np.ndarray, note: str, place: Any
    ) -> None:
        """Writes voxels of two or three axes; equal ones give equal bytes."""

    def image(self, path: Path, *, most: int) -> list[Stored]:
        """See `Reader.image`; a file of four axes holds several modalities."""
        return self._read(path, most)

    def mask(self, path: Path) -> Stored:
        """See `Reader.mask`."""
        (stored,) = self._read(path, 1, labels=True)
        return stored

    def place(self, path: Path) -> Mapping[str, Any]:
        """See `Reader.place`."""
        with decoding(path, self.kind), self._opened(path) as header:
            return {
                "shape": header.shape[:3], "affine": header.affine, "fields": header.place
            }  # fmt: skip

    def write(
        self,
        path: Path,
        plane: np.ndarray,
        *,
        spacing: tuple[float, ...],
        note: str,
        geometry: Geometry = AXIAL,
    ) -> None:
        """See `Reader.write`."""
        thickness, rows, columns = (geometry.thickness, *spacing)[-3:]
        planes = [*plane] if plane.ndim == 3 else [plane]
        volume = storable(volume_of(planes, geometry.axis))
        sides = np.insert([columns, rows], geometry.axis, thickness)
        placed = np.diag([*sides, 1.0]) if geometry.affine is None else geometry.affine
        turn = _from_canonical(nib.orientations.axcodes2ornt(geometry.codes))
        affine = placed @ nib.orientations.inv_ornt_aff(turn, volume.shape)
        turned = nib.orientations.apply_orientation(volume, turn)
        self._save(path, turned, affine, note, None)

    def write_painted(
        self, path: Path, planes: Sequence[np.ndarray], *, place: Mapping[str, Any], axis: int
    ) -> None:
        """See `Reader.write_painted`."""
        affine = np.array(place["affine"])
        # Undo the reorientation to the closest canonical orientation: software that ignores the
        # affine must find the voxels where the acquired ones are.
        turn = _from_canonical(nib.orientations.io_orientation(affine))
        volume = nib.orientations.apply_orientation(storable(volume_of(planes, axis)), turn)
        self._save(path, volume.reshape(place["shape"]), affine, NOT_ACQUIRED, place["fields"])

    def _read(self, path: Path, most: int, *, labels: bool = False) -> list[Stored]:
        """Reads voxels (right, anterior, superior) of each modality, and their affine."""
        with decoding(path, self.kind), self._opened(path) as header:
            _check(path, header, MAX_VOXELS if labels else most)
            limits.allow(path, A_VOXEL * int(np.prod(header.shape, dtype=object)))
            values = header.read()
            if labels and len(header.shape) == 4 and header.shape[3] > 1:
                raise _several_labels(path, values)
            spatial = (*header.shape, 1)[:3]
            painted = header.note.startswith(NOT_ACQUIRED)
            return [
                _turned(volume, header.affine, painted, header.note.strip(" \0"))
                for volume in np.moveaxis(values.reshape((*spatial, -1)), -1, 0)
            ]


def _from_canonical(stored: np.ndarray) -> np.ndarray:
    """The turn of an array (right, anterior, superior) to a stored orientation (3, 2)."""
    return nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), stored)


def _check(path: Path, header: Header, most: int) -> None:
    """Checks shape and type before any voxel is decoded.

    Raises:
        DataFileError, ValueError: they are none of an image, or too large.
    """
    shape = header.shape
    if wrong := _wrong_affine(header.affine):
        remedy = "Export it again from what it was made of."
        raise DataFileError(path, f"has {wrong} in its header", remedy)
    if min(shape, default=0) < 1 or int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise DataFileError(
            path,
            f"claims the shape {shape}, outside 1 to {MAX_VOXELS} voxels",
            "Cut it into smaller volumes.",
        )
    modalities = int(np.prod(shape[3:], dtype=object))
    if len(shape) < 2 or modalities > (most if len(shape) == 4 else 1):
        more = f", or name {modalities} channels in dataset.json" if len(shape) == 4 else ""
        raise DataFileError(
            path,
            f"has the shape {shape}, where a volume was expected",
            f"Store one file a modality and time point{more}.",
        )
    if header.dtype.kind not in "iuf":
        raise DataFileError(
            path,
            f"holds values of kind {header.dtype}",
            "Store one whole or floating-point number a voxel.",
        )


def _wrong_affine(affine: np.ndarray) -> str:
    """What is wrong with an affine that places no voxels; empty: it does."""
    if not np.isfinite(affine).all():
        return "an affine that is not finite"
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    if not sides.min() > 0 or abs(np.linalg.det(affine[:3, :3] / sides)) < FLAT:
        return "a singular affine (two of its axes point the same way, or one has no length)"
    return ""


def _several_labels(path: Path, values: np.ndarray) -> DataFileError:
    """The fault of a mask of several numbers a voxel, which may be one 0 or 1 for each label."""
    channels = values.shape[3]
    if not np.isin(values, (0, 1)).all() or values.sum(-1).max() > 1:
        reason = f"is a mask with {channels} numbers a voxel"
        return DataFileError(path, reason, "Store one label a voxel.")
    remedy = "Make a label map of it: 0 where no channel is 1, and else the number of the channel."
    reason = f"looks like a one-hot mask: it holds {channels} numbers a voxel, of which one is 1"
    return DataFileError(path, reason, remedy)


def _turned(values: np.ndarray, affine: np.ndarray, painted: bool, called: str) -> Stored:
    # Without its type named, nibabel refuses 64-bit integers.
    volume = nib.Nifti1Image(values, affine, dtype=values.dtype)
    turned = nib.as_closest_canonical(volume)
    turn = nib.orientations.io_orientation(affine)
    return Stored(np.array(turned.dataobj), turned.affine, turn, painted=painted, called=called)
