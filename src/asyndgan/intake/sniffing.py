"""What a file holds by its first bytes, whatever its name says."""

import zlib
from pathlib import Path
from typing import Final, NamedTuple, final

from asyndgan.intake.remedies import (
    FROM_DICOM,
    RESAVED,
    TIFF_TO_PNG,
    TO_NIFTI,
    TO_PNG,
    kind_of,
    suited,
)
from asyndgan.received import gunzipped, opened

_HEAD = 544  # bytes: a NIfTI's header
_MOST = 2**63

COPY_AGAIN: Final = "Copy it again from where it came."

CONVERTED: Final = {
    **dict.fromkeys((".gif", ".webp", ".jp2", ".pgm", ".ppm"), TO_PNG),
    ".mhd": "Store header and voxels in one file (SimpleITK: WriteImage(ReadImage('FILE'), "
    "'NEW.mha')).",
    ".nhdr": "Store header and voxels in one file (pynrrd: write('NEW.nrrd', *read('FILE'))).",
    **dict.fromkeys((".mgz", ".mnc", ".img", ".hdr"), RESAVED),
    **dict.fromkeys((".dcm", ".ima"), FROM_DICOM),
    **dict.fromkeys((".npy", ".npz", ".mat", ".h5"), "Store its array as NIfTI, with its spacing."),
}
"""Ending of a file in a format that is not read, in small letters, to what to do with the file."""


@final
class Content(NamedTuple):
    """A kind of file: `name` with its article, and the sentence of what to do about it."""

    name: str
    remedy: str


_NIFTI, _PACKED, _PNG = (Content(name, "") for name in ("plain NIfTI", "gzipped NIfTI", "PNG"))
_BMP = Content("a BMP picture", TO_PNG)
_PNM = Content("a PNM picture (.pgm, .ppm)", TO_PNG)
_ANALYZE = Content("the header of an Analyze pair (.hdr, .img)", RESAVED)
_TIFF = Content("a TIFF picture", TIFF_TO_PNG)
_NRRD, _META = (Content(name, TO_NIFTI) for name in ("an NRRD volume", "a MetaImage volume"))
_EMPTY = Content("an empty file (0 bytes)", COPY_AGAIN)
_JPEG = Content("a JPEG picture", TO_PNG)
_ARCHIVE = "Unpack it, and name the files as dataset.json says."
_FETCH = "Fetch the file itself ({}); a clone holds only a pointer to it."
_PAGE = Content("a web page", "The download failed, or wants a login: download the file again.")
_BEGINS: Final = (
    (0, b"\x89PNG", _PNG),
    (0, b"\xff\xd8\xff", _JPEG),
    (0, b"GIF8", Content("a GIF picture", TO_PNG)),
    (0, b"BM", _BMP),
    *((0, magic, _PNM) for magic in (b"P2\n", b"P3\n", b"P5\n", b"P6\n")),
    *((0, magic, _TIFF) for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (8, b"WEBP", Content("a WebP picture", TO_PNG)),
    (4, b"jP  ", Content("a JPEG 2000 picture", TO_PNG)),
    (128, b"DICM", Content("a DICOM file", FROM_DICOM)),
    (344, b"n+1\0", _NIFTI),
    (4, b"n+2\0", _NIFTI),
    (344, b"ni1\0", Content("the header of a NIfTI pair (.hdr, .img)", RESAVED)),
    *((0, size, _ANALYZE) for size in (b"\x5c\1\0\0", b"\0\0\1\x5c")),  # 348, its length
    (0, b"NRRD000", _NRRD),
    (0, b"ObjectType", _META),
    (0, b"\x89HDF", Content("an HDF5 file", CONVERTED[".h5"])),
    (0, b"\x93NUMPY", Content("a NumPy array", CONVERTED[".npy"])),
    (0, b"MATLAB", Content("a MATLAB file", CONVERTED[".mat"])),
    (0, b"PK\x03\x04", Content("a ZIP archive", _ARCHIVE)),
    (0, b"7z\xbc\xaf", Content("a 7z archive", _ARCHIVE)),
    (0, b"%PDF", Content("a PDF", "Export the image itself.")),
    (0, b"version https://git-lfs", Content("a Git LFS pointer", _FETCH.format("git lfs pull"))),
    (0, b"/annex/objects", Content("a git-annex pointer", _FETCH.format("datalad get FILE"))),
    (0, b"<!doctype html", _PAGE),
    (0, b"<html", _PAGE),
    (0, b"<?xml", Content("an XML text", _PAGE.remedy)),
)
"""Offset, bytes (letters in either case if they are `<`-tags), and the kind of file."""

_KINDS: Final = {"PNG": _PNG, "JPEG": _JPEG, "BMP": _BMP, "TIFF": _TIFF} | {
    "NRRD": _NRRD,
    "MetaImage": _META,
}
"""`Reader.kind` to what a file of it holds, but for NIfTI, which is packed or not."""


def content_of(path: Path) -> Content | None:
    """The kind of a file by its first bytes; None if they are of no known kind or not readable."""
    try:
        with opened(path, _MOST) as file:
            head = file.read(_HEAD)
            if head.startswith(b"\x1f\x8b"):
                file.seek(0)
                with gunzipped(file) as packed:
                    inner = _known(packed.read(_HEAD))
                if inner == _NIFTI:
                    return _PACKED
                damaged = path.name.endswith(".gz") and inner is None
                return None if damaged else Content("a gzip archive", _ARCHIVE)
    except (OSError, ValueError, EOFError, zlib.error):
        return None
    if not head:
        return _EMPTY
    if not any(head):
        return Content("a file of zero bytes only", COPY_AGAIN)
    return _known(head)


def _known(head: bytes) -> Content | None:
    text = head.lstrip().lower()
    for offset, magic, content in _BEGINS:
        if (text if magic.startswith(b"<") else head[offset:]).startswith(magic):
            return content
    return None


def mistaken(path: Path, kind: str, *, labels: bool, most: int = 1) -> tuple[str, str] | None:
    """Why a file cannot be read as what its name says, if it holds something else.

    Args:
        path: the file.
        kind: what was wanted, a `Reader.kind`.
        labels: whether it was to be a mask.
        most: how many modalities it may hold.

    Returns:
        Reason and remedy; None if nothing else was recognised.
    """
    found = content_of(path)
    nifti = _PACKED if path.name.endswith(".gz") else _NIFTI
    wanted = {**_KINDS, "NIfTI": nifti}.get(kind)
    if found in (None, wanted) or wanted is None:
        return None
    remedy = found.remedy
    if wanted == _PACKED and found == _NIFTI:
        remedy = "Compress it: gzip -c FILE > NEW && mv NEW FILE."
    elif wanted == _NIFTI and found == _PACKED:
        remedy = "Unpack it: gzip -dc FILE > NEW && mv NEW FILE."
    elif labels and found == _JPEG:
        remedy = f"Export the mask again, as {kind}: JPEG has changed its labels."
    elif (
        not remedy
        or (kind != "NIfTI" and remedy in (TO_NIFTI, RESAVED))
        or (kind != "PNG" and remedy in (TO_PNG, TIFF_TO_PNG))
    ):
        remedy = f"Export it as {kind}, or store the whole set in one format."
    remedy = suited(remedy, kind_of(path, labels=labels, most=most))
    expected = "" if found == _EMPTY else f", where {wanted.name} was expected"
    return f"is {found.name}{expected}", remedy
