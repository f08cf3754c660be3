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
    """The files of a case or a slice.

    Attributes:
        name: in the file names; all slices of a volume share it.
        shape: pixels or voxels along each stored axis.
        spacing: millimetres along each; 1.0 where the format has no spacing.
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
        low, high: lowest and highest stored intensity.
        black, white: lowest and highest prepared intensity, within [-1, 1].
        digest: SHA-256 of the stored pixels, in hexadecimal; empty if all are equal.
        pixels: number of pixels.
        below: pixels below black by more than `asyndgan.store.fitting.MARGIN` of the range.
        bright: pixels that are not black.
        above: pixels above white.
        labels: of each label but 0, its pixels and how many lie outside by more than that margin.
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
        shape: sides as stored, in pixels: rows and columns, after the slices of a whole volume.
        spacing: millimetres per pixel along each; 1.0 where the format has no spacing.
        resized: sides after resampling, before cropping and padding.
        offset: where the resized image starts in the prepared one; negative where it was cropped.
        scale, shift: of each modality in `prepared = stored * scale + shift`.
        levels: what the intensities keep of each modality; None for one that is absent.
        cut: brightness that was cropped off, and that of the whole; zeros: nothing was cropped.
        source: the files; None: none.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    resized: tuple[int, ...]
    offset: tuple[int, ...]
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    levels: tuple[Levels | None, ...] = ()
    cut: tuple[float, float] = (0.0, 0.0)
    source: Source | None = None

    @property
    def labelled(self) -> bool:
        """Whether the mask as stored has a label other than 0.

        By the prepared mask, which may lose one, a number of cases would tell of a patient.
        """
        return any(levels.labels for levels in self.levels if levels)


@final
class Intensities:
    """Statistics of one modality, on first use; the slices of a volume share one instance."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self._percentiles: dict[tuple[float, float], tuple[float, float]] = {}

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """Lowest and highest intensity."""
        return float(self._values.min()), float(self._values.max())

    def percentiles(self, low: float, high: float) -> tuple[float, float]:
        """Intensities below which `low` and `high` per cent of the pixels lie."""
        if (low, high) not in self._percentiles:
            below, above = np.percentile(self._values, (low, high))
            self._percentiles[low, high] = float(below), float(above)
        return self._percentiles[low, high]


@final
@dataclass(frozen=True)
class RawCase:
    """A picture, a slice of a volume or a whole volume, as stored.

    Attributes:
        name, patient: as in `Case`.
        channels: modality to stored intensities, float32 ([slices,] rows, columns).
        mask: int64 labels of the same shape; None: the data set has none.
        spacing: millimetres per pixel, along the same.
        volume: modality to the statistics of the whole volume, of which this is a slice.
        source: the files that it was read from; None: none.
    """

    name: str
    patient: str
    channels: dict[str, np.ndarray] = field(repr=False)
    mask: np.ndarray | None = field(repr=False)
    spacing: tuple[float, ...] = (1.0, 1.0)
    volume: dict[str, Intensities] = field(default_factory=dict, repr=False)
    source: Source | None = None

    def intensities(self, modality: str) -> Intensities:
        """Statistics of `modality` over the case, or over the whole volume if this is a slice."""
        return self.volume.get(modality) or Intensities(self.channels[modality])


def prepared_spacing(preparation: Preparation) -> tuple[float, ...]:
    """Millimetres per pixel along each side of the prepared image."""
    return tuple(
        spacing * stored / resized
        for spacing, stored, resized in zip(
            preparation.spacing, preparation.shape, preparation.resized, strict=True
        )
    )
