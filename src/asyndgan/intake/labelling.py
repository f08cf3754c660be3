"""What the numbers in a mask look like, where they are not labels of the data set."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from asyndgan.intake.readers import DataFileError, Stored, reader_of

NEARLY: Final = 1e-3
"""How far a stored label may lie off a whole number: headers scale, and rounding errors remain."""

LEAST_LEVEL: Final = 16
"""Smallest step between the grey levels of a mask that was made to be looked at."""

LEAST_UNEVEN: Final = 16
"""Fewest pixels that change from one to the next in an interpolated mask: fewer may be specks."""

MOST_SLICES: Final = 32
"""Most slices of a volume that are looked at."""

UNMARKED: Final = (255, 65535, 2**32 - 1)
"""What -1 becomes in 8, 16 and 32 bits without a sign."""

SHOWN: Final = 8
"""Most labels that an error lists; a picture mistaken for a mask may hold hundreds."""

_AGAIN = (
    "Export the mask again from what it was drawn with, or resample it with nearest neighbour, so "
    "that each pixel holds one label."
)


def read_mask(path: Path) -> Stored:
    """Reads one mask as int64.

    Raises:
        DataError: the file cannot be read, is too large, or does not hold whole numbers.
    """
    stored = reader_of(path).mask(path)
    values = stored.values
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all():
            raise DataFileError(path, "is a mask with values that are not numbers", _AGAIN)
        whole = np.round(values)
        if np.abs(values - whole).max() > NEARLY:
            raise DataFileError(
                path,
                "is a mask with values that are not whole numbers: it looks interpolated, or like "
                "probabilities",
                _AGAIN,
            )
        values = whole
    return replace(stored, values=values.astype(np.int64))


def check_mask(path: Path, mask: np.ndarray, labels: Mapping[str, int]) -> None:
    """Checks that a mask holds no labels other than those given.

    Raises:
        DataFileError: it holds others; the error says what they look like.
    """
    present = np.unique(mask)
    unknown = present[~np.isin(present, list(labels.values()))]
    if unknown.size:
        raise DataFileError(path, *_looks(mask, present, unknown, labels))


def _looks(
    mask: np.ndarray, present: np.ndarray, unknown: np.ndarray, labels: Mapping[str, int]
) -> tuple[str, str]:
    """Reason and remedy for a mask with unknown labels."""
    if unknown.tolist() == [255] and set(present.tolist()) <= {0, 255}:
        ones = [name for name, number in labels.items() if number == 1]
        two = len(labels) == 2 and ones
        return "looks like a 0/255 mask: it is black and white", (
            f"Divide it by 255, so that 255 becomes label 1 ('{ones[0]}')."
            if two
            else "Replace 255 by the number of the label that it means."
        )
    if unknown.size <= 2 and all(mark < 0 or mark in UNMARKED for mark in unknown.tolist()):
        return (
            f"holds {' and '.join(map(str, unknown))}, by which programs mark background, or what "
            "nobody annotated",
            "Write 0 in its place where it is background; leave out cases or slices in which it "
            "marks what nobody annotated.",
        )
    if _interpolated(mask, unknown):
        return (
            "looks interpolated, or like a picture: it holds numbers that are no label and change "
            "from pixel to pixel",
            _AGAIN,
        )
    levels = present[present > 0]
    places = np.round(levels / levels[0]) if levels.size else levels
    even = levels.size and np.abs(levels - places * levels[0]).max() <= places.max()
    if even and levels[0] >= LEAST_LEVEL and levels.size < max(2, len(labels)):
        return (
            f"holds grey levels ({', '.join(map(str, present))}) in place of labels",
            "Replace each level by the number of its label.",
        )
    if unknown.size > SHOWN or unknown.max() > 255:
        return (
            "looks like a map of instances: it gives each object a number of its own",
            "Give each pixel the label of its object, as dataset.json numbers them.",
        )
    return (
        f"has the labels {', '.join(map(str, unknown))}, which dataset.json does not name",
        "Name them under labels there, or remap the mask.",
    )


def _interpolated(mask: np.ndarray, unknown: np.ndarray) -> bool:
    """Whether most unknown values, and two at least, change from pixel to pixel.

    Of such a value most pixels lie between those of two neighbours, or have no neighbour alike.
    """
    if mask.ndim == 3:  # some slices tell as much as a large volume
        holding = np.flatnonzero(np.isin(mask, unknown).any((0, 1)))
        mask = mask[..., holding[:MOST_SLICES]]
    between, alike = np.zeros(mask.shape, bool), np.zeros(mask.shape, bool)
    for axis in range(mask.ndim):
        line = np.moveaxis(mask, axis, 0)
        inner, same = np.moveaxis(between, axis, 0)[1:-1], np.moveaxis(alike, axis, 0)
        before, here, after = line[:-2], line[1:-1], line[2:]
        inner |= (np.minimum(before, after) < here) & (here < np.maximum(before, after))
        same[1:] |= line[1:] == line[:-1]
        same[:-1] |= line[1:] == line[:-1]
    chosen = np.isin(mask, unknown)
    places = np.searchsorted(unknown, mask[chosen])
    count = np.bincount(places, minlength=unknown.size)
    uneven = np.bincount(places, (between | ~alike)[chosen], minlength=unknown.size)
    many = int((uneven > count / 2).sum())
    return 2 * many >= max(4, unknown.size) and int(uneven.sum()) >= LEAST_UNEVEN
