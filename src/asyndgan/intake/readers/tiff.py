"""TIFF and BigTIFF: a picture of one slice, grey or RGB, or a stack of grey pages as a volume.

Pages are slices from inferior to superior, as axial slices are shown, unless ImageJ's or OME's
description names them channels. Lower levels of a pyramid are left out. Pillow decodes (tifffile
wants imagecodecs for LZW).
"""

import re
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, final

import numpy as np
from PIL import Image as Picture
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from asyndgan.intake import limits
from asyndgan.intake.readers.pictures import bounded, planes_of, whole_numbers
from asyndgan.intake.readers.reader import (
    NOT_ACQUIRED,
    DataFileError,
    Place,
    Reader,
    Stored,
    decoding,
    viewed,
    volume_of,
)
from asyndgan.intake.readers.volumes import A_VOXEL, MAX_VOXELS
from asyndgan.received import UnreadableError, opened

_SUBFILE, _COLUMNS, _ROWS, _BITS, _PACKING, _COLOURS = 254, 256, 257, 258, 259, 262
_TEXT, _TURN, _SAMPLES, _UNIT, _FORMAT = 270, 274, 277, 296, 339
_REDUCED: Final = 1  # a bit of `_SUBFILE`
_USED: Final = (_SUBFILE, _COLUMNS, _ROWS, _BITS, _PACKING, _COLOURS, _TURN, _SAMPLES, _FORMAT)
_ALIKE: Final = (_COLUMNS, _ROWS, _BITS, _FORMAT, _SAMPLES, _COLOURS, _TURN)
_LOSSY: Final = (6, 7, 33003, 33005, 34712, 50001)  # JPEG, JPEG 2000 and WebP
_WHITE_IS_0, _PALETTE, _FLOAT, _CENTIMETRE = 0, 3, 3, 3
_READ: Final = {(1, 1), (1, 8), (1, 16), (2, 16), (1, 32), (2, 32), (_FLOAT, 32)}
"""Format (whole, signed, floating-point) and bits of a sample that Pillow reads as stored."""

