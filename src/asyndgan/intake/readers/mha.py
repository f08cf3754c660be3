"""MetaImage in one file (.mha): a slice or a volume, with its place in space.

Axes are turned from LPS, which ITK stores, to RAS and then to the closest canonical orientation.
The format is specified at https://itk.org/Wiki/ITK/MetaIO/Documentation. SimpleITK would follow a
header to other files, and takes damaged voxels for good ones.
"""

import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from asyndgan.intake.readers.reader import DataFileError
from asyndgan.intake.readers.volumes import TO_RAS, Header, Volumes
from asyndgan.received import UnreadableError, opened

_TYPES: Final = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"},
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
    **{"MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"},
}
"""MetaImage's names of types to numpy's; MET_LONG has another size on each system."""

_MAX_HEADER: Final = 2**20  # bytes
_TURN: Final = ("transformmatrix", "rotation", "orientation")
_ORIGIN: Final = ("offset", "position", "origin")
_SPACING: Final = ("elementspacing", "elementsize")
"""Fields that say where the voxels lie, each by all of its names."""


@final
class Mha(Volumes):
    """Reads slices and volumes; writes whole numbers in their type, and others in float32."""

    kind = "MetaImage"

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Header]:
        with opened(path, links=True) as file:
            head = file.read(_MAX_HEADER)
            last = re.search(rb"(?:^|\n)ElementDataFile *= *([^\r\n]*)\r?\n", head)
            if not last or not head.lstrip().startswith((b"ObjectType", b"NDims", b"Comment")):
                raise UnreadableError("it does not start like one")
            fields = _fields(head[: last.start()].decode("latin1"))
            if last[1].strip() != b"LOCAL":
                raise DataFileError(
                    path,
                    "is a header without voxels: they lie in another file",
                    "Store both in one (SimpleITK: WriteImage(ReadImage('FILE'), 'NEW.mha')).",
                )
            if fields.get("binarydata", "true").lower() != "true" or int(
                fields.get("headersize", "0")
            ):
                raise UnreadableError("its voxels are stored as text, or behind another header")
            dtype = _type(fields)
            sizes = list(map(int, fields["dimsize"].split()))
            count = len(sizes)
            if count not in (2, 3) or count != int(fields.get("ndims", "0")):
                raise UnreadableError("it is no volume of two or three axes")
            numbers = int(fields.get("elementnumberofchannels", "1"))
            packed = fields.get("compresseddata", "false").lower() == "true"

            def read() -> np.ndarray:
                size = int(np.prod(sizes)) * dtype.itemsize
                file.seek(last.end())
                content = file.read() if packed else file.read(size + 1)
                if packed:
                    content = zlib.decompressobj().decompress(content, size + 1)
                if len(content) != size:
                    more = "holds more voxels" if len(content) > size else "is shorter"
                    raise UnreadableError(f"it {more} than its header says")
                return np.frombuffer(content, dtype).reshape(sizes, order="F")

            note = fields.get("comment", "")
            affine = _affine(fields, count)
            yield Header(tuple(sizes), dtype, affine, note, read, numbers=numbers)

    def _save(
        self, path: Path, voxels: np.ndarray, affine: np.ndarray, note: str, place: Any
    ) -> None:
        count = voxels.ndim
        lps = TO_RAS @ affine
        spacing = np.linalg.norm(lps[:count, :count], axis=0)
        content = voxels.astype(voxels.dtype.newbyteorder("<")).tobytes(order="F")
        packed = zlib.compress(content)
        fields = {
            "ObjectType": "Image",
            "NDims": count,
            "Comment": note,
            "BinaryData": True,
            "BinaryDataByteOrderMSB": False,
            "CompressedData": True,
            "CompressedDataSize": len(packed),
            "TransformMatrix": _text((lps[:count, :count] / spacing).T.ravel()),
            "Offset": _text(lps[:count, 3]),
            "ElementSpacing": _text(spacing),
            "DimSize": " ".join(map(str, voxels.shape)),
            "ElementType": next(met for met in _TYPES if _TYPES[met] == voxels.dtype.str[1:]),
            "ElementDataFile": "LOCAL",
        }
        text = "".join(f"{key} = {value}\n" for key, value in fields.items() if value != "")
        path.write_bytes(text.encode("latin1") + packed)


def _fields(text: str) -> dict[str, str]:
    """The lines `key = value` of a header, keys in small letters."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if fields.setdefault(key.strip().lower(), value.strip()) != value.strip():
            raise UnreadableError("its header names one field twice")
    return fields


def _text(values: np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in values)


def _type(fields: Mapping[str, str]) -> np.dtype:
    name = _TYPES.get(fields.get("elementtype", "").upper().removesuffix("_ARRAY"))
    if name is None:
        raise UnreadableError("its ElementType is none of a number")
    orders = (fields.get(key, "") for key in ("binarydatabyteordermsb", "elementbyteordermsb"))
    return np.dtype((">" if "true" in map(str.lower, orders) else "<") + name)


def _affine(fields: Mapping[str, str], count: int) -> np.ndarray:
    """The affine to RAS of `count` axes."""
    affine = np.eye(4)
    turn = _first(fields, _TURN, [float(one) for one in np.eye(count).ravel()])
    affine[:count, :count] = turn.reshape(count, count).T * _first(fields, _SPACING, [1.0] * count)
    affine[:count, 3] = _first(fields, _ORIGIN, [0.0] * count)
    return TO_RAS @ affine


def _first(fields: Mapping[str, str], keys: tuple[str, ...], default: list[float]) -> np.ndarray:
    found = next((fields[key].split() for key in keys if fields.get(key)), default)
    return np.array([float(number) for number in found])
