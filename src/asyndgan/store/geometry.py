"""The axis along which volumes are cut and the size of their slices: what suits them together."""

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from statistics import fmean
from typing import Final, Literal

from asyndgan.recipe import ImageSection
from asyndgan.store.case import Source

Axis = Literal["sagittal", "coronal", "axial"]

AXES: dict[Axis, int] = {"sagittal": 0, "coronal": 1, "axial": 2}

LEAST_SIDE: Final = 8
"""Fewest pixels along a side of a slice, as stored and after shrinking."""

SKEWED: Final = 2.0
"""Ratio of a slice's two spacings above which another axis is proposed."""

MOST_EMPTY: Final = 0.15
"""Largest fraction of padding for which no other size is proposed."""

SHORTEST: Final = 32
"""Fewest pixels along a side of a size that is proposed: the shipped discriminators need 24."""

LARGEST: Final = 1024
"""Most pixels along a side of an image."""


def plane(sides: Sequence[float], axis: int) -> list[float]:
    """Of the three axes of a volume, what remains of it in a slice: columns, rows."""
    return [side for place, side in enumerate(sides) if place != axis]


def slice_of(source: Source, image: ImageSection) -> tuple[list[float], list[float]]:
    """Pixels and millimetres per pixel of a picture, or of a volume's slices: rows, columns."""
    if len(source.shape) == 2:
        return list(source.shape), list(source.spacing)
    axis = AXES[image.axis]
    return plane(source.shape, axis)[::-1], plane(source.spacing, axis)[::-1]


def skew_of(source: Source, image: ImageSection) -> float:
    """Ratio of the two spacings of a slice, 1 or more."""
    spacing = slice_of(source, image)[1]
    return max(spacing) / min(spacing)


def resampled(
    shape: Sequence[float], spacing: Sequence[float], image: ImageSection
) -> tuple[int, int]:
    """Rows and columns of a plane after resampling, before cropping and padding.

    Args:
        shape: rows and columns as stored.
        spacing: millimetres per pixel along both.
        image: the recipe's grid.
    """
    if image.spacing:
        factors = [stored / to for stored, to in zip(spacing, image.spacing, strict=True)]
    elif image.fit == "stretch":
        return image.size
    else:
        # Proportions are those in millimetres: pixels of thick slices are not square.
        sides = [
            to / (stored * mm) for stored, mm, to in zip(shape, spacing, image.size, strict=True)
        ]
        scale = min(sides) if image.fit == "pad" else max(sides)
        factors = [scale * mm for mm in spacing]
    height, width = (
        max(1, round(side * factor)) for side, factor in zip(shape, factors, strict=True)
    )
    return height, width


def is_shrunk(shape: Sequence[float], resized: Sequence[int]) -> bool:
    """Whether resampling leaves too few pixels of a side."""
    return any(side < min(LEAST_SIDE, stored) for side, stored in zip(resized, shape, strict=True))


def fits(source: Source, image: ImageSection) -> bool:
    """Whether slices have enough pixels, as stored and after resampling."""
    shape, spacing = slice_of(source, image)
    return min(shape) >= LEAST_SIDE and not is_shrunk(shape, resampled(shape, spacing, image))


def alike(sources: Iterable[Source], image: ImageSection) -> list[Source]:
    """The files without volumes whose slices lie along another axis than most others'."""
    known = list(sources)
    volumes = [one for one in known if len(one.shape) == 3 and sorted(one.shape)[1] >= LEAST_SIDE]
    grids = [image, *(image.model_copy(update={"axis": axis}) for axis in AXES)]
    thin = [
        {one.name for one in volumes if min(slice_of(one, grid)[0]) < LEAST_SIDE} for grid in grids
    ]
    return [one for one in known if one.name not in min(thin, key=len)]


def suited(sources: Iterable[Source], image: ImageSection) -> ImageSection | None:
    """The grid with the axis, and with it the size or spacing, that suit these files together.

    Args:
        sources: pictures or volumes; those that are too small along every axis do not count.
        image: the recipe's grid, which is kept as far as it suits.

    Returns:
        A grid on which all of them fit; None: there is none.
    """
    known = [source for source in sources if sorted(source.shape)[-2] >= LEAST_SIDE]
    if not known:
        return None
    image = _along(known, image)
    for grid in chain([image], _others(known, image)):
        if all(fits(source, grid) for source in known):
            return _with_less(known, grid)
    return None


