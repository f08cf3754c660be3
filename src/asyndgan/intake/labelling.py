"""What the numbers in a mask look like, where they are not labels of the data set."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from asyndgan.intake import reading
from asyndgan.intake.readers import AXIAL, READERS, DataFileError, Stored
from asyndgan.intake.readers.reader import viewed

NEARLY: Final = 1e-3
"""How far a stored label may lie off a whole number: headers scale, and rounding errors remain."""

UNMARKED: Final = (255, 65535, 2**32 - 1)
"""What -1 becomes in 8, 16 and 32 bits without a sign."""

SHOWN: Final = 8
"""Most unknown labels of a mask that may mean them."""

_AGAIN = (
    "Export the mask again from what it was drawn with, scaled with nearest neighbour only, so "
    "that each pixel holds one label."
)


def read_mask(path: Path) -> Stored:
    """Reads a mask as int64; raises `DataError` if unreadable, too large or no whole numbers."""
    stored = reading.mask(path)
    values = stored.values
    if np.issubdtype(values.dtype, np.floating):
        whole = np.round(values)
        if not np.isfinite(values).all() or np.abs(values - whole).max() > NEARLY:
            raise DataFileError(path, "is a mask with values that are not whole numbers", _AGAIN)
        values = whole
    return replace(stored, values=values.astype(np.int64))


def keep_mask(half: Path, mask: np.ndarray, ending: str) -> None:
    """Writes a mask (*sides) of whole numbers; the name does not say the format, `ending` does."""
    named = half.with_name(half.name + ending)
    READERS[ending].write(named, mask, spacing=(1.0,) * mask.ndim, note="")
    named.replace(half)


def kept_mask(path: Path) -> np.ndarray:
    """A mask that `keep_mask` wrote, int64 (*sides); raises as `read_mask`."""
    values = read_mask(path).values
    return viewed(values, AXIAL.axis) if values.ndim == 3 else values


def check_mask(path: Path, mask: np.ndarray, labels: Mapping[str, int]) -> None:
    """Checks that a mask holds no other labels; raises `DataFileError` if it does."""
    present = np.unique(mask)
    unknown = present[~np.isin(present, list(labels.values()))]
    if not unknown.size:
        return
    listed = ", ".join(map(str, unknown))
    reason = f"has the labels {listed}, which dataset.json does not name"
    remedy = "Name them under labels there, or remap the mask."
    if unknown.tolist() == [255] and set(present.tolist()) <= {0, 255}:
        ones = [name for name, number in labels.items() if number == 1]
        reason = "looks like a 0/255 mask: it is black and white"
        remedy = "Replace 255 by the number of the label that it means."
        if len(labels) == 2 and ones:
            remedy = f"Divide it by 255, so that 255 becomes label 1 ('{ones[0]}')."
    elif unknown.size <= 2 and all(mark < 0 or mark in UNMARKED for mark in unknown.tolist()):
        reason = f"holds {listed}, by which programs mark background, or what nobody annotated"
        remedy = (
            "Write 0 in its place where it is background; leave out cases in which it marks what "
            "nobody annotated, and lower numTraining."
        )
    elif unknown.size > SHOWN:
        reason = f"holds over {SHOWN} numbers that are no label, as after smooth scaling or JPEG"
        remedy = f"{_AGAIN} If it numbers single objects, give all of a kind one label."
    raise DataFileError(path, reason, remedy)
