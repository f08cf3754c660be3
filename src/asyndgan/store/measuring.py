"""Measures what a recipe's intensities keep of a stored image, while it is prepared."""

import hashlib
from typing import Final

import numpy as np

from asyndgan.intensities import IMAGE_HIGH, IMAGE_LOW
from asyndgan.store.case import Levels

ROUNDED: Final = 1e-4
"""Tolerance at black and white, for rounding errors."""

MARGIN: Final = 0.05
"""Part of the range by which noise around black, or a label, may lie outside and is not lost."""


def levels_of(stored: np.ndarray, scale: float, shift: float, mask: np.ndarray | None) -> Levels:
    """Measures one modality of a case.

    Args:
        stored: intensities as stored (rows, columns).
        scale: factor that, with `shift`, maps the range to [-1, 1].
        shift: summand.
        mask: labels (rows, columns), 0 or more; None: there are none.
    """
    prepared = stored.astype(np.float64) * scale + shift
    margin = MARGIN * (IMAGE_HIGH - IMAGE_LOW)
    below, far = prepared < IMAGE_LOW - margin, prepared > IMAGE_HIGH + margin
    labels: dict[int, tuple[int, int]] = {}
    if mask is not None and mask.any():
        pixels = np.bincount(mask.ravel())
        lost = np.bincount(mask[below | far], minlength=len(pixels))
        labels = {int(n): (int(pixels[n]), int(lost[n])) for n in pixels.nonzero()[0] if n}
    low, high = float(stored.min()), float(stored.max())
    return Levels(
        low=low,
        high=high,
        black=max(IMAGE_LOW, float(prepared.min())),
        white=min(IMAGE_HIGH, float(prepared.max())),
        pixels=stored.size,
        below=int(np.count_nonzero(below)),
        bright=int(np.count_nonzero(prepared > IMAGE_LOW + ROUNDED)),
        above=int(np.count_nonzero(prepared > IMAGE_HIGH + ROUNDED)),
        labels=labels,
        digest="" if low == high else hashlib.sha256(stored.tobytes()).hexdigest(),
        is_mask=bool(labels) and _is_mask(stored, mask),
    )


def _is_mask(stored: np.ndarray, mask: np.ndarray | None) -> bool:
    """Whether an image is a multiple of its mask, which is not constant."""
    if mask is None or mask.min() == mask.max() or stored.max() <= 0:
        return False
    return np.array_equal(stored / stored.max() * mask.max(), mask)