_WRITTEN: Final = (np.uint8, np.uint16, np.int32)
_MM: Final = {
    **{"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "m": 1000.0, "inch": 25.4, "nm": 1e-6},
    **dict.fromkeys(("um", "micron", "microns", "µm", "μm", "\\u00b5m"), 1e-3),
}
"""Millimetres in a unit, as ImageJ and OME name them."""


class _Stack(NamedTuple):
    """What a file holds.

    `pages`: (slices, channels, rows, columns), or one of (rows, columns, 3); `mm` between slices,
    rows and columns, None where the file does not say; `called`: names of the channels, by OME,
    empty if not all are told.
    """

    pages: np.ndarray
    mode: str
    mm: tuple[float, float, float] | None
    painted: bool
    called: list[str]

    def stored(self, pages: np.ndarray, called: str = "") -> Stored:
        """A picture, or the volume whose axial slices the pages are."""
        if len(pages) == 1:
            pixel = self.mm and self.mm[1:]
            return Stored(pages[0], pixel=pixel, painted=self.painted, called=called)
        affine = turn = None
        if self.mm:
            slices, rows, columns = self.mm
            affine = np.diag([columns, rows, slices, 1.0])
            turn = np.array([[0, 1], [1, 1], [2, 1]])
        volume = volume_of(list(pages), 2)
        return Stored(volume, affine, turn, painted=self.painted, called=called)


@final
class Tiff(Reader):
    """Reads grey and RGB pictures and stacks; writes what Pillow can in its type, else float32."""

    kind = "TIFF"
    spaced = True
    volumes = False
    colour = True

    def _read(self, path: Path, most: int, *, labels: bool) -> list[Stored]:
        """RGB holds three modalities, and each channel is one."""
        stack = _stack(path, labels=labels)
        first = planes_of(path, stack.pages[0, 0], stack.mode, most, labels=labels)
        if stack.mode == "RGB":
            return [stack.stored(plane[None]) for plane in first]
        channels = stack.pages.shape[1]
        if channels > 1 and labels:
            raise DataFileError(path, "is a mask of several channels", "Store one label a pixel.")
        if channels > most:
            told = f" ({', '.join(stack.called)})" if stack.called else ""
            raise DataFileError(
                path,
                f"holds {channels} channels{told}, and dataset.json names {most} for it",
                "Name each under channel_names in dataset.json, or save it without the others.",
            )
        names = stack.called or [""] * channels
        return [stack.stored(stack.pages[:, at], name) for at, name in enumerate(names)]

    def place(self, path: Path) -> Place:
        """See `Reader.place`."""
        stack = _stack(path, labels=False)
        return {"stack": len(stack.pages) > 1, "mm": stack.mm}

    def _put(
        self, path: Path, planes: Sequence[np.ndarray], place: Place, axis: int, note: str
    ) -> None:
        """RGB is rounded and clipped to 8 bits."""
        pages = [*viewed(volume_of(planes, axis), 2)] if place["stack"] else planes
        _write(path, pages, place["mm"], note)


def _stack(path: Path, *, labels: bool) -> _Stack:
    with decoding(path, "TIFF"), opened(path, links=True) as file:
        pages = _directories(file)
        numbers = [at for at, page in enumerate(pages) if not page.get(_SUBFILE, 0) & _REDUCED]
        if not numbers or numbers[0]:
            raise UnreadableError("its first page is no image of full size")
        first, *others = (pages[number] for number in numbers)
        _check_pages(path, first, others, labels=labels)
        samples = first.get(_SAMPLES, 1)
        limits.allow(path, A_VOXEL * len(numbers) * samples * first[_COLUMNS] * first[_ROWS])
        file.seek(0)
        with Picture.open(file, formats=["TIFF"]) as picture:
            text = _description(picture)
            about = _described(text)
            channels, apart = _channels(path, about, len(numbers), samples)
            planes = []
            for number in numbers:
                picture.seek(number)
                planes.append(np.array(picture))
            stack = np.stack(planes)
            if (first.get(_FORMAT, 1), first.get(_BITS)) == (1, 32):
                stack = stack.view(np.uint32)  # Pillow takes them for signed
            order = (channels, -1) if apart else (-1, channels)
            stack = stack.reshape(*order, *stack.shape[1:])
            called = re.findall(r'<Channel\b[^>]*?\bName="([^"]{1,64})"', text)
            return _Stack(
                stack.swapaxes(0, 1) if apart else stack,
                picture.mode,
                _spacing(picture, about),
                NOT_ACQUIRED in text,
                [unescape(name) for name in called] if len(called) == channels else [],
            )


def _directories(file: IO[bytes]) -> list[dict[int, int]]:
    """The tags of `_USED` of each page, as Pillow reads them."""
    head = file.read(8)
    head += file.read(8) if head[2:3] == b"+" else b""  # BigTIFF
    pages: list[dict[int, int]] = []
    tags, seen = ImageFileDirectory_v2(head), {0}
    while (place := tags.next) not in seen:
        seen.add(place)
        file.seek(place)
        tags.load(file)
        pages.append({tag: int(np.ravel(tags[tag])[0]) for tag in _USED if tag in tags})
    return pages


def _check_pages(
    path: Path, first: dict[int, int], others: Sequence[dict[int, int]], *, labels: bool
) -> None:
    """Refuses what Pillow reads otherwise than it is stored, and pages that are no one volume."""
    columns, rows, count = first[_COLUMNS], first[_ROWS], 1 + len(others)
    bounded(path, columns, rows)
    samples, bits, form = first.get(_SAMPLES, 1), first.get(_BITS, 1), first.get(_FORMAT, 1)
    if count * columns * rows * samples > MAX_VOXELS:
        raise DataFileError(
            path,
            f"claims {count} pages of {rows} x {columns} pixels, over {MAX_VOXELS}",
            "Cut it into smaller stacks.",
        )
    if any(page.get(tag) != first.get(tag) for tag in _ALIKE for page in others):
        raise DataFileError(
            path, "holds pages of several sizes or kinds", "Store one file a picture or stack."
        )
    turned = first.get(_COLOURS) == _WHITE_IS_0 or first.get(_TURN, 1) != 1
    grey = samples == 1 and (labels or (bits > 1 and first.get(_COLOURS) != _PALETTE))
    exact = (form, bits) in _READ and (samples == 1 or bits == 8)
    if not exact or turned or (others and not grey):
        kind = {1: "unsigned", 2: "signed", _FLOAT: "floating-point"}.get(form, "other")
        more = ", white as 0 or turned" if turned else f", in {count} pages"
        raise DataFileError(
            path,
            f"stores {samples} {kind} numbers of {bits} bits a pixel{more}, which are not read",
            "Save it upright, black as 0: grey of 8 or 16 bits unsigned or 32 bits floating-point, "
            "or one picture a file with 8 bits a colour.",
        )
    if labels and any(page.get(_PACKING) in _LOSSY for page in (first, *others)):
        raise DataFileError(
            path,
            "is a mask packed by JPEG or another lossy method, which has changed its labels",
            "Export the mask again, uncompressed or packed by LZW or deflate.",
        )


def _description(picture: Picture.Image) -> str:
    text = str(picture.tag_v2.get(_TEXT, ""))  # type: ignore[attr-defined]
    try:  # Pillow decodes as Latin-1; OME is UTF-8
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _described(text: str) -> dict[str, str]:
    """What a description by ImageJ (`key=value`) or OME (`Key="value"`) gives; else nothing."""
    if text.startswith("ImageJ="):
        found = re.findall(r"^(\w+)=(\S{1,40})", text, re.MULTILINE)
    else:
        found = re.findall(r'\b(\w+)="([^"]{1,40})"', text) if "<OME" in text else []
    return dict(found[::-1])  # the first of several counts


def _channels(path: Path, about: dict[str, str], pages: int, samples: int) -> tuple[int, bool]:
    """Channels of the pages, and whether each channel's slices lie together.

    Raises:
        DataFileError: the description is of other pages than the file has, or of several times.
    """
    told = [about.get(key, 1) for key in ("images", "channels", "frames")]
    if "ImageJ" not in about:
        told = [about.get(f"Size{axis}", 1) for axis in "ZCT"]
    wanted, channels, times = map(int, told)
    if "ImageJ" not in about:
        channels = 1 if samples > 1 else channels  # of RGB it counts the colours
        wanted = wanted * channels * times if about else pages
    if times != 1 or channels < 1 or wanted != pages or pages % channels:
        raise DataFileError(
            path,
            f"describes {wanted} pages of {channels} channels and {times} times, and has {pages}",
            "Store one file a volume and time point, with all of its pages.",
        )
    return channels, about.get("DimensionOrder", "").startswith("XYZ")


def _spacing(picture: Picture.Image, about: dict[str, str]) -> tuple[float, float, float] | None:
    """Millimetres between slices, rows and columns; None: not told, or in an unknown unit.

    By OME's PhysicalSize; by the resolution in ImageJ's unit; or by a resolution in centimetres.
    One in inches is that of a printer or a screen.
    """
    tags: Any = picture.tag_v2  # type: ignore[attr-defined]
    if about and "ImageJ" not in about:
        told = [about.get(f"PhysicalSize{axis}", "") for axis in "ZYX"]
        units = [_MM.get(unescape(about.get(f"PhysicalSize{axis}Unit", "µm"))) for axis in "ZYX"]
        if not told[1] or not told[2] or None in units:
            return None
        sizes = [float(size or 1) * (mm or 0) for size, mm in zip(told, units, strict=True)]
    else:
        mm = _MM.get(about.get("unit", "").lower())
        if "unit" not in about and tags.get(_UNIT) == _CENTIMETRE:
            mm = 10.0
        if mm is None or not tags.get(282) or not tags.get(283):
            return None
        apart = mm * float(about.get("spacing", 1)) if about else 1.0
        sizes = [apart, mm / float(tags[283]), mm / float(tags[282])]
    if not all(0 < size < float("inf") for size in sizes):
        raise UnreadableError("its spacing is not above 0")
    slices, rows, columns = sizes
    return slices, rows, columns


def _write(path: Path, pages: Sequence[np.ndarray], mm: Sequence[float] | None, note: str) -> None:
    """Writes pages as ImageJ does; its description holds the note as a key and its value."""
    lines = ["ImageJ=1.54f", f"images={len(pages)}", f"slices={len(pages)}"]
    resolution = {}
    if mm:
        slices, rows, columns = mm
        lines += ["unit=mm", f"spacing={slices!r}"]
        resolution = {"x_resolution": 1 / columns, "y_resolution": 1 / rows}
    first, *others = (
        Picture.fromarray(
            whole_numbers(path, page)
            if page.ndim == 3
            else page.astype(page.dtype if page.dtype in _WRITTEN else np.float32)
        )
        for page in pages
    )
    first.save(
        path,
        format="TIFF",
        compression="tiff_adobe_deflate",
        description="\n".join([*lines, note, ""]),
        save_all=True,
        append_images=others,
        **resolution,
    )
