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
    """The files of a case or a slice."""

    name: str  # in the file names; all slices of a volume share it
    shape: tuple[int, ...]  # pixels or voxels along each stored axis
    spacing: tuple[float, ...]  # millimetres along each; 1.0 where the format has no spacing
    orientation: str = ""  # see `asyndgan.intake.readers.Stored`


@final
@dataclass(frozen=True)
class Levels:
    """What a recipe's intensities keep of one modality of a case."""

    low: float  # lowest stored intensity
    high: float  # highest stored intensity
    black: float  # lowest prepared intensity, within [-1, 1]
    white: float  # highest prepared intensity, within [-1, 1]
    digest: str  # SHA-256 of the stored pixels, in hexadecimal; empty: all are equal
    pixels: int  # their number
    below: int  # pixels below black by more than `asyndgan.store.fitting.MARGIN` of the range
    bright: int  # pixels that are not black
    above: int  # pixels above white
    # of each but 0, its pixels and how many lie outside by more than that margin
    labels: dict[int, tuple[int, int]]
    is_mask: bool  # whether the image is the mask, or a multiple of it


@final
@dataclass(frozen=True)
class Preparation:
    """How the stored arrays became a `Case`; `asyndgan.store.prepare.invert` undoes it."""

    # sides as stored, in pixels: rows and columns, after the slices of a whole volume
    shape: tuple[int, ...]
    spacing: tuple[float, ...]  # millimetres per pixel along each; 1.0 if the format has no spacing
    resized: tuple[int, ...]  # sides after resampling, before cropping and padding
    offset: tuple[int, ...]  # where the resized image starts in the prepared one; negative: cropped
    scale: tuple[float, ...]  # of each modality in `prepared = stored * scale + shift`
    shift: tuple[float, ...]
    levels: tuple[Levels | None, ...] = ()  # what is kept of each modality; None: it is absent
    # brightness that was cropped off, and that of the whole; zeros: nothing was cropped
    cut: tuple[float, float] = (0.0, 0.0)
    source: Source | None = None  # None: no files

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
    """A picture, a slice of a volume or a whole volume, as stored."""

    name: str  # as in `Case`, and `patient`
    patient: str
    channels: dict[str, np.ndarray] = field(repr=False)  # float32 ([slices,] rows, columns)
    mask: np.ndarray | None = field(repr=False)  # int64 labels of the same shape; None: none
    spacing: tuple[float, ...] = (1.0, 1.0)  # millimetres per pixel, along the same
    # modality to the statistics of the whole volume, of which this is a slice
    volume: dict[str, Intensities] = field(default_factory=dict, repr=False)
    source: Source | None = None  # None: no files

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
