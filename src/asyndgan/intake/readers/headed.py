"""Voxels behind a header of text in the same file, as NRRD and MetaImage store them."""

import zlib
from collections.abc import Mapping, Sequence
from io import BufferedIOBase
from typing import Final

import numpy as np

from asyndgan.intake.readers.volumes import MAX_RATIO, check_length
from asyndgan.received import UnreadableError, gunzipped

MAX_HEADER: Final = 2**20  # bytes; segmentations of 3D Slicer take some hundred for each segment
MAX_LINES: Final = 2**12
MAX_FIELD: Final = 2**12  # letters of a value that is parsed


def fields_of(text: str, separator: str) -> dict[str, str]:
    """The lines `key separator value` of a header, keys in small letters; comments are left out.

    Raises:
        ValueError: there are too many lines, or a key stands twice.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) > MAX_LINES:
        raise UnreadableError(f"its header has more than {MAX_LINES} lines")
    fields: dict[str, str] = {}
    for line in lines:
        key, found, value = line.partition(separator)
        key = key.strip().lower()
        if key in fields:
            raise UnreadableError("its header names one field twice")
        if found:
            fields[key] = value.lstrip("=").strip()
    return fields


def numbers(fields: Mapping[str, str], key: str, kind: type = float) -> list[float]:
    """The numbers in a field of a header; an empty list if there is none.

    Raises:
        ValueError: it holds something else.
    """
    value = fields.get(key, "")
    try:
        return [kind(word) for word in value[:MAX_FIELD].split()]
    except ValueError:
        raise UnreadableError(f"its header gives no numbers as {key}") from None


def unpacked(
    file: BufferedIOBase, start: int, shape: Sequence[int], dtype: np.dtype, packing: str
) -> np.ndarray:
    """Decodes voxels, the first axis fastest.

    Args:
        file: the file.
        start: where its voxels start.
        shape: number of voxels along each axis; bounded.
        dtype: type of a voxel.
        packing: "raw", "gzip" or "zlib".

    Raises:
        OSError, ValueError: it is damaged, or its voxels are others than its header says.
    """
    check_length(file, shape, dtype, 1 if packing == "raw" else MAX_RATIO)
    size = int(np.prod(shape)) * dtype.itemsize
    file.seek(start)
    if packing == "gzip":
        with gunzipped(file) as stream:
            content = stream.read(size + 1)
    elif packing == "zlib":
        content = zlib.decompressobj().decompress(file.read(), size + 1)
    else:
        content = file.read(size + 1)
    if len(content) < size:
        raise UnreadableError("it is shorter than its header says")
    if len(content) > size:
        raise UnreadableError("it holds more voxels than its header says")
    return np.frombuffer(content, dtype).reshape(tuple(shape), order="F")
