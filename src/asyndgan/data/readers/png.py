"""PNG: a picture of one slice, grey or RGB, without spacing."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import final

import numpy as np
from PIL import Image as Picture
from PIL.PngImagePlugin import PngInfo

from asyndgan.data.readers.reader import (
    AXIAL,
    NOT_ACQUIRED,
    DataFileError,
    Geometry,
    Reader,
    Stored,
    decoding,
)
from asyndgan.data.remedies import ONE_GREY_EACH, opaque
from asyndgan.received import opened

MAX_PIXELS = 2**26  # below PIL's own limit, which only warns
MAX_EXTRA = 2**22  # bytes beyond 8 for each pixel: profiles, notes
MAX_CHUNKS = 2**16  # PIL takes 2 us and more for each; of pixels a chunk has 8 kB or more
NOTE = "synthetic"
GREY, GREY_ALPHA = 0, 4  # a PNG's numbers for grey without and with transparency


@final
class Png(Reader):
    """Reads grey and RGB pictures; writes them in 8 bits, and deep painted grey ones in 16."""

    spaced = False
    colour = True

    def image(self, path: Path, *, most: int) -> list[Stored]:
        """See `Reader.image`; an RGB picture holds three modalities."""
        pixels, mode = _pixels(path)
        if mode == "RGB" and most == 3:
            return [Stored(plane) for plane in np.moveaxis(pixels, -1, 0)]
        if mode not in ("L", "I;16", "I"):
            wanted = "an RGB or grey one" if most == 3 else "a grey one"
            reason = f"is a picture of kind {mode}, where {wanted} was expected"
            if mode in ("RGBA", "LA"):
                remedy = f"Remove its transparency: {opaque(mode[:-1])}."
                raise DataFileError(path, reason, remedy)
            raise DataFileError(
                path,
                reason,
                "Save it as 8-bit grey; or, if it is RGB, as the only file of the case, _0000.png, "
                "with three channel_names in dataset.json.",
            )
        return [Stored(pixels)]

    def mask(self, path: Path) -> Stored:
        """See `Reader.mask`."""
        values, mode = _pixels(path, labels=True)
        if mode not in ("L", "P", "1", "I;16", "I"):
            raise DataFileError(
                path,
                f"is a picture of kind {mode}, where a mask was expected",
                "Save it as 8-bit grey, each pixel the number of its label.",
            )
        return Stored(values)

    def painted(self, path: Path) -> bool:
        """See `Reader.painted`."""
        with decoding(path, "PNG"), _picture(path) as picture:
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
        if not np.isfinite(plane).all():
            raise DataFileError(
                path, "would hold intensities that are not finite", "Replace them by numbers."
            )
        deep = plane.dtype == np.uint16
        deep = deep or (bool(note) and plane.ndim == 2 and float(plane.max()) > 255)
        pixels = np.clip(np.round(plane), 0, 65535 if deep else 255)
        about = PngInfo()
        if note:
            about.add_text(NOTE, note)
        picture = Picture.fromarray(pixels.astype(np.uint16 if deep else np.uint8))
        picture.save(path, format="PNG", compress_level=6, pnginfo=about)

    def write_painted(
        self, path: Path, planes: Sequence[np.ndarray], *, like: Path, axis: int
    ) -> None:
        """See `Reader.write_painted`."""
        (plane,) = planes
        self.write(path, plane, spacing=(1.0, 1.0), note=NOT_ACQUIRED)


def _pixels(path: Path, *, labels: bool = False) -> tuple[np.ndarray, str]:
    """Reads pixels (rows, columns) or (rows, columns, bands), and PIL's name for their mode."""
    with decoding(path, "PNG", labels=labels), _picture(path, labels=labels) as picture:
        return np.array(picture), picture.mode


@contextmanager
def _picture(path: Path, *, labels: bool = False) -> Iterator[Picture.Image]:
    """Opens a PNG of bounded size, whose samples PIL reads as they are stored."""
    with opened(path, 8 * MAX_PIXELS + MAX_EXTRA) as file:
        # The size is at a fixed offset; PIL itself would only warn, and only at a larger size.
        head = file.read(26)
        if not head.startswith(b"\x89PNG\r\n\x1a\n") or len(head) < 26:
            raise ValueError("it does not start like one")
        columns, rows = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
        _bounded(path, columns, rows)
        _check_depth(path, depth=head[24], colour=head[25], labels=labels)
        if os.fstat(file.fileno()).st_size > 8 * columns * rows + MAX_EXTRA:
            raise ValueError("it is far longer than its pixels take")
        _check_chunks(file)
        file.seek(0)
        with Picture.open(file, formats=["PNG"]) as picture:
            _bounded(path, *picture.size)  # a hostile file may hold a second header
            yield picture


def _check_depth(path: Path, *, depth: int, colour: int, labels: bool) -> None:
    """Refuses a picture of which PIL drops bits, or changes the numbers of labels."""
    if depth == 16 and colour != GREY:
        raise DataFileError(
            path,
            "stores 16 bits a colour, of which only the upper 8 would be read",
            f"Save it with 8 bits a colour and without transparency: "
            f"{opaque('L' if colour == GREY_ALPHA else 'RGB')}. {ONE_GREY_EACH}",
        )
    if labels and colour == GREY and depth in (2, 4):
        raise DataFileError(
            path,
            f"is a mask of {depth} bits a pixel, whose numbers programs stretch to 0..255",
            "Save it as 8-bit grey, each pixel the number of its label.",
        )


def _check_chunks(file: BufferedIOBase) -> None:
    """Counts a PNG's chunks: PIL takes its time for each, and a file may hold nothing but those."""
    place = 8
    for _ in range(MAX_CHUNKS):
        file.seek(place)
        if len(head := file.read(8)) < 8:
            return
        place += 12 + int.from_bytes(head[:4], "big")
    raise ValueError(f"it holds {MAX_CHUNKS} chunks or more")


def _bounded(path: Path, columns: int, rows: int) -> None:
    if not 0 < columns * rows <= MAX_PIXELS:
        raise DataFileError(
            path,
            f"claims {rows} x {columns} pixels, outside 1 to {MAX_PIXELS}",
            "Cut it into smaller pictures.",
        )
