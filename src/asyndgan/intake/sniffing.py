"""What a file holds by its first bytes, whatever its name says."""

import zlib
from pathlib import Path
from typing import Final, NamedTuple, final

from asyndgan.received import opened

_HEAD = 544  # bytes: a NIfTI's header

FROM_DICOM: Final = "Make one data set of all folders of a site: asyndgan import FOLDER NEW."
COPY_AGAIN: Final = "Copy it again from where it came."


@final
class Content(NamedTuple):
    """A kind of file: `name` with its article, and what to do about it; empty: export it again."""

    name: str
    remedy: str = ""


_NIFTI, _PACKED = Content("plain NIfTI"), Content("gzipped NIfTI")
_KINDS: Final = {
    "PNG": Content("PNG"),
    "JPEG": Content(
        "a JPEG picture",
        "Convert images to PNG, such as with 'magick mogrify -format png FILES'. Export the mask "
        "again, if masks are named here, from what it was drawn with: JPEG has changed its labels.",
    ),
    "TIFF": Content("a TIFF picture"),
    "NRRD": Content("an NRRD volume"),
    "MetaImage": Content("a MetaImage volume"),
}
"""`Reader.kind` to what a file of it holds, but for NIfTI, which is packed or not."""

_PAGE = Content("a web page", "The download failed, or wants a login: download the file again.")
_POINTER = "Fetch the file itself (git lfs pull); a clone holds only a pointer to it."
_BEGINS: Final = (
    (0, b"\x89PNG", _KINDS["PNG"]),
    (0, b"\xff\xd8\xff", _KINDS["JPEG"]),
    (0, b"GIF8", Content("a GIF picture")),
    (8, b"WEBP", Content("a WebP picture")),
    (0, b"BM", Content("a BMP picture")),
    *((0, magic, _KINDS["TIFF"]) for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (128, b"DICM", Content("a DICOM file", FROM_DICOM)),
    (344, b"n+1\0", _NIFTI),
    (4, b"n+2\0", _NIFTI),
    (0, b"NRRD000", _KINDS["NRRD"]),
    (0, b"ObjectType", _KINDS["MetaImage"]),
    (0, b"\x89HDF", Content("an HDF5 file")),
    (0, b"PK\x03\x04", Content("a ZIP archive", "Unpack it.")),
    (0, b"version https://git-lfs", Content("a Git LFS pointer", _POINTER)),
    (0, b"<!doctype html", _PAGE),
    (0, b"<html", _PAGE),
)
"""Offset, bytes (letters in either case if they are `<`-tags), and the kind of file."""


def content_of(path: Path) -> Content | None:
    """The kind of a file by its first bytes; None if they are of no known kind or not readable."""
    try:
        with opened(path, links=True) as file:
            head = file.read(2 * _HEAD)
            if head.startswith(b"\x1f\x8b"):
                inside = zlib.decompressobj(31).decompress(head, _HEAD)
                return _PACKED if _known(inside) == _NIFTI else None
    except (OSError, ValueError, zlib.error):
        return None
    if not head:
        return Content("an empty file (0 bytes)", COPY_AGAIN)
    if not any(head):
        return Content("a file of zero bytes only", COPY_AGAIN)
    return _known(head)


def _known(head: bytes) -> Content | None:
    text = head.lstrip().lower()
    for offset, magic, content in _BEGINS:
        if (text if magic.startswith(b"<") else head[offset:]).startswith(magic):
            return content
    return None


def mistaken(path: Path, kind: str) -> tuple[str, str] | None:
    """Why a file cannot be read as this `Reader.kind`, and the remedy; None: not recognised."""
    found = content_of(path)
    nifti = _PACKED if path.name.endswith(".gz") else _NIFTI
    wanted = {**_KINDS, "NIfTI": nifti}.get(kind)
    if found in (None, wanted) or wanted is None:
        return None
    if wanted == _PACKED and found == _NIFTI:
        remedy = "Compress it: gzip -c FILE > NEW && mv NEW FILE."
    elif wanted == _NIFTI and found == _PACKED:
        remedy = "Unpack it: gzip -dc FILE > NEW && mv NEW FILE."
    else:
        remedy = found.remedy or f"Export it as {kind}, or store the whole set in one format."
    return f"is {found.name}, where {wanted.name} was expected", remedy
