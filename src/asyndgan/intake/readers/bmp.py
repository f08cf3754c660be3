"""BMP: a picture of one slice, grey or RGB in 8 bits, without spacing."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Final, final

import numpy as np
from PIL import Image as Picture

from asyndgan.intake.readers.pictures import MAX_BYTES, Pictures, bounded, whole_numbers
from asyndgan.intake.readers.reader import AXIAL, NOT_ACQUIRED, DataFileError, Geometry, decoding
from asyndgan.received import UnreadableError, opened

_SIZES: Final = "<2sI4xI"  # magic, bytes of the file, where its pixels start
_SHAPE: Final = "<IiiHH"  # bytes of the second header, columns, rows (top down: negative), 1, bits
_HEAD: Final = 2**12  # bytes: both headers, a palette and a note


@final
class Bmp(Pictures):
    """Reads grey and RGB pictures; writes them in 8 bits."""

    kind = "BMP"

    def painted(self, path: Path) -> bool:
        """See `Reader.painted`."""
        with decoding(path, self.kind), self._opened(path), opened(path, MAX_BYTES) as file:
            head = file.read(_HEAD)
            return NOT_ACQUIRED.encode() in head[: struct.unpack_from(_SIZES, head)[2]]

    def write(
        self,
        path: Path,
        plane: np.ndarray,
        *,
        spacing: tuple[float, float],
        note: str,
        geometry: Geometry = AXIAL,
    ) -> None:
        """See `Reader.write`; rounds and clips to 8 bits, and the spacing is lost.

        The note lies between the headers and where they say that the pixels start.
        """
        stored = BytesIO()
        Picture.fromarray(whole_numbers(path, plane)).save(stored, format="BMP")
        content = stored.getvalue()
        magic, size, start = struct.unpack_from(_SIZES, content)
        text = note.encode() + bytes(-len(note.encode()) % 4)
        head = struct.pack(_SIZES, magic, size + len(text), start + len(text))
        path.write_bytes(head + content[len(head) : start] + text + content[start:])

    @contextmanager
    def _opened(
        self, path: Path, *, labels: bool = False, most: int = 1
    ) -> Iterator[Picture.Image]:
        with opened(path, MAX_BYTES) as file:
            head = file.read(struct.calcsize(_SIZES) + struct.calcsize(_SHAPE))
            if not head.startswith(b"BM"):
                raise UnreadableError("it does not start like one")
            size, columns, rows, _, bits = struct.unpack_from(_SHAPE, head, 14)
            if size < 40:
                raise UnreadableError("it is of OS/2, without Windows' header")
            bounded(path, columns, abs(rows), file)
            if bits not in (1, 8, 24, 32):
                raise DataFileError(
                    path, f"stores {bits} bits a pixel", "Save it with 8 bits, or 24 in colour."
                )
            file.seek(0)
            with Picture.open(file, formats=["BMP"]) as picture:
                bounded(path, *picture.size)
                yield picture
