"""PNG and JPEG: pictures of one slice, grey or RGB, without spacing; by Pillow."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from PIL import Image as Picture
from PIL.PngImagePlugin import PngInfo

from asyndgan.intake.readers.reader import (
    AXIAL,
    NOT_ACQUIRED,
    DataFileError,
    Geometry,
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
    def _check(self, path: Path, picture: Any, *, labels: bool) -> bool:
        """Refuses an open picture whose samples Pillow reads otherwise than they are stored.

        Returns:
            Whether it says that it was painted by a generator.
        """

    @abstractmethod
    def _save(self, path: Path, plane: np.ndarray, note: str) -> None:
        """Writes a plane, and a note unless it is empty."""

    def image(self, path: Path, *, most: int) -> list[Stored]:
        """See `Reader.image`; an RGB picture holds three modalities."""
        pixels, mode, painted = self._read(path, labels=False)
        return [Stored(plane, painted=painted) for plane in modalities_of(path, pixels, mode, most)]

    def mask(self, path: Path) -> Stored:
        """See `Reader.mask`."""
        pixels, mode, painted = self._read(path, labels=True)
        return Stored(labels_of(path, pixels, mode), painted=painted)

    def place(self, path: Path) -> Mapping[str, Any]:
        """See `Reader.place`; a picture has none."""
        return {}

    def write(
        self,
        path: Path,
        plane: np.ndarray,
        *,
        spacing: tuple[float, ...],
        note: str,
        geometry: Geometry = AXIAL,
    ) -> None:
        """See `Reader.write`; rounds and clips to 8 bits, and the spacing is lost."""
        self._save(path, plane, note)

    def write_painted(
        self, path: Path, planes: Sequence[np.ndarray], *, place: Mapping[str, Any], axis: int
    ) -> None:
        """See `Reader.write_painted`."""
        (plane,) = planes
        self._save(path, plane, NOT_ACQUIRED)

    def _read(self, path: Path, *, labels: bool) -> tuple[np.ndarray, str, bool]:
        with (
            decoding(path, self.kind),
            opened(path) as file,
            Picture.open(file, formats=[self.kind]) as picture,
        ):
            bounded(path, *picture.size)
            painted = self._check(path, picture, labels=labels)
            return np.array(picture), picture.mode, painted


@final
class Png(Pictures):
    """Reads grey and RGB pictures; writes them in 8 bits, and deep painted grey ones in 16."""

    kind = "PNG"

    def _save(self, path: Path, plane: np.ndarray, note: str) -> None:
        deep = plane.dtype == np.uint16
        deep = deep or (bool(note) and plane.ndim == 2 and float(plane.max()) > 255)
        about = PngInfo()
        if note:
            about.add_text(NOTE, note)
        picture = Picture.fromarray(whole_numbers(path, plane, 65535 if deep else 255))
        picture.save(path, format="PNG", compress_level=6, pnginfo=about)

    def _check(self, path: Path, picture: Any, *, labels: bool) -> bool:
        stored = picture.tile[0][3]  # Pillow's name of the samples, such as RGB;16B
        if stored.endswith(";16B") and not picture.mode.startswith("I"):
            raise DataFileError(
                path,
                "stores 16 bits a colour, of which only the upper 8 would be read",
                "Save it with 8 bits a colour, or each colour as a grey picture of 16 bits.",
            )
        if labels and stored in ("L;2", "L;4"):
            raise DataFileError(
                path,
                f"is a mask of {stored[-1]} bits a pixel, whose numbers programs stretch to 0..255",
                _LABELS,
            )
        return NOTE in picture.info


@final
class Jpeg(Pictures):
    """Reads grey and RGB pictures; writes none."""

    kind = "JPEG"
    lossy = True

    def _save(self, path: Path, plane: np.ndarray, note: str) -> None:
        raise DataFileError(path, "would be a JPEG, which changes what it stores", "Write PNG.")

    def _check(self, path: Path, picture: Any, *, labels: bool) -> bool:
        if picture.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT:
            raise DataFileError(
                path,
                "says that viewers are to turn it (Exif), so its mask may be turned or not",
                "Turn the pixels themselves, and see that the mask fits.",
            )
        return False


def modalities_of(path: Path, pixels: np.ndarray, mode: str, most: int) -> list[np.ndarray]:
    """The planes of a picture of Pillow's `mode`, of which there may be `most`.

    Raises:
        DataFileError: it is of another kind than grey, or RGB where three are wanted.
    """
    if mode == "RGB" and most >= 3:
        return list(np.moveaxis(pixels, -1, 0))
    if mode in _GREY:
        return [pixels]
    wanted = "a grey or RGB one" if most >= 3 else "a grey one"
    remedy = "" if most >= 3 else ", or to keep its colours, name three channels in dataset.json"
    raise DataFileError(
        path, f"is a picture of kind {mode}, where {wanted} was expected", f"Save it so{remedy}."
    )


def labels_of(path: Path, values: np.ndarray, mode: str) -> np.ndarray:
    """The labels of a picture of Pillow's `mode`.

    Raises:
        DataFileError: it is in colour; the index of a palette is a label.
    """
    if mode in (*_GREY, "P", "1"):
        return values
    raise DataFileError(path, f"is a picture of kind {mode}, where a mask was expected", _LABELS)


def bounded(path: Path, columns: int, rows: int) -> None:
    """Checks the size that a header claims.

    Raises:
        DataFileError: the picture is too large.
    """
    if not 0 < columns * rows <= MAX_PIXELS:
        raise DataFileError(
            path,
            f"claims {rows} x {columns} pixels, outside 1 to {MAX_PIXELS}",
            "Cut it into smaller pictures.",
        )


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
