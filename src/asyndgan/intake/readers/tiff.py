"""TIFF and BigTIFF: a picture of one slice, grey or RGB, or a stack of grey pages as a volume.

Pages are slices from inferior to superior, as axial slices are shown, unless ImageJ's or OME's
description names them channels. Lower levels of a pyramid are left out. Pillow decodes (tifffile
wants imagecodecs for LZW), after the directories of the file have been bounded here.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from io import BufferedIOBase
from pathlib import Path
from typing import Final, final

import numpy as np
from PIL import Image as Picture

from asyndgan.intake.readers.pictures import bounded, labels_of, modalities_of, whole_numbers
from asyndgan.intake.readers.reader import (
    AXIAL,
    NOT_ACQUIRED,
    DataFileError,
    Geometry,
    Reader,
    Stored,
    decoding,
    plane_of,
    volume_of,
)
from asyndgan.intake.readers.volumes import MAX_VOXELS
from asyndgan.received import UnreadableError, opened

MAX_PAGES: Final = 2**12
MAX_TAGS: Final = 2**9
MAX_VALUES: Final = 2**22  # of one tag; where strips and tiles lie takes most
MAX_TEXT: Final = 2**20  # letters of a description
MAX_BYTES: Final = 2**33

_SUBFILE, _COLUMNS, _ROWS, _BITS, _PACKING, _COLOURS = 254, 256, 257, 258, 259, 262
_TEXT, _TURN, _SAMPLES, _UNIT, _FORMAT = 270, 274, 277, 296, 339
_REDUCED: Final = 1  # a bit of `_SUBFILE`
_USED: Final = (_SUBFILE, _COLUMNS, _ROWS, _BITS, _PACKING, _COLOURS, _TURN, _SAMPLES, _FORMAT)
_LOSSY: Final = (6, 7, 33003, 33005, 34712, 50001)  # JPEG, JPEG 2000 and WebP
_WHITE_IS_0, _PALETTE, _FLOAT, _CENTIMETRE = 0, 3, 3, 3
_READ: Final = {(1, 1), (1, 8), (1, 16), (2, 16), (1, 32), (2, 32), (_FLOAT, 32)}
"""Format (whole, signed, floating-point) and bits of a sample that Pillow reads as stored."""

_WRITTEN: Final = (np.uint8, np.uint16, np.int32)
_CODES: Final = {3: "H", 4: "I", 16: "Q"}
_MM: Final = {
    **{"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "m": 1000.0, "inch": 25.4, "nm": 1e-6},
    **dict.fromkeys(("um", "micron", "microns", "µm", "μm", "\\u00b5m"), 1e-3),
}
"""Millimetres in a unit, as ImageJ and OME name them."""


@dataclass(frozen=True)
class _Stack:
    """Pages (slices, channels, rows, columns) or one of (rows, columns, 3), and what a header says.

    `mm` are millimetres between slices, rows and columns; None where the file does not say.
    """

    pages: np.ndarray
    mode: str
    mm: tuple[float, float, float] | None


@final
class Tiff(Reader):
    """Reads grey and RGB pictures and stacks; writes what Pillow can in its type, else float32."""

    kind = "TIFF"
    spaced = True
    volumes = False
    colour = True

    def image(self, path: Path, *, most: int) -> list[Stored]:
        """See `Reader.image`; RGB holds three modalities, and each channel is one."""
        stack = _read(path, labels=False, most=most)
        first = modalities_of(path, stack.pages[0, 0], stack.mode, most)
        if stack.mode == "RGB":
            return [_stored([plane], stack) for plane in first]
        channels = stack.pages.shape[1]
        if channels > most:
            raise DataFileError(
                path,
                f"holds {channels} channels, where {most} were expected",
                "Name each under channel_names in dataset.json, or store one file a channel.",
            )
        return [_stored(list(stack.pages[:, number]), stack) for number in range(channels)]

    def mask(self, path: Path) -> Stored:
        """See `Reader.mask`."""
        stack = _read(path, labels=True)
        if stack.pages.shape[1] > 1:
            raise DataFileError(
                path, "is a mask of several channels", "Store one label a pixel, in one channel."
            )
        labels_of(path, stack.pages[0, 0], stack.mode)
        return _stored(list(stack.pages[:, 0]), stack)

    def painted(self, path: Path) -> bool:
        """See `Reader.painted`."""
        with decoding(path, self.kind), _opened(path) as (picture, _):
            return NOT_ACQUIRED in _description(picture)

    def write(
        self,
        path: Path,
        plane: np.ndarray,
        *,
        spacing: tuple[float, float],
        note: str,
        geometry: Geometry = AXIAL,
    ) -> None:
        """See `Reader.write`; RGB is rounded and clipped to 8 bits."""
        _write(path, [plane], (geometry.thickness, *spacing), note)

    def write_painted(
        self, path: Path, planes: Sequence[np.ndarray], *, like: Path, axis: int
    ) -> None:
        """See `Reader.write_painted`."""
        acquired = _read(like, labels=False)
        pages = list(planes)
        if len(acquired.pages) > 1:
            volume = volume_of(planes, axis)
            pages = [plane_of(volume, 2, place) for place in range(volume.shape[2])]
        _write(path, pages, acquired.mm, NOT_ACQUIRED)


def _stored(pages: Sequence[np.ndarray], stack: _Stack) -> Stored:
    """A picture, or the volume whose axial slices the pages are."""
    if len(pages) == 1:
        return Stored(pages[0], pixel=stack.mm and stack.mm[1:])
    affine = turn = None
    if stack.mm:
        slices, rows, columns = stack.mm
        affine = np.diag([columns, rows, slices, 1.0])
        turn = np.array([[0, 1], [1, 1], [2, 1]])
    return Stored(volume_of(pages, 2), affine, turn)


def _read(path: Path, *, labels: bool, most: int = 1) -> _Stack:
    with (
        decoding(path, "TIFF", labels=labels, most=most),
        _opened(path, labels=labels) as (picture, pages),
    ):
        numbers = [at for at, page in enumerate(pages) if not page.get(_SUBFILE, 0) & _REDUCED]
        first = pages[numbers[0]]
        text = _description(picture)
        slices, channels, slices_first = _axes(path, text, len(numbers), first.get(_SAMPLES, 1))
        mm = _spacing(picture, text)
        planes = []
        for number in numbers:
            picture.seek(number)
            plane = np.array(picture)
            if (first.get(_FORMAT, 1), first.get(_BITS)) == (1, 32):
                plane = plane.view(np.uint32)  # Pillow takes it for signed
            planes.append(plane)
        stacked = np.stack(planes)
        order = (channels, slices) if slices_first else (slices, channels)
        stacked = stacked.reshape(*order, *stacked.shape[1:])
        return _Stack(stacked.swapaxes(0, 1) if slices_first else stacked, picture.mode, mm)


@contextmanager
def _opened(
    path: Path, *, labels: bool = False
) -> Iterator[tuple[Picture.Image, list[dict[int, int]]]]:
    """Opens a TIFF, and yields with it the tags of `_USED` of each page, of bounded number."""
    with opened(path, MAX_BYTES) as file:
        pages = _directories(file)
        used = [page for page in pages if not page.get(_SUBFILE, 0) & _REDUCED]
        if not used or used[0] is not pages[0]:
            raise UnreadableError("its first page is no image of full size")
        for page in pages:
            bounded(path, page.get(_COLUMNS, 0), page.get(_ROWS, 0))
        for page in used:
            _check_page(path, page, used, labels=labels)
        file.seek(0)
        with Picture.open(file, formats=["TIFF"]) as picture:
            bounded(path, *picture.size)
            yield picture, pages


def _directories(file: BufferedIOBase) -> list[dict[int, int]]:
    """Walks the directories of a TIFF: one a page, whose tags Pillow would read without bound."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    version = int.from_bytes(head[2:4], "little" if order == "<" else "big")
    if order is None or len(head) < 16 or version not in (42, 43):
        raise UnreadableError("it does not start like one")
    count, entry, word = ("Q", "HHQ8s", "Q") if version == 43 else ("H", "HHI4s", "I")
    place: int = struct.unpack_from(order + word, head, 8 if version == 43 else 4)[0]
    pages: list[dict[int, int]] = []
    seen: set[int] = set()
    while place:
        if place in seen or len(seen) == MAX_PAGES:
            raise UnreadableError(f"it has more than {MAX_PAGES} pages, or pages in a circle")
        seen.add(place)
        file.seek(place)
        tags: int = struct.unpack(order + count, file.read(struct.calcsize(count)))[0]
        if tags > MAX_TAGS:
            raise UnreadableError(f"a page has more than {MAX_TAGS} tags")
        entries = file.read(tags * struct.calcsize(order + entry))
        place = struct.unpack(order + word, file.read(struct.calcsize(order + word)))[0]
        page = {}
        for tag, kind, number, value in struct.iter_unpack(order + entry, entries):
            if number > MAX_VALUES and kind not in (1, 2, 7):
                raise UnreadableError(f"a tag has more than {MAX_VALUES} values")
            if tag in _USED and number:
                code = order + _CODES[kind]
                if number * struct.calcsize(code) > len(value):
                    file.seek(struct.unpack(order + word, value)[0])
                    value = file.read(struct.calcsize(code))
                page[tag] = struct.unpack_from(code, value)[0]
        pages.append(page)
    return pages


