"""What a compressed frame claims to hold, and would cost, read before a decoder allocates it."""

import struct
from collections.abc import Collection, Sequence
from math import ceil
from typing import Final, final

from asyndgan.intake.readers.jpeg import check_scans

_SIZES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
"""Markers of JPEG and JPEG-LS after which precision, rows, columns and components follow."""
_ALONE: Final = (0x01, *range(0xD0, 0xD9))
"""Markers without a length."""
_SCAN: Final = 0xDA
_EXTENSION, _OTHER_SIZE = 0xF8, 4
"""Marker of JPEG-LS's extensions, and the kind of them that holds rows and columns anew."""

LEAST_TILE: Final = 32
"""Least rows and columns of a tile of JPEG 2000, unless the image is smaller: each tile costs."""
MOST_BLOCKS: Final = 2**20
"""Most precincts and code-blocks of a frame of JPEG 2000: each takes some hundred bytes."""
MOST_PACKETS: Final = 2**21
"""Most packets of a frame of JPEG 2000: one for each precinct and layer, even if it is empty."""
_SIZ, _COD, _SOT, _SOD, _END = (b"\xff\x51", b"\xff\x52", b"\xff\x90", b"\xff\x93", b"\xff\xd9")
_IN_MAIN: Final = frozenset(b"\xff" + bytes([each]) for each in (0x55, 0x57, 0x63))
_IN_BOTH: Final = frozenset(b"\xff" + bytes([each]) for each in (0x58, 0x5C, 0x5D, 0x5E, 0x64))
"""Markers of JPEG 2000 that change no number of blocks: lengths, quantisation, comments."""


def check_frame(frame: bytes, rows: int, columns: int) -> None:
    """Checks that a frame of JPEG, JPEG-LS or JPEG 2000 holds one grey picture of this size.

    Raises:
        ValueError, IndexError, struct.error: it holds another one, would take its decoder far more
            than a picture of this size, or its header is damaged.
    """
    if frame[:2] == b"\xff\xd8":
        claimed = _jpeg(frame)
        check_scans(frame, rows * columns)
    else:
        stream = _Codestream(frame[_codestream(frame) :])
        claimed = stream.size
        stream.check()
    if claimed != (rows, columns, 1):
        raise ValueError("of another shape")


def _jpeg(frame: bytes) -> tuple[int, int, int]:
    """Rows, columns and components of JPEG or JPEG-LS."""
    place, found = 2, []
    while (marker := frame[place + 1]) != _SCAN:
        if frame[place] != 0xFF or (marker == _EXTENSION and frame[place + 4] == _OTHER_SIZE):
            raise ValueError("no marker, or one that decoders take in different ways")
        if marker in _SIZES:
            found.append(struct.unpack(">HHB", frame[place + 5 : place + 10]))
        if marker == 0xFF:  # any number of them may precede a marker
            place += 1
        else:
            place += 2 if marker in _ALONE else 2 + int.from_bytes(frame[place + 2 : place + 4])
    ((rows, columns, parts),) = found
    return rows, columns, parts


def _codestream(frame: bytes) -> int:
    """Where the codestream of JPEG 2000 begins, bare or in the boxes of a JP2 file."""
    place = 0
    if frame[:2] == b"\xff\x4f":
        return place
    while place + 8 <= len(frame):
        length, kind = struct.unpack(">I4s", frame[place : place + 8])
        if kind == b"jp2c":
            return place + (16 if length == 1 else 8)
        if length == 1:
            length = int.from_bytes(frame[place + 8 : place + 16])
        if length < 8:
            break
        place += length
    raise ValueError("no codestream")


@final
class _Codestream:
    """A codestream of JPEG 2000 (ITU-T T.800, annex A), whose tiles are coded alike.

    Attributes:
        size: rows, columns and components.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        marker, _, _, width, height, left, top, across, down, out, up, parts = struct.unpack(
            ">4sHH8IH", content[:42]
        )
        if marker != b"\xff\x4f" + _SIZ or not min(across, down):
            raise ValueError("no size")
        self.size = (height - top, width - left, parts)
        self._tile = (min(down, self.size[0]), min(across, self.size[1]))
        self._tiles = ceil((height - up) / down) * ceil((width - out) / across)

    def check(self) -> None:
        """Bounds the work of a decoder; raises `ValueError`."""
        sides = zip(self._tile, self.size[:2], strict=True)
        if any(tile < min(side, LEAST_TILE) for tile, side in sides):
            raise ValueError("many tiles")
        layers, precincts, blocks = self._coding()
        precincts, blocks = self._tiles * precincts, self._tiles * blocks
        if precincts + blocks > MOST_BLOCKS or precincts * layers > MOST_PACKETS:
            raise ValueError("many small blocks")

    def _coding(self) -> tuple[int, int, int]:
        """Layers, and at most how many precincts and code-blocks a tile has."""
        places = self._segments(2, _SOT, {_SIZ, _COD, *_IN_MAIN, *_IN_BOTH})
        (place,) = [each for each in places if self._content[each : each + 2] == _COD]
        self._check_tiles(places[-1])
        style, _, layers, _, levels, wide, high = struct.unpack(
            ">BBHBBBB", self._content[place + 4 : place + 12]
        )
        if levels > 32:
            raise ValueError("many levels")
        sizes = self._content[place + 14 : place + 15 + levels] if style & 1 else b""
        precincts = blocks = 0
        for level, size in enumerate(sizes or b"\xff" * (levels + 1)):
            sides = [side / 2 ** (levels - level) for side in reversed(self._tile)]
            each = (size & 15, size >> 4)
            precincts += _pieces(sides, each)
            inside = [min(e - 1, code + 2) for e, code in zip(each, (wide, high), strict=True)]
            blocks += _pieces(sides, [max(0, one) for one in inside])
        return layers, precincts, blocks

    def _check_tiles(self, place: int) -> None:
        """Checks that no part of a tile says anew how it is coded."""
        content = self._content
        while content[place : place + 2] == _SOT:
            (length,) = struct.unpack(">I", content[place + 6 : place + 10])
            self._segments(place + 12, _SOD, _IN_BOTH)
            if not length:
                return
            if length < 14:
                raise ValueError("a part of no sensible length")
            place += length
        if content[place : place + 2].strip(b"\0") not in (b"", _END):
            raise ValueError("no part of a tile")

    def _segments(self, place: int, last: bytes, known: Collection[bytes]) -> list[int]:
        """Where the markers up to `last` are."""
        places = [place]
        while (marker := self._content[place : place + 2]) != last:
            if marker not in known:
                raise ValueError("a marker that decoders take in different ways")
            place += 2 + max(2, int.from_bytes(self._content[place + 2 : place + 4]))
            places.append(place)
        return places


def _pieces(sides: Sequence[float], powers: Sequence[int]) -> int:
    """Into how many pieces, of sides of these powers of two, an area is cut at most."""
    across, down = (side / 2**power + 2 for side, power in zip(sides, powers, strict=True))
    return int(across * down)


def check_runs(frame: bytes, pixels: int) -> None:
    """Checks that no segment of an RLE frame is packed or unpacks to more than its pixels take.

    Raises:
        ValueError, struct.error: one does, or the header is damaged.
    """
    count, *starts = struct.unpack("<16I", frame[:64])
    if count > len(starts):
        raise ValueError("many segments")
    ends = [*starts[1:count], len(frame)]
    for start, end in zip(starts[:count], ends, strict=True):
        if not 64 <= start <= end <= start + 2 * pixels + 64:  # a run takes two bytes at most
            raise ValueError("segments that overlap, or of bytes that mean nothing")
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
