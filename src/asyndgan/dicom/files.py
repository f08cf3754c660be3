"""Opens DICOM files, each of which may be hostile.

Headers are bounded before they are parsed; pixels are decoded in the process that reads images.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, final

import numpy as np

from asyndgan.errors import DataError, MissingPackageError
from asyndgan.intake import limits, reading
from asyndgan.intake.readers import DataFileError
from asyndgan.intake.readers.volumes import A_VOXEL
from asyndgan.received import opened

if TYPE_CHECKING:
    from asyndgan.dicom.series import Series

MAX_FILE: Final = 2**33

MAX_HEADER: Final = 2**25
"""Most bytes of a header that are read, with the extra cost of its elements and items."""

MAX_CONTOURS: Final = 2**27
"""The same of an RTSTRUCT, whose contours are text."""

RTSTRUCT: Final = "1.2.840.10008.5.1.4.1.1.481.3"
_DEFLATED: Final = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")
_ITEMS: Final = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # how an item begins, either byte order
_PIXELS: Final = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
)
"""What decodes the pixels. No table of offsets is read: it may lead to other frames."""


class DicomError(DataError):
    """Why a series or segmentation cannot be imported, without anything that a header says.

    `series`: whose fault it is; None if that of the whole case.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}. {remedy}")
        self.reason = reason
        self.remedy = remedy
        self.series: Series | None = None

    def of(self, series: "Series") -> Self:
        """The fault, as one of this series unless it is of another one."""
        self.series = self.series or series
        return self


class NotDicomError(Exception):
    """A file does not start as DICOM files do."""


def require_packages() -> None:
    """Raises `MissingPackageError` unless the packages of the extra `dicom` are installed."""
    if any(find_spec(name) is None for name in ("pydicom", "highdicom")):
        raise MissingPackageError("DICOM files", "pydicom or highdicom", "dicom")


@contextmanager
def silent() -> Iterator[None]:
    """Keeps back what pydicom warns of and logs: it quotes headers."""
    from pydicom import config

    logger = logging.getLogger("pydicom")
    disabled, logger.disabled = logger.disabled, True
    mode = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled
        config.settings.reading_validation_mode = mode


@final
class _Bounded:
    """A file of which only so much is read; each read and item costs, as pydicom keeps objects."""

    def __init__(self, file: BufferedReader, most: int) -> None:
        self._file, self._left = file, most
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self._left:
            raise ValueError("too long")
        content = self._file.read(size)
        self._left -= 64 + len(content) + 512 * sum(content.count(item) for item in _ITEMS)
        if self._left < 0:
            raise ValueError("too long")
        return content


@contextmanager
def _header(path: Path, tags: Sequence[str]) -> Iterator[Any]:
    """Yields the elements `tags` of a file; bounds all but pixels; pydicom raises anything."""
    from pydicom import dcmread
    from pydicom.filereader import read_dataset

    with silent(), opened(path, MAX_FILE, links=True) as stored:
        if stored.read(132)[128:] != b"DICM":
            raise NotDicomError
        file = _Bounded(stored, MAX_HEADER)
        kind: Callable[..., bool] = lambda tag, vr, length: tag.group != 2  # noqa: E731
        meta = read_dataset(file, False, True, stop_when=kind)  # type: ignore[arg-type]
        if str(meta.get("TransferSyntaxUID")) in _DEFLATED:
            raise DicomError("is deflated, so its size is unknown", "Store it uncompressed.")
        stored.seek(0)
        structures = str(meta.get("MediaStorageSOPClassUID", RTSTRUCT)) == RTSTRUCT
        pixels = "PixelData" in tags
        file = _Bounded(stored, MAX_CONTOURS if structures else MAX_HEADER)
        yield dcmread(
            stored if pixels else file, specific_tags=list(tags), stop_before_pixels=not pixels
        )


@contextmanager
def header_of(path: Path, tags: Sequence[str]) -> Iterator[Any]:
    """Yields these elements of a file, none of them pixels; parse them inside the context.

    Raises:
        NotDicomError: it is no DICOM file.
        DicomError: it cannot be read; whatever pydicom says of it is kept back.
    """
    try:
        with _header(path, tags) as dataset:
            yield dataset
    except (NotDicomError, DicomError):
        raise
    except Exception:
        _damaged()


def _damaged() -> NoReturn:
    raise DicomError(
        "cannot be read: a file is truncated, damaged or too large", "Export it again."
    ) from None


def planes_of(path: Path, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """The planes (rows, columns) of one file, integers as stored, one for each frame.

    `shape`: frames, rows and columns as its header said before; the caller has bounded them. Raises
    `DicomError` if it cannot be decoded, has no decoder here, or has changed.
    """
    try:
        for _, plane in reading.read(path, "asyndgan.dicom.files:decoded", shape=shape):
            assert plane is not None
            yield plane
    except DataFileError as fault:
        raise DicomError(fault.reason, fault.remedy) from None


def decoded(path: Path, shape: Sequence[int]) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Decodes planes of one file for `planes_of`, in the process of `asyndgan.intake.worker`."""
    try:
        limits.allow(path, A_VOXEL * math.prod(shape))
        with _header(path, _PIXELS) as dataset:
            for plane in _decoded(dataset, tuple(shape)):
                yield {}, plane
    except (DicomError, MemoryError):
        raise
    except Exception:
        _damaged()


def _decoded(dataset: Any, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    from pydicom.pixels import get_decoder, iter_pixels

    syntax = dataset.file_meta.TransferSyntaxUID
    found = (int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns))
    if found != shape or int(dataset.SamplesPerPixel) != 1 or dataset.BitsAllocated > 32:
        raise DicomError("has pixels that its header does not describe", "Export it again.")
    if syntax.is_compressed and not get_decoder(syntax).is_available:
        raise DicomError(
            f"is compressed as {syntax.name}, for which no decoder is installed",
            "Run pip install python-gdcm, or decompress it first (dcmtk: dcmdjpeg FILE NEW).",
        )
    bits, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    top = int(dataset.get("HighBit", stored - 1))
    if not stored - 1 <= top < bits or (syntax.is_compressed and top != stored - 1):
        raise DicomError("has pixels that its header does not describe", "Export it again.")
    count = 0
    # pydicom's own correction takes the lowest bits, whatever HighBit says.
    for plane in iter_pixels(dataset, raw=True, correct_unused_bits=top == stored - 1):
        count += 1
        if plane.shape != shape[1:] or count > shape[0]:
            raise ValueError("of another shape")
        # In unused bits lie overlays, or nothing that counts.
        yield (plane << (bits - 1 - top)) >> (bits - stored) if stored < bits else plane
    if count != shape[0]:
        raise ValueError("of other frames")