def _check_page(
    path: Path, page: dict[int, int], pages: Sequence[dict[int, int]], *, labels: bool
) -> None:
    """Refuses what Pillow reads otherwise than it is stored, and pages that are no one volume."""
    columns, rows = page[_COLUMNS], page[_ROWS]
    if len(pages) * columns * rows * page.get(_SAMPLES, 1) > MAX_VOXELS:
        raise DataFileError(
            path,
            f"claims {len(pages)} pages of {rows} x {columns} pixels, over {MAX_VOXELS}",
            "Cut it into smaller stacks.",
        )
    same = (_COLUMNS, _ROWS, _BITS, _FORMAT, _SAMPLES, _COLOURS)
    if any(page.get(tag) != pages[0].get(tag) for tag in same):
        raise DataFileError(
            path, "holds pages of several sizes or kinds", "Store one file a picture or stack."
        )
    samples, bits, form = page.get(_SAMPLES, 1), page.get(_BITS, 1), page.get(_FORMAT, 1)
    if (form, bits) not in _READ or (samples > 1 and bits != 8):
        kind = {1: "unsigned", 2: "signed", _FLOAT: "floating-point"}.get(form, "other")
        raise DataFileError(
            path,
            f"stores {samples} {kind} numbers of {bits} bits a pixel, which are not read",
            "Save it with 8 or 16 bits unsigned or 32 bits floating-point a pixel, or 8 a colour.",
        )
    if page.get(_COLOURS) == _WHITE_IS_0 or page.get(_TURN, 1) != 1:
        raise DataFileError(
            path,
            "stores white as 0, or says that viewers are to turn it",
            "Save it with black as 0 and upright.",
        )
    grey = samples == 1 and (labels or (bits > 1 and page.get(_COLOURS) != _PALETTE))
    if len(pages) > 1 and not grey:
        raise DataFileError(
            path,
            "is a stack in colour, or of 1 bit a pixel",
            "Store one file a picture, or grey pages of 8 bits or more.",
        )
    if labels and page.get(_PACKING) in _LOSSY:
        raise DataFileError(
            path,
            "is a mask packed by JPEG or another lossy method, which has changed its labels",
            "Export the mask again, uncompressed or packed by LZW or deflate.",
        )


