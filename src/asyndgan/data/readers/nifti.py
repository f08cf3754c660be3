"""NIfTI, versions 1 and 2, plain or gzipped: a slice or a volume, with its place in space.

Volumes are reoriented to the closest canonical orientation.
"""

import gzip
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any, final

import nibabel as nib
import numpy as np

from asyndgan.data.readers.reader import (
    AXIAL,
    NOT_ACQUIRED,
    DataFileError,
    Geometry,
    Reader,
    Stored,
    decoding,
    volume_of,
)
from asyndgan.data.remedies import WITH_SPACING
from asyndgan.received import opened

MAX_VOXELS = 2**29  # twice the largest CT volumes; reading takes 18 bytes per voxel
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
class Nifti(Reader):
    """Reads slices and volumes; writes whole numbers in their type, and others in float32."""

    spaced = True
    colour = False

    def image(self, path: Path, *, most: int) -> list[Stored]:
        """See `Reader.image`."""
        return [_volume(path, labels=False)]

    def mask(self, path: Path) -> Stored:
        """See `Reader.mask`."""
        return _volume(path, labels=True)

    def painted(self, path: Path) -> bool:
        """See `Reader.painted`."""
        with decoding(path, "NIfTI"), _opened(path) as stored:
            return bytes(stored.header["descrip"]).startswith(NOT_ACQUIRED.encode())

    def write(
        self,
        path: Path,
        plane: np.ndarray,
        *,
        spacing: tuple[float, float],
        note: str,
        geometry: Geometry = AXIAL,
    ) -> None:
        """See `Reader.write`."""
        rows, columns = spacing
        volume = _storable(volume_of([plane], geometry.axis))
        sides = np.insert([columns, rows], geometry.axis, geometry.thickness)
        turn = _from_canonical(nib.orientations.axcodes2ornt(geometry.codes))
        affine = np.diag([*sides, 1.0]) @ nib.orientations.inv_ornt_aff(turn, volume.shape)
        image = nib.Nifti1Image(nib.orientations.apply_orientation(volume, turn), affine)
        image.header["descrip"] = note.encode()
        nib.save(image, path)

    def write_painted(
        self, path: Path, planes: Sequence[np.ndarray], *, like: Path, axis: int
    ) -> None:
        """See `Reader.write_painted`."""
        with _opened(like) as acquired:
            header, shape, affine = acquired.header, acquired.shape, acquired.affine
        # Undo the reorientation to the closest canonical orientation: software that ignores the
        # affine must find the voxels where the acquired ones are.
        turn = _from_canonical(nib.orientations.io_orientation(affine))
        volume = nib.orientations.apply_orientation(_storable(volume_of(planes, axis)), turn)
        image = nib.Nifti1Image(volume.reshape(shape), affine)
        for field in _PLACE:
            image.header[field] = header[field]
        image.header["descrip"] = NOT_ACQUIRED.encode()
        nib.save(image, path)


def _from_canonical(stored: np.ndarray) -> np.ndarray:
    """The turn of an array (right, anterior, superior) to a stored orientation (3, 2)."""
    return nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), stored)


def _storable(volume: np.ndarray) -> np.ndarray:
    return volume if volume.dtype.kind in "iu" else volume.astype(np.float32)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a NIfTI of one file, of bounded size before its voxels; they are read while it is open.

    Yields:
        A nibabel image.

    Raises:
        OSError, ValueError: it is none; nibabel may raise others.
        DataFileError: it has too many or too long extensions.
    """
    with opened(path, MAX_BYTES) as stored, ExitStack() as unpacked:
        file: Any = stored
        if path.name.endswith(".gz"):
            file = unpacked.enter_context(gzip.GzipFile(fileobj=stored))
        kind = _bounded(path, file)
        file.seek(0)
        _check_spacing(path, file.read(HEADER), kind)
        file.seek(0)
        with _silent():
            yield kind.from_file_map({"image": nib.FileHolder(path.name, file)})


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
    raise ValueError("it does not start like one")


def _volume(path: Path, *, labels: bool) -> Stored:
    """Reads voxels (right, anterior, superior), scaled as the header says, and their affine."""
    with decoding(path, "NIfTI", labels=labels), _opened(path) as stored:
        if not np.isfinite(stored.affine).all():
            raise ValueError("its affine is not finite")
        shape = tuple(int(side) for side in stored.shape)
        if min(shape, default=0) < 1 or int(np.prod(shape, dtype=object)) > MAX_VOXELS:
            raise DataFileError(
                path,
                f"claims the shape {shape}, outside 1 to {MAX_VOXELS} voxels",
                "Cut it into smaller volumes.",
            )
        if len(shape) < 2 or any(side > 1 for side in shape[3:]):
            raise DataFileError(
                path,
                f"has the shape {shape}, where a volume was expected",
                "Store one file a modality and time point.",
            )
        if stored.get_data_dtype().kind not in "iuf":
            raise DataFileError(
                path,
                f"holds values of kind {stored.get_data_dtype()}",
                "Store one whole or floating-point number a voxel.",
            )
        values = np.asanyarray(stored.dataobj).reshape((*shape, 1)[:3])
        # Without its type named, nibabel refuses 64-bit integers.
        volume = nib.Nifti1Image(values, stored.affine, dtype=values.dtype)
        turned = nib.as_closest_canonical(volume)
        if not nib.affines.voxel_sizes(turned.affine).min() > 0:
            raise ValueError("its affine is singular")
        turn = nib.orientations.io_orientation(stored.affine)
        return Stored(np.array(turned.dataobj), turned.affine, turn)
