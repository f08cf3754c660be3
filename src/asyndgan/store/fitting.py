"""How a recipe prepares a stored case: its grid and intensities, by arithmetic without torch."""

import hashlib
import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from asyndgan.errors import DataError
from asyndgan.intensities import IMAGE_HIGH, IMAGE_LOW
from asyndgan.recipe import ImageSection, Intensity
from asyndgan.store.case import Levels, Preparation, RawCase
from asyndgan.store.geometry import is_shrunk, resampled
from asyndgan.store.info import DatasetInfo
from asyndgan.texts import shown_shape

SYNTHETIC_INTENSITY = Intensity(kind="range", low=0, high=255)
"""How synthetic data sets store [-1, 1] in 8 bits, independent of the recipe."""

ABSENT = (1 / 127.5, IMAGE_LOW)
"""Scale and shift for a modality that a case lacks: those of `SYNTHETIC_INTENSITY`."""

MOST_ENLARGED = 2**24
"""Most pixels of a plane that a recipe enlarges: only what is stored says what a machine bears."""

ROUNDED: Final = 1e-4

MARGIN: Final = 0.05
"""Part of the range by which noise around black, or a label, may lie outside and is not lost."""


def planned(
    raw: RawCase, image: ImageSection, modalities: Sequence[str], *, incomplete: bool = False
) -> Preparation:
    """How a case is brought to the recipe's grid, with `modalities` in this order.

    Nothing is `cut` yet: that is measured on the resampled image. Arguments and errors are those of
    `asyndgan.store.prepare.prepare`.
    """
    missing = [modality for modality in modalities if modality not in raw.channels]
    if len(missing) == len(modalities) or (missing and not incomplete):
        raise DataError(
            f"case {raw.name} has no modality {', '.join(missing) or 'at all'}; it has "
            f"{', '.join(raw.channels)}. Add the files, leave the case out, or take "
            "image.modalities that every case has. A generator may be trained on a set whose "
            'dataset.json says "incomplete": true; audit and augment want every modality of every '
            "case."
        )
    scales = [
        ABSENT if name in missing else _scale(raw, name, image.intensity_of(name))
        for name in modalities
    ]
    shape = next(iter(raw.channels.values())).shape
    if len(shape) != len(image.size):
        raise DataError(
            f"case {raw.name} is a picture, and image.size has three sides. Give it two."
        )
    resized = resized_to(shape, raw, image)
    return Preparation(
        shape=shape,
        spacing=raw.spacing,
        resized=resized,
        offset=tuple((to - side) // 2 for to, side in zip(image.size, resized, strict=True)),
        scale=tuple(scale for scale, _ in scales),
        shift=tuple(shift for _, shift in scales),
        levels=tuple(
            None if name in missing else levels_of(raw.channels[name], scale, shift, raw.mask)
            for name, (scale, shift) in zip(modalities, scales, strict=True)
        ),
        source=raw.source,
    )


def resized_to(shape: tuple[int, ...], raw: RawCase, image: ImageSection) -> tuple[int, ...]:
    """Sides of a case of this shape after resampling, before cropping and padding.

    Raises `DataError` for more than `MOST_ENLARGED` pixels, or a side of less than `LEAST_SIDE`.
    """
    resized = resampled(shape, raw.spacing, image)
    if math.prod(resized) > max(MOST_ENLARGED, math.prod(shape)):
        raise DataError(
            f"case {raw.name} would become {shown_shape(resized)} pixels. "
            f"Take a larger image.spacing, or check the file's ({raw.spacing} mm)."
        )
    if is_shrunk(shape, resized):
        raise DataError(
            f"case {raw.name} of {shown_shape(shape)} pixels would become {shown_shape(resized)}. "
            "Take the image.axis, image.size and image.spacing that 'asyndgan plan' chooses."
        )
    return resized


def shared_modalities(info: DatasetInfo, image: ImageSection) -> tuple[str, ...]:
    """Acquired modalities that data set and recipe share, in the recipe's order.

    All acquired modalities of the data set if the recipe lists none.
    """
    acquired = tuple(name for name in info.modalities if name not in info.painted)
    if not image.modalities:
        return acquired
    return tuple(name for name in image.modalities if name in acquired)


def grid_for(info: DatasetInfo, image: ImageSection) -> ImageSection:
    """The recipe's grid; for data sets that this package wrote on it, whatever their spacing."""
    kept = info.extra.get("masks_only") is True
    if not (info.synthetic or kept) or info.provenance.get("grid") == "masks":
        return image
    axis = "axial" if kept else image.axis  # as `runs.kept_masks` lays volumes
    return image.model_copy(update={"spacing": None, "fit": "stretch", "axis": axis})


def check_finite(case: str, modality: str, values: np.ndarray | tuple[float, ...]) -> None:
    """Raises `DataError` if an intensity is infinite or not a number."""
    if not np.isfinite(values).all():
        raise DataError(
            f"case {case}, modality {modality}: some intensities are infinite or not numbers. "
            "Replace them; 'asyndgan check' names every such file."
        )


def _scale(raw: RawCase, modality: str, intensity: Intensity) -> tuple[float, float]:
    case = raw.intensities(modality)
    lowest, highest = case.extremes
    check_finite(raw.name, modality, (lowest, highest))
    low, high = intensity.low, intensity.high
    if intensity.kind == "percentiles":
        low, high = case.percentiles(low, high)
        if low == high:  # nearly all pixels share one intensity: use the full range
            low, high = lowest, highest
    if intensity.kind != "range" and lowest == highest:
        low, high = lowest, lowest + max(1.0, abs(lowest))  # constant: becomes -1, invertibly
    scale = (IMAGE_HIGH - IMAGE_LOW) / (high - low)
    return scale, IMAGE_LOW - low * scale


def levels_of(stored: np.ndarray, scale: float, shift: float, mask: np.ndarray | None) -> Levels:
    """Measures one modality of a case: `stored` (rows, columns), mapped by `scale` and `shift`."""
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
