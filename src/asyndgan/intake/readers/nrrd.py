"""NRRD, versions 1 to 5, in one file: a slice or a volume, with its place in space.

Axes are turned to RAS and then to the closest canonical orientation. The format is specified at
https://teem.sourceforge.net/nrrd/format.html. Only text is parsed here: pynrrd unpacks without
bound, follows a header to other files, and writes the time into each file.
"""

import gzip
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from asyndgan.intake.readers.headed import MAX_FIELD, MAX_HEADER, fields_of, numbers, unpacked
from asyndgan.intake.readers.reader import DataFileError
from asyndgan.intake.readers.volumes import MAX_VOXELS, TO_RAS, Header, Volumes
from asyndgan.received import UnreadableError, opened

_ONE: Final = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int"), "i2"),
    **dict.fromkeys(("int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int"), "u2"),
    **dict.fromkeys(("uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("signed long long", "signed long long int"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int"), "u8"),
    **dict.fromkeys(("uint64", "uint64_t"), "u8"),
    **{"float": "f4", "double": "f8"},
}
"""NRRD's names of types to numpy's."""

_SPACES: Final = {
    **dict.fromkeys(("right-anterior-superior", "ras"), np.eye(4)),
    **dict.fromkeys(("left-anterior-superior", "las"), np.diag([-1.0, 1.0, 1.0, 1.0])),
    **dict.fromkeys(("left-posterior-superior", "lps", ""), TO_RAS),
}
"""NRRD's names of spaces to what turns them to RAS; without a name it is LPS, as ITK takes it."""

_PACKED: Final = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}
_CHANNELS: Final = ("vector", "list", "rgb-color", "point", "2-vector", "3-vector", "4-vector")
_PLACE: Final = ("space", "space directions", "space origin", "spacings", "space units")


@final
class Nrrd(Volumes):
    """Reads slices and volumes; writes whole numbers in their type, and others in float32."""

    kind = "NRRD"

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Header]:
        with opened(path, MAX_HEADER + 16 * MAX_VOXELS) as file:
            head = file.read(MAX_HEADER)
            if not re.match(rb"NRRD000[1-5]\r?\n", head):
                raise UnreadableError("it does not start like one")
            end = re.search(rb"\r?\n\r?\n", head)
            fields = fields_of(head[: end.start() if end else None].decode("latin1"), ":")
            if "data file" in fields or "datafile" in fields:
                raise DataFileError(
                    path,
                    "is a header without voxels: they lie in another file",
                    "Store both in one (pynrrd: write('NEW.nrrd', *read('FILE'))).",
                )
            if not end:
                raise UnreadableError("its header does not end")
            packing = _PACKED.get(fields.get("encoding", "").lower())
            skipped = {*fields} & {"line skip", "lineskip", "byte skip", "byteskip"}
            if not packing or any(fields[key] != "0" for key in skipped):
                raise DataFileError(
                    path,
                    "stores its voxels as text, by bzip2, or behind something else",
                    "Store them raw or gzipped.",
                )
            dtype = _type(fields)
            sizes = [int(size) for size in numbers(fields, "sizes", int)]
            if len(sizes) != int(fields.get("dimension", "0")):
                raise UnreadableError("its dimension is not the number of its sizes")
            affine, channels = _affine(fields, len(sizes))

            def read() -> np.ndarray:
                values = unpacked(file, end.end(), sizes, dtype, packing)
                return values if channels is None else np.moveaxis(values, channels, -1)

            shape, place = list(sizes), {key: fields[key] for key in _PLACE if key in fields}
            if channels is not None:
                shape.append(shape.pop(channels))
                place = {}  # it names the axis of the modalities too
            yield Header(tuple(shape), dtype, affine, fields.get("content", ""), read, place)

    def _save(
        self, path: Path, voxels: np.ndarray, affine: np.ndarray, note: str, place: Any
    ) -> None:
        count = voxels.ndim
        fields = {
            "content": note,
            "type": next(name for name in _ONE if _ONE[name] == voxels.dtype.str[1:]),
            "dimension": str(count),
            "sizes": " ".join(map(str, voxels.shape)),
            "encoding": "gzip",
            "endian": "little",
            **(place or _placed(affine)),
        }
        text = "".join(f"{key}: {value}\n" for key, value in fields.items() if value)
        content = voxels.astype(voxels.dtype.newbyteorder("<")).tobytes(order="F")
        head = f"NRRD0005\n{text}\n".encode("latin1")
        path.write_bytes(head + gzip.compress(content, mtime=0))


def _type(fields: Mapping[str, str]) -> np.dtype:
    name = _ONE.get(fields.get("type", "").lower())
    if name is None:
        raise UnreadableError("its type is none of a number")
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower())
    if order is None and not name.endswith("1"):
        raise UnreadableError("its header does not say in which order its bytes are (endian)")
    return np.dtype((order or "<") + name)


def _affine(fields: Mapping[str, str], count: int) -> tuple[np.ndarray, int | None]:
    """The affine to RAS of `count` axes, and which of them is of modalities (None: none)."""
    space = _SPACES.get(fields.get("space", "").lower())
    units = {*fields.get("space units", "").replace('"', "").split()}
    if space is None or units - {"mm"}:
        raise UnreadableError("its space is none of RAS, LAS and LPS in millimetres")
    kinds = fields.get("kinds", "").lower().split()
    channel = [axis for axis, kind in enumerate(kinds) if kind in _CHANNELS]
    rows = _vectors(fields, "space directions")
    channel = channel or [axis for axis, row in enumerate(rows) if not row]
    spatial = [axis for axis in range(count) if axis not in channel]
    if not 2 <= len(spatial) <= 3 or len(channel) > 1 or (rows and len(rows) != count):
        raise UnreadableError("it has not two or three axes of space, and at most one more")
    spacings = numbers(fields, "spacings") or [1.0] * count
    affine = np.eye(4)
    for place, axis in enumerate(spatial):
        row = rows[axis] if rows else list(np.eye(3)[place] * spacings[axis])
        affine[: len(row), place] = row
    if rows and len(spatial) == 2:  # across the slice, which has no thickness
        across = np.cross(affine[:3, 0], affine[:3, 1])
        affine[:3, 2] = across / np.linalg.norm(across)
    for origin in _vectors(fields, "space origin")[:1]:
        affine[: len(origin), 3] = origin
    return space @ affine, channel[0] if channel else None


def _vectors(fields: Mapping[str, str], key: str) -> list[list[float]]:
    """Vectors as in `(1,0,0) none (0,0,1)`; empty lists for `none`."""
    found = re.findall(r"none|\(([^()]*)\)", fields.get(key, "")[:MAX_FIELD])
    vectors = [[float(number) for number in one.split(",")] if one else [] for one in found]
    if any(len(vector) > 3 for vector in vectors):
        raise UnreadableError("its vectors have more than three numbers")
    return vectors


def _placed(affine: np.ndarray) -> dict[str, str]:
    lps = TO_RAS @ affine
    columns = ["(" + ",".join(repr(float(mm)) for mm in column) + ")" for column in lps[:3].T]
    return {
        "space": "left-posterior-superior",
        "space directions": " ".join(columns[:3]),
        "space origin": columns[3],
    }
