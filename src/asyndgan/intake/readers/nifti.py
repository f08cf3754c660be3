"""NIfTI, versions 1 and 2, plain or gzipped: a slice or a volume, with its place in space.

Volumes are reoriented to the closest canonical orientation.
"""

import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any, final

import numpy as np

from asyndgan.intake.readers.reader import DataFileError
from asyndgan.intake.readers.volumes import MAX_RATIO, MAX_VOXELS, Header, Volumes, check_length
from asyndgan.intake.remedies import WITH_SPACING
from asyndgan.lazy import Late
from asyndgan.received import UnreadableError, gunzipped, opened

nib: Any = Late("nibabel")  # half a second that pictures need not

MAX_START = 2**24  # bytes of header and extensions before the voxels
MAX_EXTENSIONS = 64  # nibabel takes 20 us and an object for each
HEADER = 544  # bytes: of version 2, and the first four of its extensions
MAX_BYTES = MAX_START + 16 * MAX_VOXELS

_PLACE = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code"),
    *(f"quatern_{axis}" for axis in "bcd"),
    *(f"qoffset_{axis}" for axis in "xyz"),
    *(f"srow_{axis}" for axis in "xyz"),
)
"""Fields of a NIfTI header that say where its voxels lie, by either of its two transforms."""


@final
class Nifti(Volumes):
    """Reads slices and volumes; writes whole numbers in their type, and others in float32."""

    kind = "NIfTI"

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Header]:
        with opened(path, MAX_BYTES) as stored, ExitStack() as unpacked:
            file: Any = stored
            if path.name.endswith(".gz"):
                file = unpacked.enter_context(gunzipped(stored))
            kind = _bounded(path, file)
            file.seek(0)
            _check_spacing(path, file.read(HEADER), kind)
            file.seek(0)
            with _silent():
                image = kind.from_file_map({"image": nib.FileHolder(path.name, file)})

                def read() -> np.ndarray:
                    packed = MAX_RATIO if file is not stored else 1
                    check_length(stored, image.shape, image.get_data_dtype(), packed)
                    return np.asanyarray(image.dataobj)

                yield Header(
                    tuple(int(side) for side in image.shape),
                    image.get_data_dtype(),
                    image.affine,
                    bytes(image.header["descrip"]).decode("latin1"),
                    read,
                    image.header,
                )

    def _save(
        self, path: Path, voxels: np.ndarray, affine: np.ndarray, note: str, place: Any
    ) -> None:
        image = nib.Nifti1Image(voxels, affine)
        for field in _PLACE if place is not None else ():
            image.header[field] = place[field]
        image.header["descrip"] = note.encode()
        nib.save(image, path)


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps back what nibabel logs of a header: its lines do not name the file."""
    logger = nib.imageglobals.logger
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


def _check_spacing(path: Path, head: bytes, kind: Any) -> None:
    """Refuses a header whose voxels are 0 mm apart, where its affine is made from those numbers.

    Raises:
        DataFileError: along an axis of more than one voxel the spacing is 0; nibabel takes 1.
    """
    header = kind.header_class(head[: kind.header_class.template_dtype.itemsize], check=False)
    if header["sform_code"] > 0:
        return
    spacing = header["pixdim"][1:4]
    if any(
        size > 1 and mm == 0 for size, mm in zip(header.get_data_shape(), spacing, strict=False)
    ):
        raise DataFileError(
            path,
            f"says that its voxels are {' x '.join(f'{mm:g}' for mm in spacing)} mm apart (pixdim)",
            WITH_SPACING,
        )


def _bounded(path: Path, file: BufferedIOBase) -> Any:
    """Returns nibabel's class of a NIfTI, whose extensions it would read before anything else.

    Version and byte order must be the same wherever the header tells them, since nibabel may go by
    another place than this function.
    """
    head = file.read(HEADER)
    for order in "<>":
        (size,) = struct.unpack_from(f"{order}i", head)
        kind: Any = nib.Nifti1Image
        if size == 348 and head[344:348] == b"n+1\0":
            (sides,), (start,) = (
                struct.unpack_from(f"{order}{code}", head, place)
                for code, place in (("h", 40), ("f", 108))
            )
        elif size == 540 and head[4:12] == b"n+2\0\r\n\x1a\n":
            kind = nib.Nifti2Image
            sides, start = (struct.unpack_from(f"{order}q", head, place)[0] for place in (16, 168))
        else:
            continue
        if not 1 <= sides <= 7:
            break
        extended = head[size : size + 1] not in (b"", b"\0")
        if 0 <= start <= MAX_START and not extended:
            return kind
        place, count = size + 4, 0
        while extended and place < start <= MAX_START and count < MAX_EXTENSIONS:
            file.seek(place)
            (length,) = struct.unpack(f"{order}i", file.read(4))
            if not 8 <= length <= start - place:
                break
            place, count = place + length, count + 1
        if extended and place >= start >= size + 4:
            return kind
        raise DataFileError(
            path,
            f"has extensions or a header of more than {MAX_START} bytes before its "
            f"voxels, more than {MAX_EXTENSIONS} extensions, or one of no sensible length",
            "Store it without extensions.",
        )
    raise UnreadableError("it does not start like one")
