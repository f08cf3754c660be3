"""TIFF and BigTIFF: a picture of one slice, grey or RGB, or a stack of grey pages as a volume.

Pages are slices from inferior to superior, as axial slices are shown, unless ImageJ's or OME's
description names them channels. Lower levels of a pyramid are left out. Pillow decodes (tifffile
wants imagecodecs for LZW).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path
from typing import IO, Any, Final, final

import numpy as np
from PIL import Image as Picture
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from asyndgan.intake import limits
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
from asyndgan.intake.readers.volumes import A_VOXEL, MAX_VOXELS
from asyndgan.received import UnreadableError, opened

_SUBFILE, _COLUMNS, _ROWS, _BITS, _PACKING, _COLOURS = 254, 256, 257, 258, 259, 262
_TEXT, _TURN, _SAMPLES, _UNIT, _FORMAT = 270, 274, 277, 296, 339
_REDUCED: Final = 1  # a bit of `_SUBFILE`
_USED: Final = (_SUBFILE, _COLUMNS, _ROWS, _BITS, _PACKING, _COLOURS, _TURN, _SAMPLES, _FORMAT)
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


@dataclass(frozen=True)
class _Stack:
    """An open file.

    Attributes:
        numbers: of its pages of full size.
        unsigned: whether they hold 32 bits without a sign, which Pillow takes for signed.
        axes: slices and channels of the pages, and whether each channel's slices lie together.
        mm: millimetres between slices, rows and columns; None where the file does not say.
        painted: whether it says that it was painted.
        called: names of the channels, by OME; empty: not all are told.
    """

    picture: Picture.Image
    numbers: list[int]
    unsigned: bool
    axes: tuple[int, int, bool]
    mm: tuple[float, float, float] | None
    painted: bool
    called: list[str]

    def pages(self) -> np.ndarray:
        """Decodes pages (slices, channels, rows, columns), or one of (rows, columns, 3)."""
        planes = []
        for number in self.numbers:
            self.picture.seek(number)
            plane = np.array(self.picture)
            planes.append(plane.view(np.uint32) if self.unsigned else plane)
        slices, channels, slices_first = self.axes
        order = (channels, slices) if slices_first else (slices, channels)
        stacked = np.stack(planes).reshape(*order, *planes[0].shape)
        return stacked.swapaxes(0, 1) if slices_first else stacked


@final
class Tiff(Reader):
    """Reads grey and RGB pictures and stacks; writes what Pillow can in its type, else float32."""

    kind = "TIFF"
    spaced = True
    volumes = False
    colour = True

    def image(self, path: Path, *, most: int) -> list[Stored]:
        """See `Reader.image`; RGB holds three modalities, and each channel is one."""
        with _opened(path, labels=False) as stack:
            pages, mode, channels = stack.pages(), stack.picture.mode, stack.axes[1]
        first = modalities_of(path, pages[0, 0], mode, most)
        if mode == "RGB":
            return [_stored([plane], stack) for plane in first]
        if channels > most:
            told = f" ({', '.join(stack.called)})" if stack.called else ""
            raise DataFileError(
                path,
                f"holds {channels} channels{told}, where {most} were expected",
                "Name each under channel_names in dataset.json, or store one file a channel.",
            )
        return [
            replace(_stored(list(pages[:, number]), stack), called=name)
            for number, name in enumerate(stack.called or [""] * channels)
        ]

    def mask(self, path: Path) -> Stored:
        """See `Reader.mask`."""
        with _opened(path, labels=True) as stack:
            pages, mode = stack.pages(), stack.picture.mode
        if stack.axes[1] > 1:
            raise DataFileError(
                path, "is a mask of several channels", "Store one label a pixel, in one channel."
            )
        labels_of(path, pages[0, 0], mode)
        return _stored(list(pages[:, 0]), stack)

    def place(self, path: Path) -> Mapping[str, Any]:
        """See `Reader.place`."""
        with _opened(path, labels=False) as stack:
            return {"stack": stack.axes[0] > 1, "mm": stack.mm}

    def write(
        self,
        path: Path,
        plane: np.ndarray,
        *,
        spacing: tuple[float, ...],
        note: str,
        geometry: Geometry = AXIAL,
    ) -> None:
        """See `Reader.write`; RGB is rounded and clipped to 8 bits."""
        _write(path, [plane], (geometry.thickness, *spacing), note)

    def write_painted(
        self, path: Path, planes: Sequence[np.ndarray], *, place: Mapping[str, Any], axis: int
    ) -> None:
        """See `Reader.write_painted`."""
        pages = list(planes)
        if place["stack"]:
            volume = volume_of(planes, axis)
            pages = [plane_of(volume, 2, number) for number in range(volume.shape[2])]
        _write(path, pages, place["mm"], NOT_ACQUIRED)


def _stored(pages: Sequence[np.ndarray], stack: _Stack) -> Stored:
    """A picture, or the volume whose axial slices the pages are."""
    if len(pages) == 1:
        return Stored(pages[0], pixel=stack.mm and stack.mm[1:], painted=stack.painted)
    affine = turn = None
    if stack.mm:
        slices, rows, columns = stack.mm
        affine = np.diag([columns, rows, slices, 1.0])
        turn = np.array([[0, 1], [1, 1], [2, 1]])
    return Stored(volume_of(pages, 2), affine, turn, painted=stack.painted)


@contextmanager
def _opened(path: Path, *, labels: bool) -> Iterator[_Stack]:
    with decoding(path, "TIFF"), opened(path) as file:
        pages = _directories(file)
        numbers = [at for at, page in enumerate(pages) if not page.get(_SUBFILE, 0) & _REDUCED]
        if not numbers or numbers[0]:
            raise UnreadableError("its first page is no image of full size")
        used = [pages[number] for number in numbers]
        for page in used:
            bounded(path, page[_COLUMNS], page[_ROWS])
            _check_page(path, page, used, labels=labels)
        first = used[0]
        samples = first.get(_SAMPLES, 1)
        limits.allow(path, A_VOXEL * len(used) * samples * first[_COLUMNS] * first[_ROWS])
        file.seek(0)
        with Picture.open(file, formats=["TIFF"]) as picture:
            text = _description(picture)
            axes = _axes(path, text, len(used), samples)
            yield _Stack(
                picture,
                numbers,
                (first.get(_FORMAT, 1), first.get(_BITS)) == (1, 32),
                axes,
                _spacing(picture, text),
                NOT_ACQUIRED in text,
                _channels(text, axes[1]),
            )


def _channels(text: str, count: int) -> list[str]:
    """The names that OME gives `count` channels; none, if it does not name all."""
    found = re.findall(r'<Channel\b[^>]*?\bName="([^"]{1,64})"', text) if "<OME" in text else []
    return [unescape(name) for name in found] if len(found) == count else []


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
    turned = page.get(_COLOURS) == _WHITE_IS_0 or page.get(_TURN, 1) != 1
    grey = samples == 1 and (labels or (bits > 1 and page.get(_COLOURS) != _PALETTE))
    if (
        (form, bits) not in _READ
        or (samples > 1 and bits != 8)
        or turned
        or (len(pages) > 1 and not grey)
    ):
        kind = {1: "unsigned", 2: "signed", _FLOAT: "floating-point"}.get(form, "other")
        more = ", white as 0 or turned" if turned else f", in {len(pages)} pages"
        raise DataFileError(
            path,
            f"stores {samples} {kind} numbers of {bits} bits a pixel{more}, which are not read",
            "Save it upright, black as 0: grey of 8 or 16 bits unsigned or 32 bits floating-point, "
            "or one picture a file with 8 bits a colour.",
        )
    if labels and page.get(_PACKING) in _LOSSY:
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
