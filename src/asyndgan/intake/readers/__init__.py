"""The file formats of images and masks: one `Reader` each, found by how a file's name ends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from asyndgan.intake.readers.bmp import Bmp
from asyndgan.intake.readers.jpeg import Jpeg
from asyndgan.intake.readers.mha import Mha
from asyndgan.intake.readers.nifti import Nifti
from asyndgan.intake.readers.nrrd import Nrrd
from asyndgan.intake.readers.png import Png
from asyndgan.intake.readers.reader import (
    AXIAL,
    NOT_ACQUIRED,
    DataFileError,
    Geometry,
    Reader,
    Stored,
)
from asyndgan.intake.readers.tiff import Tiff

READERS: Final[Mapping[str, Reader]] = {
    ".png": Png(),
    ".nii.gz": Nifti(),
    ".nii": Nifti(),
    ".jpg": Jpeg(),
    ".jpeg": Jpeg(),
    ".bmp": Bmp(),
    ".tif": Tiff(),
    ".tiff": Tiff(),
    ".nrrd": Nrrd(),
    ".mha": Mha(),
}
"""The ending of a file's name to the reader of its format."""

LOSSLESS: Final = tuple(ending for ending, reader in READERS.items() if not reader.lossy)
"""Endings of files that hold masks, and that are written."""


def reader_of(path: Path) -> Reader:
    """Returns the reader of a file's format.

    Raises:
        DataFileError: no reader is for files of such a name.
    """
    for ending, reader in READERS.items():
        if path.name.endswith(ending):
            return reader
    raise DataFileError(
        path, "is of a format that is not read", f"Store it as {' or '.join(READERS)}."
    )


def lossless(ending: str) -> str:
    """How masks and synthetic images beside images of this ending end: as they do, or in .png."""
    return ending if ending in LOSSLESS else ".png"


__all__ = [
    "AXIAL",
    "LOSSLESS",
    "NOT_ACQUIRED",
    "READERS",
    "DataFileError",
    "Geometry",
    "Reader",
    "Stored",
    "lossless",
    "reader_of",
]
