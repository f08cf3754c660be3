"""The axis along which volumes are cut, and how many pixels their slices have."""

from collections.abc import Sequence
from typing import Final, Literal

from asyndgan.recipe import ImageSection
from asyndgan.store.case import Source

Axis = Literal["sagittal", "coronal", "axial"]

AXES: dict[Axis, int] = {"sagittal": 0, "coronal": 1, "axial": 2}

LEAST_SIDE: Final = 8
"""Fewest pixels along a side of a slice, as stored and after shrinking."""


def plane(sides: Sequence[float], axis: int) -> list[float]:
    """Of the three axes of a volume, what remains of it in a slice: columns, rows."""
    return [side for place, side in enumerate(sides) if place != axis]


def slice_of(source: Source, image: ImageSection) -> tuple[list[float], list[float]]:
    """Pixels and millimetres per pixel: rows, columns; of whole volumes slices before them."""
    if len(source.shape) == 2:
        return list(source.shape), list(source.spacing)
    axis = AXES[image.axis]
    shape, spacing = (
        [*([sides[axis]] if image.whole else []), *plane(sides, axis)[::-1]]
        for sides in (source.shape, source.spacing)
    )
    return shape, spacing


def resampled(
    shape: Sequence[float], spacing: Sequence[float], image: ImageSection
) -> tuple[int, ...]:
    """Sides after resampling, before cropping and padding, of a shape with these mm per pixel."""
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
    return tuple(max(1, round(side * factor)) for side, factor in zip(shape, factors, strict=True))


def is_shrunk(shape: Sequence[float], resized: Sequence[int]) -> bool:
    """Whether resampling leaves too few pixels of a side."""
    return any(side < min(LEAST_SIDE, stored) for side, stored in zip(resized, shape, strict=True))
