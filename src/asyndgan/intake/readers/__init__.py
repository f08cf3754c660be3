"""The file formats of images and masks: one `Reader` each, found by how a file's name ends."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from asyndgan.intake.readers.mha import Mha
from asyndgan.intake.readers.nifti import Nifti
from asyndgan.intake.readers.nrrd import Nrrd
from asyndgan.intake.readers.pictures import Jpeg, Png
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
    ".tif": Tiff(),
    ".tiff": Tiff(),
    ".nrrd": Nrrd(),
    ".mha": Mha(),
}
"""The ending of a file's name to the reader of its format."""

LOSSLESS: Final = tuple(ending for ending, reader in READERS.items() if not reader.lossy)
"""Endings of files that hold masks, and that are written."""


def reader_of(path: Path) -> Reader:
    """The reader of a file's format; raises `DataFileError` if none reads such names."""
    for ending, reader in READERS.items():
        if path.name.endswith(ending):
            return reader
    raise DataFileError(
        path, "is of a format that is not read", f"Store it as {' or '.join(READERS)}."
    )


def answers(
    path: Path, ask: str, most: int = 1
) -> Iterator[tuple[Mapping[str, Any], np.ndarray | None]]:
    """Reads a file in the process of `asyndgan.intake.worker`, as `Reader` has it.

    `ask` is "image" (of `most` modalities), "mask" or "place". Yields the other attributes of each
    `Stored`, and its values; or the place alone.
    """
    reader = reader_of(path)
    if ask == "place":
        yield reader.place(path), None
        return
    for stored in reader.image(path, most=most) if ask == "image" else [reader.mask(path)]:
        yield {key: value for key, value in vars(stored).items() if key != "values"}, stored.values


def lossless(ending: str) -> str:
    """How masks and synthetic images beside images of this ending end: as they do, or in .png."""
    return ending if ending in LOSSLESS else ".png"
