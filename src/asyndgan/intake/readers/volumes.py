"""What the formats of volumes share: axes turned to the closest canonical orientation, and size."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from asyndgan.intake import limits
from asyndgan.intake.readers.reader import (
    NOT_ACQUIRED,
    DataFileError,
    Place,
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
ONE_EACH: Final = "Store one file a modality and time point."
FLAT: Final = 1e-6  # of a determinant of directions of length 1, below which they lie in a plane
TO_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From (left, posterior, superior), DICOM's and ITK's axes, to (right, anterior, superior)."""


@final
@dataclass(frozen=True)
class Header:
    """What the header of an open file says of its voxels."""

    # voxels along the stored axes, two or three of space; in NIfTI a fourth of modalities
    shape: tuple[int, ...]
    dtype: np.dtype  # of the stored numbers
    affine: np.ndarray  # (4, 4), from indices of the stored axes to RAS millimetres
    note: str  # text in the header
    read: Callable[[], np.ndarray]  # decodes the voxels, in `shape`; only while the file is open
    place: Any = None  # fields that say where the voxels lie, for another file of the format
    numbers: int = 1  # a voxel's, beside those of `shape`; of several nothing can be read


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

    def place(self, path: Path) -> Place:
        """See `Reader.place`."""
        with decoding(path, self.kind), self._opened(path) as header:
            shape = header.shape[:3]
            return {"shape": shape, "affine": header.affine, "fields": header.place}

    def _put(
        self, path: Path, planes: Sequence[np.ndarray], place: Place, axis: int, note: str
    ) -> None:
        volume = storable(volume_of(planes, axis))
        if geometry := place.get("geometry"):
            thickness, rows, columns = place["mm"]
            sides = np.insert([columns, rows], axis, thickness)
            placed = np.diag([*sides, 1.0]) if geometry.affine is None else geometry.affine
            turn = _from_canonical(nib.orientations.axcodes2ornt(geometry.codes))
            affine = placed @ nib.orientations.inv_ornt_aff(turn, volume.shape)
        else:
            affine = np.array(place["affine"])
            # Undo the reorientation to the closest canonical orientation: software that ignores
            # the affine must find the voxels where the acquired ones are.
            turn = _from_canonical(nib.orientations.io_orientation(affine))
        turned = nib.orientations.apply_orientation(volume, turn)
        shape = place.get("shape", turned.shape)
        self._save(path, turned.reshape(shape), affine, note, place.get("fields"))

    def _read(self, path: Path, most: int, *, labels: bool) -> list[Stored]:
        """Voxels (right, anterior, superior) of each modality: a fourth axis holds several."""
        with decoding(path, self.kind), self._opened(path) as header:
            _check(path, header, most, labels=labels)
            limits.allow(path, A_VOXEL * int(np.prod(header.shape, dtype=object)))
            values = header.read()
            spatial = (*header.shape, 1)[:3]
            painted = header.note.startswith(NOT_ACQUIRED)
            return [
                _turned(volume, header.affine, painted, header.note.strip(" \0"))
                for volume in np.moveaxis(values.reshape((*spatial, -1)), -1, 0)
            ]


def _from_canonical(stored: np.ndarray) -> np.ndarray:
    """The turn of an array (right, anterior, superior) to a stored orientation (3, 2)."""
    return nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), stored)


def _check(path: Path, header: Header, most: int, *, labels: bool) -> None:
    """Checks shape and type before voxels are decoded; raises `DataFileError` or `ValueError`."""
    shape = header.shape
    sides = np.linalg.norm(header.affine[:3, :3], axis=0)
    if not np.isfinite(header.affine).all() or not (
        sides.min() > 0 and abs(np.linalg.det(header.affine[:3, :3] / sides)) > FLAT
    ):
        reason = "has an affine in its header that is not finite, or singular"
        raise DataFileError(path, reason, "Export it again from what it was made of.")
    if min(shape, default=0) < 1 or int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        reason = f"claims the shape {shape}, outside 1 to {MAX_VOXELS} voxels"
        raise DataFileError(path, reason, "Cut it into smaller volumes.")
    modalities = int(np.prod(shape[3:], dtype=object))
    if labels and (numbers := modalities * header.numbers) > 1:
        remedy = "Make a label map of it: each voxel the number of one label."
        raise DataFileError(path, f"is a mask with {numbers} numbers a voxel", remedy)
    if header.numbers != 1:
        raise DataFileError(path, "holds several numbers a voxel", ONE_EACH)
    if len(shape) < 2 or modalities > (most if len(shape) == 4 else 1):
        reason = f"has the shape {shape}, where a volume was expected"
        more = f" Or name {modalities} channels in dataset.json." if len(shape) == 4 else ""
        raise DataFileError(path, reason, ONE_EACH + more)
    if header.dtype.kind not in "iuf":
        remedy = "Store one whole or floating-point number a voxel."
        raise DataFileError(path, f"holds values of kind {header.dtype}", remedy)


def _turned(values: np.ndarray, affine: np.ndarray, painted: bool, called: str) -> Stored:
    # Without its type named, nibabel refuses 64-bit integers.
    volume = nib.Nifti1Image(values, affine, dtype=values.dtype)
    turned = nib.as_closest_canonical(volume)
    turn = nib.orientations.io_orientation(affine)
    return Stored(np.array(turned.dataobj), turned.affine, turn, painted=painted, called=called)
