"""One image with its mask as stored, and a record of what was done to prepare it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, final

import numpy as np

MODALITIES_LIMIT: Final = 64
"""Most modalities one site may have: the number a message can name."""


@final
@dataclass(frozen=True)
class Source:
    """The files that a case, or a slice, was read from.

    Attributes:
        name: the case's name in the file names; all slices of a volume share it.
        shape: pixels or voxels along each stored axis: two for a picture, three for a volume.
        spacing: millimetres along each of them; 1.0 where the format has no spacing.
        orientation: see `asyndgan.intake.readers.Stored`.
    """

    name: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str = ""


@final
@dataclass(frozen=True)
class Levels:
    """What a recipe's intensities keep of one modality of a case.

    Attributes:
        low: lowest stored intensity.
        high: highest stored intensity.
        black: lowest prepared intensity, from -1; of no use where all lie above 1.
        white: highest prepared intensity, up to 1.
        digest: SHA-256 of the stored pixels, in hexadecimal; empty if all are equal.
        pixels: number of pixels.
        below: pixels below black by more than `asyndgan.store.measuring.MARGIN` of the range.
        bright: pixels that are not black.
        above: pixels above white.
        labels: of each label other than 0, its pixels and how many of them lie outside the range,
            on either side, by more than that margin.
        is_mask: whether the image is the mask, or a multiple of it.
    """

    low: float
    high: float
    black: float
    white: float
    digest: str
    pixels: int
    below: int
    bright: int
    above: int
    labels: dict[int, tuple[int, int]]
    is_mask: bool


@final
@dataclass(frozen=True)
class Preparation:
    """How the stored arrays became a `Case`; `asyndgan.store.prepare.invert` undoes it.

    Attributes:
        shape: rows and columns as stored, in pixels.
        spacing: millimetres per pixel as stored, along rows and columns; 1.0 where the format has
            no spacing.
        resized: rows and columns after resampling, before cropping and padding.
        offset: row and column at which the resized image starts in the prepared one; negative
            where it was cropped.
        scale: factor for each modality in `prepared = stored * scale + shift`.
        shift: summand for each modality in the same formula.
        levels: what the intensities keep of each modality; None for one that is absent.
        cut: brightness that cropping cut off, and that of the whole plane, above its darkest pixel
            and of all modalities together; zeros where nothing was cropped.
        source: the files; None for a case that was not read from any.
    """

    shape: tuple[int, int]
    spacing: tuple[float, float]
    resized: tuple[int, int]
    offset: tuple[int, int]
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    levels: tuple[Levels | None, ...] = ()
    cut: tuple[float, float] = (0.0, 0.0)
    source: Source | None = None

    @property
    def labelled(self) -> bool:
        """Whether the mask as stored has a label other than 0.

        Resampling or cropping may lose it. Whoever chooses the grid could otherwise have a slice
        come and go, and see in a site's number of cases whether a patient is there.
        """
        return any(levels.labels for levels in self.levels if levels)


@final
class Intensities:
    """Statistics of one modality of one case, each computed on first use.

    The slices of a volume share one instance, so they are normalised by the volume as a whole.
    """

    def __init__(self, values: np.ndarray) -> None:
        """Keeps a reference to `values`, stored intensities of any shape."""
        self._values = values
        self._percentiles: dict[tuple[float, float], tuple[float, float]] = {}

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """Lowest and highest intensity."""
        return float(self._values.min()), float(self._values.max())

    @cached_property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation."""
        values = self._values
        return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))

    def percentiles(self, low: float, high: float) -> tuple[float, float]:
        """Intensities below which `low` and `high` per cent of the pixels lie."""
        if (low, high) not in self._percentiles:
            below, above = np.percentile(self._values, (low, high))
            self._percentiles[low, high] = float(below), float(above)
        return self._percentiles[low, high]


@final
@dataclass(frozen=True)
class RawCase:
    """One case, or one slice of a volume, as stored and before any preparation.

    Attributes:
        name: as in `Case`.
        patient: as in `Case`.
        channels: modality name to a float32 array (rows, columns) of stored intensities.
        mask: int64 labels (rows, columns); None where the data set has no labels for the case.
        spacing: millimetres per pixel, along rows and columns.
        volume: modality name to the statistics of the whole volume; empty unless the case is a
            slice of a volume.
        source: the files that it was read from; None: none.
    """

    name: str
    patient: str
    channels: dict[str, np.ndarray] = field(repr=False)
    mask: np.ndarray | None = field(repr=False)
    spacing: tuple[float, float] = (1.0, 1.0)
    volume: dict[str, Intensities] = field(default_factory=dict, repr=False)
    source: Source | None = None

    def intensities(self, modality: str) -> Intensities:
        """Statistics of `modality` over the case, or over the whole volume if this is a slice."""
        return self.volume.get(modality) or Intensities(self.channels[modality])


def prepared_spacing(preparation: Preparation) -> tuple[float, float]:
    """Millimetres per row and per column of the prepared image, after any resampling."""
    rows, columns = (
        spacing * stored / resized
        for spacing, stored, resized in zip(
            preparation.spacing, preparation.shape, preparation.resized, strict=True
        )
    )
    return rows, columns