def options(image: ImageSection, wanted: ImageSection) -> tuple[str, ...]:
    """What to `--set` for another grid than the recipe's."""
    found = []
    if wanted.axis != image.axis:
        found.append(f"image.axis={wanted.axis}")
        if wanted.axis == "sagittal":  # a mirror would swap front and back
            found.append("training.flip=false")
    if wanted.size != image.size:
        found.append(f"image.size={wanted.size[0]}x{wanted.size[1]}")
    if wanted.spacing and wanted.spacing != image.spacing:
        found.append(f"image.spacing={wanted.spacing[0]:g}")
    return tuple(found)


def padding(sources: Iterable[Source], image: ImageSection) -> float:
    """Mean fraction of the prepared images that is padding, where `image.fit` is "pad"."""
    ratios = [_proportion(source, image) for source in sources]
    height, width = image.size
    parts = [ratio * width / height for ratio in ratios]
    return 1 - fmean(min(part, 1 / part) for part in parts) if parts else 0.0


def one_spacing(sources: Iterable[Source], image: ImageSection) -> str:
    """The option that brings all volumes to one spacing, in which each fits the image's size."""
    most = max(
        side * mm / to
        for source in sources
        if len(source.shape) == 3
        for side, mm, to in zip(*slice_of(source, image), image.size, strict=True)
    )
    digits = 10 ** (2 - math.floor(math.log10(most)))
    return f"image.spacing={math.ceil(most * digits) / digits:g}"


def _along(sources: Sequence[Source], image: ImageSection) -> ImageSection:
    """The grid along the axis whose slices have enough pixels and do not cross thick slices."""
    volumes = [source for source in sources if len(source.shape) == 3]
    if not volumes:
        return image
    grids = [image, *(image.model_copy(update={"axis": axis}) for axis in AXES)]
    thin = [min(min(slice_of(one, grid)[0]) for one in volumes) < LEAST_SIDE for grid in grids]
    skew = [max(skew_of(one, grid) for one in volumes) for grid in grids]
    best = min(range(len(grids)), key=lambda place: (thin[place], skew[place], place))
    better = skew[0] > SKEWED and skew[best] <= skew[0] / SKEWED and not thin[best]
    return grids[best] if thin[0] or better else image


def _others(sources: Sequence[Source], image: ImageSection) -> Iterable[ImageSection]:
    """Grids on which slices are shrunk less, the nearest first."""
    if image.spacing:
        most = min(
            side * mm / min(LEAST_SIDE, side)
            for source in sources
            for side, mm in zip(*slice_of(source, image), strict=True)
        )
        digits = 10 ** (2 - math.floor(math.log10(most)))
        less = math.floor(most * digits) / digits
        yield image.model_copy(update={"spacing": (less, less)})
    most = max(image.size)
    while image.fit == "pad" and not image.spacing and most <= LARGEST:
        yield image.model_copy(update={"size": _least_padded(sources, image, most)})
        yield image.model_copy(update={"size": (most, most)})
        most *= 2


def _with_less(sources: Sequence[Source], image: ImageSection) -> ImageSection:
    """The grid with a size that has at most half of the padding, if there is much."""
    if image.fit != "pad" or image.spacing or padding(sources, image) <= MOST_EMPTY:
        return image
    size = _least_padded(sources, image, max(image.size))
    less = image.model_copy(update={"size": size})
    halved = padding(sources, less) <= padding(sources, image) / 2
    return less if halved and all(fits(source, less) for source in sources) else image


def _least_padded(sources: Sequence[Source], image: ImageSection, most: int) -> tuple[int, int]:
    """The size, with `most` pixels along the longer side, in the mean proportion of the slices."""
    mean = fmean(math.log(_proportion(source, image)) for source in sources)
    short = max(min(most, SHORTEST), 16 * math.floor(most * math.exp(-abs(mean)) / 16 + 0.5))
    return (short, most) if mean < 0 else (most, short)


def _proportion(source: Source, image: ImageSection) -> float:
    """Height over width of a slice, in millimetres."""
    (rows, columns), (high, wide) = slice_of(source, image)
    return rows * high / (columns * wide)
