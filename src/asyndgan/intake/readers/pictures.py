"""PNG and JPEG: pictures of one slice, grey or RGB, without spacing; by Pillow."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from PIL import Image as Picture
from PIL.PngImagePlugin import PngInfo

from asyndgan.intake.readers.reader import (
    DataFileError,
    Place,
    Reader,
    Stored,
    decoding,
)
from asyndgan.received import opened

MAX_PIXELS: Final = 2**26
NOTE: Final = "synthetic"  # key of a PNG's note
_LABELS: Final = "Save it as 8-bit grey, each pixel the number of its label."
_ORIENTATION, _UPRIGHT = 274, 1  # of Exif
_GREY = ("L", "I;16", "I;16B", "I", "F")


class Pictures(Reader):
    """A format of pictures of one slice, grey or RGB, without spacing."""

    spaced = False
    volumes = False
    colour = True

    @abstractmethod
    def _check(self, path: Path, picture: Any) -> bool:
        """Refuses an open picture whose samples Pillow reads otherwise than they are stored.

        Returns whether it says that it was painted by a generator.
        """

    def place(self, path: Path) -> Place:
        """See `Reader.place`; a picture has none."""
        return {}

    def _read(self, path: Path, most: int, *, labels: bool) -> list[Stored]:
        """One array, or three of an RGB picture."""
        with (
            decoding(path, self.kind),
            opened(path, links=True) as file,
            Picture.open(file, formats=[self.kind]) as picture,
        ):
            bounded(path, *picture.size)
            painted = self._check(path, picture)
            pixels, mode = np.array(picture), picture.mode
        planes = planes_of(path, pixels, mode, most, labels=labels)
        return [Stored(plane, painted=painted) for plane in planes]


@final
class Png(Pictures):
    """Reads grey and RGB pictures; writes them in 8 bits, and deep painted grey ones in 16."""

    kind = "PNG"

    def _put(
        self, path: Path, planes: Sequence[np.ndarray], place: Place, axis: int, note: str
    ) -> None:
        (plane,) = planes
        deep = plane.dtype == np.uint16
        deep = deep or (bool(note) and plane.ndim == 2 and float(plane.max()) > 255)
        about = PngInfo()
        if note:
            about.add_text(NOTE, note)
        picture = Picture.fromarray(whole_numbers(path, plane, 65535 if deep else 255))
        picture.save(path, format="PNG", compress_level=6, pnginfo=about)

    def _check(self, path: Path, picture: Any) -> bool:
        stored = picture.tile[0][3]  # Pillow's name of the samples, such as RGB;16B
        if stored.endswith(";16B") and not picture.mode.startswith("I"):
            raise DataFileError(
                path,
                "stores 16 bits a colour, of which only the upper 8 would be read",
                "Save each colour as a grey picture of 16 bits, CASE_0000.png and on, as 'magick "
                "FILE -separate CASE_%04d.png' does; or with 8 bits, where nothing is lost by it.",
            )
        return NOTE in picture.info


@final
class Jpeg(Pictures):
    """Reads grey and RGB pictures; writes none."""

    kind = "JPEG"
    lossy = True

    def _put(
        self, path: Path, planes: Sequence[np.ndarray], place: Place, axis: int, note: str
    ) -> None:
        raise DataFileError(path, "would be a JPEG, which changes what it stores", "Write PNG.")

    def _check(self, path: Path, picture: Any) -> bool:
        if picture.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT:
            raise DataFileError(
                path,
                "says that viewers are to turn it (Exif), so its mask may be turned or not",
                "Turn the pixels themselves, and see that the mask fits.",
            )
        return False


def planes_of(
    path: Path, pixels: np.ndarray, mode: str, most: int, *, labels: bool
) -> list[np.ndarray]:
    """The planes of a picture of Pillow's `mode`, of which there may be `most`, or its labels.

    Raises `DataFileError` if it is of another kind than grey, or RGB where three are wanted, or a
    mask in colour; the index of a palette is a label.
    """
    if labels:
        if mode in (*_GREY, "P", "1"):
            return [pixels]
        reason = f"is a picture of kind {mode}, where a mask was expected"
        raise DataFileError(path, reason, _LABELS)
    if mode == "RGB" and most >= 3:
        return list(np.moveaxis(pixels, -1, 0))
    if mode in _GREY:
        return [pixels]
    wanted = "a grey or RGB one" if most >= 3 else "a grey one"
    remedy = "" if most >= 3 else ", or to keep its colours, name three channels in dataset.json"
    raise DataFileError(
        path, f"is a picture of kind {mode}, where {wanted} was expected", f"Save it so{remedy}."
    )


def bounded(path: Path, columns: int, rows: int) -> None:
    """Checks the size that a header claims; raises `DataFileError` if the picture is too large."""
    if not 0 < columns * rows <= MAX_PIXELS:
        raise DataFileError(
            path,
            f"claims {rows} x {columns} pixels, outside 1 to {MAX_PIXELS}",
            "Cut it into smaller pictures.",
        )


def whole_numbers(path: Path, plane: np.ndarray, highest: int = 255) -> np.ndarray:
    """Intensities rounded and clipped to 0..`highest`, in 8 bits if they fit.

    Raises `DataFileError` if some are not finite.
    """
    if not np.isfinite(plane).all():
        raise DataFileError(
            path, "would hold intensities that are not finite", "Replace them by numbers."
        )
    pixels = np.clip(np.round(plane), 0, highest)
    return pixels.astype(np.uint8 if highest == 255 else np.uint16)
