"""The file formats of images and masks: one `Reader` each, found by how a file's name ends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from asyndgan.data.readers.nifti import Nifti
from asyndgan.data.readers.png import Png
from asyndgan.data.readers.reader import (
    AXIAL,
    NOT_ACQUIRED,
    DataFileError,
    Geometry,
    Reader,
    Stored,
)

READERS: Final[Mapping[str, Reader]] = {".png": Png(), ".nii.gz": Nifti(), ".nii": Nifti()}
"""The ending of a file's name to the reader of its format."""


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


__all__ = [
    "AXIAL",
    "NOT_ACQUIRED",
    "READERS",
    "DataFileError",
    "Geometry",
    "Reader",
    "Stored",
    "reader_of",
]
