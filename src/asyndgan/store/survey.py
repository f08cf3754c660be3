"""What a recipe makes of a data set, summed up case by case while it is read.

A survey keeps numbers and digests, no image, and never leaves the party that holds the images.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, final

from asyndgan.intensities import IMAGE_HIGH, IMAGE_LOW
from asyndgan.recipe import ImageSection
from asyndgan.store.case import Levels, Preparation, Source

if TYPE_CHECKING:
    from asyndgan.store.prepared import Case


@dataclass
class Kept:
    """What the recipe's intensities keep of one modality, over several slices; see `Levels`."""

    low: float = float("inf")
    high: float = float("-inf")
    black: float = IMAGE_HIGH
    white: float = IMAGE_LOW
    counts: Counter[str] = field(default_factory=Counter)  # of `pixels`, `below`, `bright`, `above`
    pixels: Counter[int] = field(default_factory=Counter)  # of each label other than 0
    lost: Counter[int] = field(default_factory=Counter)  # those of them outside the range

    def add(self, levels: Levels) -> None:
        """Adds one slice."""
        self.low, self.high = min(self.low, levels.low), max(self.high, levels.high)
        self.black, self.white = min(self.black, levels.black), max(self.white, levels.white)
        self.counts.update(
            {key: getattr(levels, key) for key in ("pixels", "below", "bright", "above")}
        )
        for label, (pixels, lost) in levels.labels.items():
            self.pixels[label] += pixels
            self.lost[label] += lost

    def part(self, key: str, of: str = "pixels") -> float:
        """Fraction of one of the counts in another one."""
        return self.counts[key] / max(1, self.counts[of])


@dataclass
class Volume:
    """One picture, or the slices of one volume that a recipe trains on."""

    source: Source
    patient: str
    slices: int = 0  # number of its slices that are cases; 1 for a picture
    labelled: int = 0  # how many of them hold a label other than 0
    filled: float = 0.0  # sum over slices of the fraction of the prepared image that is no padding
    kept: float = 0.0  # sum over slices of the part of the resampled image that is not cropped away
    labels: set[int] = field(default_factory=set)  # other than 0, in its mask
    masks: int = 0  # how many labelled slices have, in some modality, their mask for an image
    # by modality, whether some slice is more than one grey value
    varied: dict[str, bool] = field(default_factory=dict)
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256, repr=False)
    _varies: bool = False

    def add(self, made: Preparation, image: ImageSection, labels: set[int]) -> None:
        """Adds one slice."""
        self.slices += 1
        self.labelled += bool(labels)
        self.labels |= labels
        self.masks += any(levels.is_mask for levels in made.levels if levels)
        held = math.prod(map(min, made.resized, image.size))
        self.filled += held / math.prod(image.size)
        self.kept += held / math.prod(made.resized)
        digest = picture_of(made)
        self._varies |= bool(digest)
        self._digest.update(digest.encode())

    @property
    def digest(self) -> str:
        """SHA-256 of its slices; empty if each modality of each is one grey value."""
        return self._digest.hexdigest() if self._varies else ""


@final
@dataclass(frozen=True)
class Enrolled:
    """Whose a case is, and whether it has each of the survey's modalities."""

    patient: str
    present: tuple[bool, ...]


def picture_of(made: Preparation) -> str:
    """Digests of the stored modalities of a slice; empty if each is one grey value."""
    return "".join(levels.digest for levels in made.levels if levels)


@final
class Survey:
    """Sums up the prepared cases of one data set; `masked`: whether masks are needed."""

    def __init__(self, image: ImageSection, *, masked: bool = True) -> None:
        self.image = image
        self.masked = masked
        self.volumes: dict[str, Volume] = {}
        self.kept: dict[str, dict[str, Kept]] = {}
        """What the intensities keep, by modality and patient."""
        self.modalities: tuple[str, ...] = ()
        self.roll: list[Enrolled] = []
        """Each case that the recipe trains on."""
        self.labels: set[int] = set()
        self.left_out = 0
        """Slices without a label that `image.slices` leaves out."""
        self.shrunk: dict[str, Source] = {}
        """Files, by name, that have no volume here, since preparing them leaves too few pixels."""

    @classmethod
    def of(cls, cases: Iterable["Case"], image: ImageSection, *, masked: bool = True) -> Self:
        """Sums up cases that are in memory."""
        made = cls(image, masked=masked)
        for case in cases:
            made.add(case.patient, case.modalities, case.preparation)
        return made

    @property
    def slices(self) -> int:
        """Number of cases that the recipe trains on."""
        return sum(volume.slices for volume in self.volumes.values())

    @property
    def sources(self) -> dict[str, Source]:
        """The files of each picture or volume, by its name."""
        return {name: volume.source for name, volume in self.volumes.items()} | self.shrunk

    @property
    def without(self) -> int:
        """Slices trained on that hold no label; 0 if there are no masks."""
        own = self.volumes.values() if self.masked else ()
        return sum(volume.slices - volume.labelled for volume in own)

    @property
    def empty(self) -> float:
        """Fraction of the prepared images that is padding; 0 if there is none."""
        filled = sum(volume.filled for volume in self.volumes.values())
        return 1 - filled / self.slices if self.slices else 0.0

    @property
    def cut(self) -> float:
        """Fraction of the resampled images that is cropped away; 0 if there is none."""
        kept = sum(volume.kept for volume in self.volumes.values())
        return 1 - kept / self.slices if self.slices else 0.0

    def add(self, patient: str, modalities: Sequence[str], made: Preparation) -> None:
        """Adds one picture, or one slice of a volume."""
        labels = {label for levels in made.levels if levels for label in levels.labels}
        self.labels |= labels
        self.modalities = self.modalities or tuple(modalities)
        if self.image.slices == "labelled" and not labels:
            self.left_out += 1
            return
        self.roll.append(Enrolled(patient, tuple(levels is not None for levels in made.levels)))
        place = f"{len(self.volumes)}"
        source = made.source or Source(place, made.shape, made.spacing)
        volume = self.volumes.setdefault(source.name, Volume(source, patient))
        volume.add(made, self.image, labels)
        for name, levels in zip(modalities, made.levels, strict=True):
            if levels:
                volume.varied[name] = volume.varied.get(name, False) or bool(levels.digest)
                self.kept.setdefault(name, {}).setdefault(patient, Kept()).add(levels)
