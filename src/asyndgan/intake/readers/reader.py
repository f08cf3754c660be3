"""The seam that each file format implements, and what all formats share."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from asyndgan.errors import DataError
from asyndgan.intake.sniffing import mistaken
from asyndgan.lazy import Late
from asyndgan.received import UnreadableError
from asyndgan.texts import printable

nib: Any = Late("nibabel")  # half a second that pictures need not

NOT_ACQUIRED: Final = "synthetic: painted by asyndgan, not acquired"
"""Note in the header of a painted file; NIfTI allows 80 bytes."""


class DataFileError(DataError):
    """A `DataError` about one file or folder.

    Attributes:
        file: the file or folder at fault.
        reason: what is wrong, without a full stop.
        remedy: what to do, as a full sentence.
    """

    def __init__(self, file: Path, reason: str, remedy: str) -> None:
        # A name may hold bytes that are no text, which nothing could print or record.
        super().__init__(printable(f"{file}: {reason}. {remedy}"))
        self.file = file
        self.reason = reason
        self.remedy = remedy


@final
@dataclass(frozen=True)
class Stored:
    """The array of one file.

    Attributes:
        values: intensities or labels, (rows, columns) of a picture, or (right, anterior, superior)
            of a volume.
        affine: (4, 4), from voxel indices to millimetres; None for pictures, and for stacks of
            pictures that do not say how far apart they lie.
        turn: nibabel's orientation (3, 2) by which the file's axes were turned, with `affine`.
        pixel: millimetres between rows and between columns of a picture, where its file says so.
    """

    values: np.ndarray = field(repr=False)
    affine: np.ndarray | None = field(default=None, repr=False)
    turn: np.ndarray | None = field(default=None, repr=False)
    pixel: tuple[float, float] | None = None

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
    """How a slice lies in a file, in a format that says so.

    Attributes:
        axis: axis of a volume (right, anterior, superior) along which the slice was cut.
        thickness: millimetres from slice to slice.
        codes: directions of the stored array's axes, as nibabel names them.
    """

    axis: int = 2
    thickness: float = 1.0
    codes: tuple[str, ...] = ("R", "A", "S")


AXIAL: Final = Geometry()


class Reader(ABC):
    """Reads and writes the files of one format.

    A file may be hostile. Its size is bounded before anything is decoded, and whatever a decoder
    raises becomes a `DataFileError` (see `decoding`).
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

    @abstractmethod
    def image(self, path: Path, *, most: int) -> list[Stored]:
        """Reads the intensities of one file, one array a modality, of any number type.

        Args:
            path: the file.
            most: how many modalities the file may hold.

        Raises:
            DataFileError: the file cannot be read, is too large, or holds more modalities.
        """

    @abstractmethod
    def mask(self, path: Path) -> Stored:
        """Reads the labels of one file, of any number type.

        Raises:
            DataFileError: the file cannot be read, is too large, or is no mask.
        """

    @abstractmethod
    def painted(self, path: Path) -> bool:
        """Whether a file's header says that the file was painted by a generator.

        Raises:
            DataFileError: the file cannot be read or is too large.
        """

    @abstractmethod
    def write(
        self,
        path: Path,
        plane: np.ndarray,
        *,
        spacing: tuple[float, float],
        note: str,
        geometry: Geometry = AXIAL,
    ) -> None:
        """Writes one slice; equal slices give equal bytes.

        Args:
            path: the new file.
            plane: (rows, columns), and (rows, columns, 3) if `colour`; uint8 labels, intensities
                in whole numbers, stored in their type as far as the format has it, or others.
            spacing: millimetres between rows and between columns.
            note: for the header, empty for none; `painted` has to find `NOT_ACQUIRED`.
            geometry: how the slice lies; lost where `spaced` is false.

        Raises:
            DataFileError: the format cannot store these values.
            OSError: the file cannot be written.
        """

    @abstractmethod
    def write_painted(
        self, path: Path, planes: Sequence[np.ndarray], *, like: Path, axis: int
    ) -> None:
        """Writes painted slices on the grid of an acquired file, with the note `NOT_ACQUIRED`.

        Args:
            path: the new file.
            planes: all slices of the file, each as in `write`.
            like: the acquired file, of this format.
            axis: axis of the volume along which it was cut (see `plane_of`).

        Raises:
            DataFileError, OSError: as `write`.
        """


@contextmanager
def decoding(path: Path, kind: str, *, labels: bool = False, most: int = 1) -> Iterator[None]:
    """Turns whatever a decoder raises into a `DataFileError`.

    Args:
        path: the file, or the folder.
        kind: what it was expected to be: `Reader.kind`, or a folder.
        labels: whether it was to be a mask.
        most: how many modalities it may hold.

    Raises:
        DataFileError: something was raised. If the file holds something else, the error names it.
    """
    try:
        # What decoders warn of names no file; what matters is checked.
        with warnings.catch_warnings(action="ignore"):
            yield
    except DataError:
        raise
    except Exception as error:
        if found := mistaken(path, kind, labels=labels, most=most):
            raise DataFileError(path, *found) from error
        reason = "damaged, or of a kind that is not read"  # what a decoder says may quote the file
        if isinstance(error, UnreadableError):
            reason = str(error)
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        remedy = "It may be truncated or damaged: copy it again from where it came."
        if isinstance(error, PermissionError):
            remedy = "Give yourself the right to read it."
        raise DataFileError(path, f"cannot be read as {kind} ({reason})", remedy) from error


def storable(values: np.ndarray) -> np.ndarray:
    """Whole numbers in their type, others as float32."""
    return values if values.dtype.kind in "iu" else values.astype(np.float32)


def plane_of(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """One slice as a radiologist views it: both in-plane axes reversed, then transposed."""
    return np.ascontiguousarray(np.flip(volume.take(index, axis)).T)


def volume_of(planes: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """The volume whose slices along `axis` these are: the inverse of `plane_of`."""
    return np.stack([np.flip(plane.T) for plane in planes], axis=axis)
