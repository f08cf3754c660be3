"""What the formats of pictures share: their kinds of pixels, by Pillow's names, and their size."""

import os
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from asyndgan.intake.readers.reader import NOT_ACQUIRED, DataFileError, Reader, Stored, decoding
from asyndgan.intake.remedies import ORIGINALS, kind_of, picture_command
from asyndgan.received import UnreadableError

MAX_PIXELS = 2**26  # below PIL's own limit, which only warns
MAX_EXTRA = 2**22  # bytes beyond 8 for each pixel: profiles, notes
MAX_BYTES = 8 * MAX_PIXELS + MAX_EXTRA

_GREY = ("L", "I;16", "I;16B", "I", "F")


class Pictures(Reader):
    """A format of pictures of one slice, grey or RGB, without spacing."""

    spaced = False
    volumes = False
    colour = True

    @abstractmethod
    def _opened(
        self, path: Path, *, labels: bool = False, most: int = 1
    ) -> AbstractContextManager[Picture.Image]:
        """Opens a picture of bounded size, whose samples PIL reads as they are stored.

        What errors advise depends on `labels` and on `most`, the modalities it may hold.
        """

    def image(self, path: Path, *, most: int) -> list[Stored]:
        """See `Reader.image`; an RGB picture holds three modalities."""
        with decoding(path, self.kind, most=most), self._opened(path, most=most) as picture:
            pixels, mode = np.array(picture), picture.mode
        return [Stored(plane) for plane in modalities_of(path, pixels, mode, most)]

    def mask(self, path: Path) -> Stored:
        """See `Reader.mask`."""
        with decoding(path, self.kind, labels=True), self._opened(path, labels=True) as picture:
            pixels, mode = np.array(picture), picture.mode
        return Stored(labels_of(path, pixels, mode))

    def write_painted(
        self, path: Path, planes: Sequence[np.ndarray], *, like: Path, axis: int
    ) -> None:
        """See `Reader.write_painted`."""
        (plane,) = planes
        self.write(path, plane, spacing=(1.0, 1.0), note=NOT_ACQUIRED)


def modalities_of(path: Path, pixels: np.ndarray, mode: str, most: int) -> list[np.ndarray]:
    """The planes of a picture of Pillow's `mode`, of which there may be `most`.

    Raises:
        DataFileError: it is of another kind than grey, or RGB where three are wanted.
    """
    if mode == "RGB" and most >= 3:
        return list(np.moveaxis(pixels, -1, 0))
    if mode in _GREY:
        return [pixels]
    wanted = "an RGB or grey one" if most >= 3 else "a grey one"
    colours = "To keep its colours, name three channels in dataset.json. " if mode == "RGB" else ""
    kind = kind_of(path, labels=False, most=most)
    raise DataFileError(
        path,
        f"is a picture of kind {mode}, where {wanted} was expected",
        f"{colours}Make it {kind}; {ORIGINALS}: {picture_command(kind, path.suffix)}.",
    )


def labels_of(path: Path, values: np.ndarray, mode: str) -> np.ndarray:
    """The labels of a picture of Pillow's `mode`.

    Raises:
        DataFileError: it is in colour; the index of a palette is a label.
    """
    if mode in (*_GREY, "P", "1"):
        return values
    raise DataFileError(
        path,
        f"is a picture of kind {mode}, where a mask was expected",
        "Save it as 8-bit grey, each pixel the number of its label.",
    )


def bounded(path: Path, columns: int, rows: int, file: BufferedIOBase | None = None) -> None:
    """Checks the size that a header claims and, of `file`, that it is not far longer.

    Raises:
        DataFileError: the picture is too large.
        ValueError: the file is too long.
    """
    if not 0 < columns * rows <= MAX_PIXELS:
        raise DataFileError(
            path,
            f"claims {rows} x {columns} pixels, outside 1 to {MAX_PIXELS}",
            "Cut it into smaller pictures.",
        )
    if file and os.fstat(file.fileno()).st_size > 8 * columns * rows + MAX_EXTRA:
        raise UnreadableError("it is far longer than its pixels take")


def whole_numbers(path: Path, plane: np.ndarray, highest: int = 255) -> np.ndarray:
    """Intensities rounded and clipped to 0..`highest`, in 8 bits if they fit.

    Raises:
        DataFileError: some are not finite.
    """
    if not np.isfinite(plane).all():
        raise DataFileError(
            path, "would hold intensities that are not finite", "Replace them by numbers."
        )
    pixels = np.clip(np.round(plane), 0, highest)
    return pixels.astype(np.uint8 if highest == 255 else np.uint16)