def _description(picture: Picture.Image) -> str:
    text = str(picture.tag_v2.get(_TEXT, ""))[:MAX_TEXT]  # type: ignore[attr-defined]
    try:  # Pillow decodes as Latin-1; OME is UTF-8
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _axes(path: Path, text: str, pages: int, samples: int) -> tuple[int, int, bool]:
    """Slices and channels of the pages, and whether each channel's slices lie together.

    Raises:
        DataFileError: the description is of other pages than the file has, or of several times.
    """
    if text.startswith("ImageJ="):
        wanted, channels, times = (
            int(_named(text, key, "") or 1) for key in ("images", "channels", "frames")
        )
    elif "<OME" in text:
        slices, channels, times = (int(_named(text, "", f"Size{axis}") or 1) for axis in "ZCT")
        channels = 1 if samples > 1 else channels  # of RGB it counts the colours
        wanted = slices * channels * times
    else:
        wanted, channels, times = pages, 1, 1
    if times != 1 or channels < 1 or wanted != pages or pages % channels:
        raise DataFileError(
            path,
            f"describes {wanted} pages of {channels} channels and {times} times, and has {pages}",
            "Store one file a volume and time point, with all of its pages.",
        )
    return pages // channels, channels, "<OME" in text and 'DimensionOrder="XYZ' in text


def _named(text: str, imagej: str, ome: str) -> str | None:
    """What a description by ImageJ (`key=value`) or OME (`Key="value"`) gives."""
    pattern = (
        rf"^{imagej}=(\S{{1,40}})" if text.startswith("ImageJ=") else rf'\b{ome}="([^"]{{1,40}})"'
    )
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else None


def _spacing(picture: Picture.Image, text: str) -> tuple[float, float, float] | None:
    """Millimetres between slices, rows and columns.

    None: no size is told, or in a unit that is not known.

    By OME's PhysicalSize; by the resolution in ImageJ's unit; or by a resolution in centimetres.
    One in inches is that of a printer or a screen.
    """
    if "<OME" in text:
        sizes = [_named(text, "", f"PhysicalSize{axis}") for axis in "ZYX"]
        units = [_named(text, "", f"PhysicalSize{axis}Unit") or "µm" for axis in "ZYX"]
        scales = [_MM.get(unescape(unit)) for unit in units]
        if not sizes[1] or not sizes[2] or None in scales:
            return None
        slices, rows, columns = (
            float(size or 1) * (mm or 0) for size, mm in zip(sizes, scales, strict=True)
        )
    else:
        tags = picture.tag_v2  # type: ignore[attr-defined]
        unit = _named(text, "unit", "") if text.startswith("ImageJ=") else None
        mm = _MM.get((unit or "").lower())
        if unit is None and tags.get(_UNIT) == _CENTIMETRE:
            mm = 10.0
        if mm is None or not tags.get(282) or not tags.get(283):
            return None
        rows, columns = (mm / float(tags[tag]) for tag in (283, 282))
        slices = mm * float(_named(text, "spacing", "") or 1) if text.startswith("ImageJ=") else 1.0
    if not all(0 < size < float("inf") for size in (slices, rows, columns)):
        raise UnreadableError("its spacing is not above 0")
    return slices, rows, columns


def _write(
    path: Path, pages: Sequence[np.ndarray], mm: tuple[float, float, float] | None, note: str
) -> None:
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
