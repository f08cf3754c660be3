"""Opens DICOM files, each of which may be hostile: bounded before it is parsed or decoded."""

import logging
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, final

import numpy as np

from asyndgan.dicom.frames import check_frame, check_runs
from asyndgan.errors import DataError, MissingPackageError
from asyndgan.received import opened

if TYPE_CHECKING:
    from asyndgan.dicom.series import Series

MAX_FILE: Final = 2**33
"""Most bytes of a file."""

MAX_HEADER: Final = 2**25
"""Most bytes of a header that are read, with the extra cost of its elements and items."""

MAX_CONTOURS: Final = 2**27
"""The same of an RTSTRUCT, whose contours are text."""

RTSTRUCT: Final = "1.2.840.10008.5.1.4.1.1.481.3"
_DEFLATED: Final = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")
_ITEMS: Final = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # how an item begins, either byte order
_FIRST: Final = {0: b"UL", 5: b"CS", 8: b"CS", 0x12: b"DA", 0x16: b"UI", 0x18: b"UI"}
"""First elements of a file without preamble, in group 2 or 8, with their VRs."""

_PIXELS: Final = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
)
"""What decodes the pixels. A table of offsets could lead to other frames than those checked."""


class DicomError(DataError):
    """Why a series or segmentation cannot be imported, without anything that a header says.

    Attributes:
        reason: what is wrong, without a full stop.
        remedy: what to do, as a full sentence.
        series: whose fault it is; None if that of the whole case.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}. {remedy}")
        self.reason = reason
        self.remedy = remedy
        self.series: Series | None = None


class NotDicomError(Exception):
    """A file does not start as DICOM files do."""


def require_packages() -> None:
    """Checks that the packages of the optional extra `dicom` are installed.

    Raises:
        MissingPackageError: one of them is not.
    """
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
def _header(path: Path, tags: Sequence[str], most: int, header: int) -> Iterator[Any]:
    """Yields the elements `tags` of a file; `header` bytes are read, 0 for those of its kind.

    Raises:
        NotDicomError: it is no DICOM file.
        Exception: pydicom and the system raise what they like.
    """
    from pydicom import dcmread
    from pydicom.filereader import read_dataset
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with silent(), opened(path, most) as stored:
        start = stored.read(132)
        if bare := start[128:] != b"DICM":
            if not _begins_bare(start):
                raise NotDicomError
            stored.seek(0)
        file = _Bounded(stored, MAX_HEADER)
        kind: Callable[..., bool] = lambda tag, vr, length: tag.group != 2  # noqa: E731
        meta = read_dataset(file, False, True, stop_when=kind)  # type: ignore[arg-type]
        if str(meta.get("TransferSyntaxUID")) in _DEFLATED:
            raise DicomError("is deflated, so its size is unknown", "Store it uncompressed.")
        stored.seek(0)
        structures = str(meta.get("MediaStorageSOPClassUID", RTSTRUCT)) == RTSTRUCT
        file = _Bounded(stored, header or (MAX_CONTOURS if structures else MAX_HEADER))
        dataset = dcmread(
            file, force=bare, specific_tags=list(tags), stop_before_pixels="PixelData" not in tags
        )
        implicit = dataset.original_encoding[0]
        plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        dataset.file_meta.setdefault("TransferSyntaxUID", plain)
        yield dataset


def _begins_bare(start: bytes) -> bool:
    """Whether a file may be DICOM without its preamble, judged by its first element."""
    group, element, kind, length = struct.unpack("<HH2sH", start[:8].ljust(8))
    usual = _FIRST.get(element)
    if group == 8 and kind != usual:  # an implicit VR, which group 2 never has
        kind, length = usual, int.from_bytes(start[4:8], "little")
    lengths = (4,) if usual == b"UL" else range(0, 1024, 2)
    return group in (2, 8) and usual is not None and kind == usual and length in lengths


@contextmanager
def header_of(path: Path, tags: Sequence[str]) -> Iterator[Any]:
    """Yields these elements of a file, none of them pixels; parse them inside the context.

    Raises:
        NotDicomError: it is no DICOM file.
        DicomError: it cannot be read; whatever pydicom says of it is kept back.
    """
    try:
        with _header(path, tags, MAX_FILE, 0) as dataset:
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
    """Decodes the planes of one file, one at a time and as stored.

    Args:
        path: the file.
        shape: frames, rows and columns as its header said before; the caller has bounded them.

    Yields:
        Integers (rows, columns) of the stored type, for each frame.

    Raises:
        DicomError: it cannot be decoded, is compressed by a method without a decoder here, or has
            changed.
    """
    most = 4 * int(np.prod(shape, dtype=object)) + MAX_HEADER
    try:
        with _header(path, _PIXELS, most, most + MAX_HEADER) as dataset:
            yield from _decoded(dataset, shape)
    except DicomError:
        raise
    except Exception:
        _damaged()


def _decoded(dataset: Any, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    from pydicom.encaps import generate_frames
    from pydicom.pixels import get_decoder, iter_pixels
    from pydicom.uid import RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    found = (int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns))
    if found != shape or int(dataset.SamplesPerPixel) != 1 or dataset.BitsAllocated > 32:
        raise DicomError("has pixels that its header does not describe", "Export it again.")
    if syntax.is_compressed and not get_decoder(syntax).is_available:
        raise DicomError(
            f"is compressed as {syntax.name}, for which no decoder is installed",
            "Run pip install python-gdcm, or decompress it first (dcmtk: dcmdjpeg FILE NEW).",
        )
    if not syntax.is_compressed and dataset["PixelData"].is_undefined_length:
        raise DicomError("is compressed, and its header does not say how", "Export it again.")
    if syntax.is_compressed:  # decoders allocate what a frame claims
        for frame in generate_frames(dataset.PixelData, number_of_frames=shape[0]):
            if syntax == RLELossless:
                check_runs(frame, shape[1] * shape[2])
            else:
                check_frame(frame, *shape[1:])
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
