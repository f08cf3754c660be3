"""PNG: a picture of one slice, grey or RGB, without spacing."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import final

import numpy as np
from PIL import Image as Picture
from PIL.PngImagePlugin import PngInfo

from asyndgan.intake.readers.pictures import MAX_BYTES, Pictures, bounded, whole_numbers
from asyndgan.intake.readers.reader import AXIAL, DataFileError, Geometry, decoding
from asyndgan.intake.remedies import ONE_GREY_EACH, ORIGINALS, kind_of, picture_command
from asyndgan.received import UnreadableError, opened

MAX_CHUNKS = 2**16  # PIL takes 2 us and more for each; of pixels a chunk has 8 kB or more
NOTE = "synthetic"
GREY = 0  # a PNG's number for grey without transparency
_LABELS = "Save it as 8-bit grey, each pixel the number of its label."


@final
class Png(Pictures):
    """Reads grey and RGB pictures; writes them in 8 bits, and deep painted grey ones in 16."""

    kind = "PNG"

    def painted(self, path: Path) -> bool:
        """See `Reader.painted`."""
        with decoding(path, "PNG"), self._opened(path) as picture:
            return NOTE in picture.info

    def write(
        self,
        path: Path,
        plane: np.ndarray,
        *,
        spacing: tuple[float, float],
        note: str,
        geometry: Geometry = AXIAL,
    ) -> None:
        """See `Reader.write`; rounds and clips to 8 bits, 16 where a painted grey plane needs it.

        The spacing is lost.
        """
        deep = plane.dtype == np.uint16
        deep = deep or (bool(note) and plane.ndim == 2 and float(plane.max()) > 255)
        about = PngInfo()
        if note:
            about.add_text(NOTE, note)
        picture = Picture.fromarray(whole_numbers(path, plane, 65535 if deep else 255))
        picture.save(path, format="PNG", compress_level=6, pnginfo=about)

    @contextmanager
    def _opened(
        self, path: Path, *, labels: bool = False, most: int = 1
    ) -> Iterator[Picture.Image]:
        with opened(path, MAX_BYTES) as file:
            # The size is at a fixed offset; PIL itself would only warn, and only at a larger size.
            head = file.read(26)
            if not head.startswith(b"\x89PNG\r\n\x1a\n") or len(head) < 26:
                raise UnreadableError("it does not start like one")
            columns, rows = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
            bounded(path, columns, rows)
            _check_depth(path, head[24], head[25], kind_of(path, labels=labels, most=most))
            bounded(path, columns, rows, file)
            _check_chunks(file)
            file.seek(0)
            with Picture.open(file, formats=["PNG"]) as picture:
                bounded(path, *picture.size)  # a hostile file may hold a second header
                yield picture


def _check_depth(path: Path, depth: int, colour: int, kind: str) -> None:
    """Refuses a picture, wanted of a `kind`, where PIL drops bits or changes numbers of labels."""
    if depth == 16 and colour != GREY:
        remedy = f"Save it with 8 bits, as {kind}; {ORIGINALS}: {picture_command(kind)}."
        raise DataFileError(
            path,
            "stores 16 bits a colour, of which only the upper 8 would be read",
            {"labels": _LABELS, "RGB": f"{remedy} {ONE_GREY_EACH}"}.get(kind, remedy),
        )
    if kind == "labels" and colour == GREY and depth in (2, 4):
        raise DataFileError(
            path,
            f"is a mask of {depth} bits a pixel, whose numbers programs stretch to 0..255",
            _LABELS,
        )


def _check_chunks(file: BufferedIOBase) -> None:
    """Counts a PNG's chunks: PIL takes its time for each, and a file may hold nothing but those."""
    place = 8
    for _ in range(MAX_CHUNKS):
        file.seek(place)
        if len(head := file.read(8)) < 8:
            return
        place += 12 + int.from_bytes(head[:4], "big")
    raise UnreadableError(f"it holds {MAX_CHUNKS} chunks or more")
