"""The seam that each file format implements, and what all formats share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np

from asyndgan.errors import DataError
from asyndgan.intake.sniffing import COPY_AGAIN, mistaken
from asyndgan.lazy import Late
from asyndgan.received import UnreadableError
from asyndgan.texts import printable

nib: Any = Late("nibabel")  # half a second that pictures need not

Place = Mapping[str, Any]
"""Where the voxels of a file lie, as its format says it, for JSON."""

NOT_ACQUIRED: Final = "synthetic: painted by asyndgan, not acquired"
"""Note in the header of a painted file; NIfTI allows 80 bytes."""


class DataFileError(DataError):
    """A `DataError` about a file or folder: a reason without a full stop, a remedy as sentences."""

    def __init__(self, file: Path, reason: str, remedy: str) -> None:
        # A name may hold bytes that are no text, which nothing could print or record.
        super().__init__(printable(f"{file}: {reason}. {remedy}"))
        self.file = file
        self.reason = reason
        self.remedy = remedy


@final
@dataclass(frozen=True)
class Stored:
    """The array of one file."""

    # intensities or labels, (rows, columns) of a picture, (right, anterior, superior) of a volume
    values: np.ndarray = field(repr=False)
    # (4, 4), from voxel indices to millimetres; None: a picture, or a stack of unknown distances
    affine: np.ndarray | None = field(default=None, repr=False)
    # nibabel's orientation (3, 2) by which the file's axes were turned, with `affine`
    turn: np.ndarray | None = field(default=None, repr=False)
    # millimetres between rows and columns of a picture, if known
    pixel: tuple[float, float] | None = None
    painted: bool = False  # whether its header says that a generator painted it
    called: str = ""  # what the file calls the channel; empty: nothing

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres per pixel along each axis; 1.0 where the file does not say."""
        if self.affine is None:
            return self.pixel or (1.0,) * self.values.ndim
        # Taken from the affine, not the header's zooms: 2-D files have no third zoom.
        return tuple(float(mm) for mm in nib.affines.voxel_sizes(self.affine))

    @property
    def orientation(self) -> str:
        """Where the file's own axes point, such as RAS or LPI; empty for pictures."""
        return "" if self.turn is None else "".join(nib.orientations.ornt2axcodes(self.turn))


@final
@dataclass(frozen=True)
class Geometry:
    """How a slice, or a volume, lies in a file, in a format that says so."""

    axis: int = 2  # of a volume (right, anterior, superior), along which the slice was cut
    thickness: float = 1.0  # millimetres from slice to slice, where a slice is alone
    codes: tuple[str, ...] = ("R", "A", "S")  # directions of the stored array's axes, by nibabel
    # (4, 4), from voxel indices (right, anterior, superior) to millimetres; None: only a spacing
    affine: np.ndarray | None = field(default=None, compare=False)

    @classmethod
    def of(cls, stored: "Stored", axis: int, index: int = 0) -> Self:
        """How a volume lies that is cut along an axis, and its slices from `index` on."""
        if stored.affine is None:
            return cls(axis)
        begin = np.eye(4)
        begin[axis, 3] = index
        codes = tuple(stored.orientation)
        return cls(axis, stored.spacing[axis], codes, stored.affine @ begin)


AXIAL: Final = Geometry()


class Reader(ABC):
    """Reads and writes the files of one format.

    A file may be hostile, so `asyndgan.intake.reading` calls what reads in a process with limits.
    Whatever a decoder raises becomes a `DataFileError` (see `decoding`).
    """

    kind: str
    """The format's name in errors; `asyndgan.intake.sniffing` knows it."""

    spaced: bool
    """Whether files are written in stored units, with how many millimetres apart pixels lie."""

    volumes: bool
    """Whether a file is a volume, and no picture."""

    colour: bool
    """Whether one file may hold three modalities, as red, green and blue."""

    lossy: bool = False
    """Whether storing changes values: then only images are read, and nothing is written."""

    def image(self, path: Path, *, most: int) -> list[Stored]:
        """Reads the intensities of one file, one array each of at most `most` modalities.

        Raises `DataFileError` if the file cannot be read, is too large, or holds more modalities.
        """
        return self._read(path, most, labels=False)

    def mask(self, path: Path) -> Stored:
        """Reads a file's labels; raises `DataFileError` if unreadable, too large or no mask."""
        (stored,) = self._read(path, 1, labels=True)
        return stored

    @abstractmethod
    def _read(self, path: Path, most: int, *, labels: bool) -> list[Stored]:
        """See `image`, or `mask` for `labels`."""

    @abstractmethod
    def place(self, path: Path) -> Place:
        """What `write_painted` needs to put another file on the grid of this one, for JSON."""

    def write(
        self,
        path: Path,
        plane: np.ndarray,
        *,
        spacing: tuple[float, ...],
        note: str,
        geometry: Geometry = AXIAL,
    ) -> None:
        """Writes one slice, or a whole volume if `volumes`; equal ones give equal bytes.

        Args:
            path: the new file.
            plane: (rows, columns), and (rows, columns, 3) if `colour`, or as `viewed`; whole
                numbers are stored in their type as far as the format has it.
            spacing: millimetres between rows and between columns; of a volume between slices, too.
            note: for the header, empty for none; `NOT_ACQUIRED` has to be found.
            geometry: how the slice lies; lost where `spaced` is false.

        Raises:
            DataFileError: the format cannot store these values.
            OSError: the file cannot be written.
        """
        planes = [*plane] if self.volumes and plane.ndim == 3 else [plane]
        place = {"mm": (geometry.thickness, *spacing)[-3:], "geometry": geometry, "stack": False}
        self._put(path, planes, place, geometry.axis, note)

    def write_painted(
        self, path: Path, planes: Sequence[np.ndarray], *, place: Place, axis: int
    ) -> None:
        """Writes all slices of a file on the `place` of an acquired one, noted `NOT_ACQUIRED`.

        `axis` is that of the volume along which it was cut (see `plane_of`); raises as `write`.
        """
        self._put(path, planes, place, axis, NOT_ACQUIRED)

    @abstractmethod
    def _put(
        self, path: Path, planes: Sequence[np.ndarray], place: Place, axis: int, note: str
    ) -> None:
        """Writes slices on a place that `write` makes, or `place` of a file."""


@contextmanager
def decoding(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever a decoder raises of a file, or folder, of a `kind` into a `DataFileError`.

    If the file holds something else, the error names it.
    """
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        if found := mistaken(path, kind):
            raise DataFileError(path, *found) from error
        reason = "damaged, or of a kind that is not read"  # what a decoder says may quote the file
        if isinstance(error, UnreadableError):
            reason = str(error)
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise DataFileError(path, f"cannot be read as {kind} ({reason})", COPY_AGAIN) from error


def storable(values: np.ndarray) -> np.ndarray:
    """Whole numbers in their type, others as float32."""
    return values if values.dtype.kind in "iu" else values.astype(np.float32)


def plane_of(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """One slice as a radiologist views it: both in-plane axes reversed, then transposed."""
    return np.ascontiguousarray(np.flip(volume.take(index, axis)).T)


def viewed(volume: np.ndarray, axis: int) -> np.ndarray:
    """A volume as its slices along an axis are viewed, (slices, rows, columns)."""
    return np.stack([plane_of(volume, axis, index) for index in range(volume.shape[axis])])


def volume_of(planes: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """The volume whose slices along `axis` these are: the inverse of `plane_of`."""
    return np.stack([np.flip(plane.T) for plane in planes], axis=axis)
