"""What a compressed frame claims to hold, read before a decoder allocates it."""

import struct
from typing import Final

_SIZES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
"""Markers of JPEG and JPEG-LS after which precision, rows, columns and components follow."""
_ALONE: Final = (0x01, *range(0xD0, 0xD9))
"""Markers without a length."""
LEAST_TILE: Final = 32
"""Least rows and columns of a tile of JPEG 2000, unless the image is smaller: each tile costs."""

Claim = tuple[int, int, int]
"""Rows, columns and components."""


def claimed(frame: bytes) -> Claim | None:
    """What the header of a frame says; None if it has none of JPEG, JPEG-LS or JPEG 2000.

    Raises:
        ValueError, IndexError, struct.error: the header is damaged.
    """
    if frame[:2] == b"\xff\xd8":
        return _jpeg(frame)
    start = 0 if frame[:2] == b"\xff\x4f" else _codestream(frame)
    return None if start is None else _jpeg_2000(frame[start : start + 64])


def _jpeg(frame: bytes) -> Claim | None:
    place = 2
    while frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker in _SIZES:
            return struct.unpack(">HHB", frame[place + 5 : place + 10])
        if marker == 0xFF:  # any number of them may precede a marker
            place += 1
        else:
            place += 2 if marker in _ALONE else 2 + int.from_bytes(frame[place + 2 : place + 4])
    return None


def _codestream(frame: bytes) -> int | None:
    """Where the codestream begins in the boxes of a JP2 file; None if it is none."""
    place = 0
    while place + 8 <= len(frame):
        length, kind = struct.unpack(">I4s", frame[place : place + 8])
        if kind == b"jp2c":
            return place + (16 if length == 1 else 8)
        if length == 1:
            length = int.from_bytes(frame[place + 8 : place + 16])
        if length < 8:
            return None
        place += length
    return None


def _jpeg_2000(start: bytes) -> Claim:
    marker, _, _, width, height, left, top, across, down, *_, parts = struct.unpack(
        ">4sHH8IH", start[:42]
    )
    if marker != b"\xff\x4f\xff\x51":
        raise ValueError("no size")
    rows, columns = height - top, width - left
    if down < min(rows, LEAST_TILE) or across < min(columns, LEAST_TILE):
        raise ValueError("many tiles")
    return rows, columns, parts


def check_runs(frame: bytes, pixels: int) -> None:
    """Checks that no segment of an RLE frame unpacks to more bytes than it has pixels.

    Raises:
        ValueError, struct.error: one does, or the header is damaged.
    """
    count, *starts = struct.unpack("<16I", frame[:64])
    if count > len(starts):
        raise ValueError("many segments")
    ends = [*starts[1:count], len(frame)]
    for start, end in zip(starts[:count], ends, strict=True):
        if _unpacked(frame[start:end], pixels) > pixels + 1:  # one may pad an odd number
            raise ValueError("longer than the image")


def _unpacked(segment: bytes, most: int) -> int:
    """Bytes that the runs of a segment unpack to, counted until there are more than `most`."""
    place = length = 0
    while place < len(segment) - 1 and length <= most + 1:
        control = segment[place]
        if control < 128:
            length, place = length + control + 1, place + control + 2
        elif control > 128:
            length, place = length + 257 - control, place + 2
        else:
            place += 1
    return length
