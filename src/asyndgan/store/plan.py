"""How a recipe prepares a stored case: its grid and intensities, by arithmetic without torch."""

from collections.abc import Sequence

import numpy as np

from asyndgan.errors import DataError
from asyndgan.intensities import IMAGE_HIGH, IMAGE_LOW
from asyndgan.recipe import ImageSection, Intensity
from asyndgan.store.case import Preparation, RawCase, Source
from asyndgan.store.geometry import is_shrunk, options, resampled, suited
from asyndgan.store.info import DatasetInfo
from asyndgan.store.measuring import levels_of

SYNTHETIC_INTENSITY = Intensity(kind="range", low=0, high=255)
"""How synthetic data sets store [-1, 1] in 8 bits, independent of the recipe."""

ABSENT = (1 / 127.5, IMAGE_LOW)
"""Scale and shift for a modality that a case lacks: those of `SYNTHETIC_INTENSITY`."""

MOST_ENLARGED = 2**24
"""Most pixels of a plane that a recipe enlarges: only what is stored says what a machine bears."""


def planned(
    raw: RawCase, image: ImageSection, modalities: Sequence[str], *, incomplete: bool = False
) -> Preparation:
    """How a case is brought to the recipe's grid and intensities, and what they keep of it.

    Args:
        raw: the case as stored.
        image: the recipe's grid and normalisation.
        modalities: the channels to prepare, in this order.
        incomplete: whether the case may lack some of them, but not all.

    Returns:
        The preparation, with nothing `cut`: that is measured on the resampled image.

    Raises:
        DataError: as `asyndgan.store.prepare.prepare`.
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
    resized = resized_to((shape[0], shape[1]), raw, image)
    return Preparation(
        shape=(shape[0], shape[1]),
        spacing=raw.spacing,
        resized=resized,
        offset=((image.size[0] - resized[0]) // 2, (image.size[1] - resized[1]) // 2),
        scale=tuple(scale for scale, _ in scales),
        shift=tuple(shift for _, shift in scales),
        levels=tuple(
            None if name in missing else levels_of(raw.channels[name], scale, shift, raw.mask)
            for name, (scale, shift) in zip(modalities, scales, strict=True)
        ),
        source=raw.source,
    )


def resized_to(shape: tuple[int, int], raw: RawCase, image: ImageSection) -> tuple[int, int]:
    """Rows and columns of a case's planes after resampling, before cropping and padding.

    Args:
        shape: rows and columns as stored.
        raw: the case, for its spacing.
        image: the recipe's grid.

    Raises:
        DataError: the planes would be enlarged to more than `MOST_ENLARGED` pixels, or shrunk to
            less than `LEAST_SIDE` along a side.
    """
    height, width = resampled(shape, raw.spacing, image)
    if height * width > max(MOST_ENLARGED, shape[0] * shape[1]):
        raise DataError(
            f"case {raw.name} would become {height} x {width} pixels. "
            f"Take a larger image.spacing, or check the file's ({raw.spacing} mm)."
        )
    if is_shrunk(shape, (height, width)):
        wanted = suited([raw.source or Source(raw.name, shape, raw.spacing)], image)
        settings = " and ".join(options(image, wanted)) if wanted else ""
        raise DataError(
            f"case {raw.name} of {shape[0]} x {shape[1]} pixels would become {height} x {width}. "
            f"It would fit with {settings or 'more pixels'}; 'asyndgan check' names what fits all."
        )
    return height, width


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
    if not (info.synthetic or info.extra.get("masks_only") is True):
        return image
    return image.model_copy(update={"spacing": None, "fit": "stretch"})


def _scale(raw: RawCase, modality: str, intensity: Intensity) -> tuple[float, float]:
    """Computes the factor and summand that map stored intensities to [-1, 1]."""
    case = raw.intensities(modality)
    lowest, highest = case.extremes
    if not np.isfinite((lowest, highest)).all():
        raise DataError(
            f"case {raw.name}, modality {modality}: some intensities are infinite or not numbers. "
            "Replace them; 'asyndgan check' names every such file."
        )
    low, high = intensity.low, intensity.high
    if intensity.kind == "percentiles":
        low, high = case.percentiles(low, high)
        if low == high:  # nearly all pixels share one intensity: use the full range
            low, high = lowest, highest
    elif intensity.kind == "zscore":
        mean, deviation = case.moments
        low, high = mean + low * deviation, mean + high * deviation
    if intensity.kind != "range" and lowest == highest:
        low, high = lowest, lowest + max(1.0, abs(lowest))  # constant: becomes -1, invertibly
    scale = (IMAGE_HIGH - IMAGE_LOW) / (high - low)
    return scale, IMAGE_LOW - low * scale
