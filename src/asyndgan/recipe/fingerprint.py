"""What a plan is made from: figures of one site's data set, without an image, a name or a path.

`asyndgan.intake.fingerprint` measures a folder. A fingerprint may also come from a stranger, so
every field is bounded.
"""

import math
from typing import Annotated, ClassVar, Final, Literal, Self, final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from asyndgan.recipe.sections import LABELS_LIMIT
from asyndgan.texts import Name

MODALITIES_LIMIT: Final = 64
DIGITS: Final = 2
"""Significant digits of what leaves a site; sizes and spacings have one more."""

STEPS: Final = (0.01, 0.02, 0.05, 0.1)
"""To which a fraction is cut: the finest that is one patient's part or more, or else the last.

What plans ask of a fraction are multiples of all of them, so cutting it changes no answer.
"""

TAIL: Final = 10
"""Patients of whom one lies beyond the 10th percentile."""

Axis = Literal["sagittal", "coronal", "axial"]
PLANES: Final[tuple[Axis, ...]] = ("sagittal", "coronal", "axial")
"""Directions along which a volume is cut, in the order of its axes."""

Number = Annotated[float, Field(strict=True, ge=-1e39, le=1e39)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=1, le=2**31)]
Patients = Annotated[int, Field(strict=True, ge=0, le=2**31)]

Behind = Literal[
    "patients", "axes", "sagittal", "coronal", "axial", "voxels", "mm", "view", "common",
    "kind", "bits", "whole", "inside", "explained", "slices", "area", "side",
]  # fmt: skip
"""Figures that leave only if enough patients are behind them."""


class Figures(BaseModel):
    """A part of a fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@final
class Spread(Figures):
    """How a number differs between patients: its 10th, 50th and 90th percentile.

    `low` and `high` are None where they would tell of too few patients.
    """

    low: Number | None
    middle: Number
    high: Number | None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.lowest <= self.middle <= self.highest:
            raise ValueError("low, middle and high are not in order")
        return self

    @property
    def lowest(self) -> float:
        """`low`, or the middle if it is withheld."""
        return self.middle if self.low is None else self.low

    @property
    def highest(self) -> float:
        """`high`, or the middle if it is withheld."""
        return self.middle if self.high is None else self.high

    def rounded(self, digits: int, *, tails: bool, low: float, high: float) -> "Spread":
        """Of so many significant digits, then clipped; without tails if there are to be none."""
        clipped = {
            name: min(max(_rounded(value, digits), low), high)
            for name, value in self
            if value is not None and (tails or name == "middle")
        }
        return Spread(**{"low": None, "high": None, **clipped})


@final
class Levels(Figures):
    """Where the stored intensities of a case end, as percentiles, over patients."""

    p0_5: Spread
    p99_5: Spread

    def rounded(self, digits: int, *, tails: bool, low: float, high: float) -> "Levels":
        """As `Spread.rounded`."""
        told = {name: each.rounded(digits, tails=tails, low=low, high=high) for name, each in self}
        return Levels(**told)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.p0_5.middle > self.p99_5.middle:
            raise ValueError("percentiles are not in order")
        return self


class Counted(Figures):
    """A part that knows how many patients are behind each of its figures."""

    digits: ClassVar[int] = DIGITS
    # by a figure's name (of `unlabelled`: by axis), patients of whom it is the median, the mean or
    # what most have. Then, of a fraction: patients above its least value, and below its greatest;
    # of `bits`: patients who need more than 8, and more than 16; of `patients`: those who lack the
    # part. It never leaves a site.
    behind: dict[Behind, tuple[Patients, Patients, Patients]] = {}

    def bounded(self, fewest: int) -> Self:
        """The part without `behind`, and without what tells of fewer than `fewest` patients.

        A figure stays if at least `fewest` patients are behind it, and a percentile of theirs if
        as many lie beyond it. A fraction is 0 or 1 if fewer make it differ from that. Counts are
        cut to multiples of `fewest`, fractions to `STEPS`; the rest is rounded. A modality that
        fewer than `fewest` patients have is not named.
        """
        kept = {name: self._kept(name, value, fewest) for name, value in self if name != "behind"}
        return type(self).model_validate({k: each for k, each in kept.items() if each is not None})

    def _kept(self, name: str, value: object, fewest: int) -> object:
        """What stays of a figure; None: nothing."""
        if name in _ALWAYS:
            return value
        if isinstance(value, dict):
            kept = {axis: self._kept(axis, share, fewest) for axis, share in value.items()}
            return {axis: share for axis, share in kept.items() if share is not None}
        patients, first, second = self.behind.get(name, (0, 0, 0))  # type: ignore[call-overload]
        if name in _PARTS or (name == "axes" and patients >= fewest):
            parts = list(value)  # type: ignore[call-overload]
            if name == "modalities":  # of which one that no case has is no part
                parts = [part for part in parts if (part.patients or 0) >= fewest] or parts
            return [part.bounded(fewest) for part in parts]
        if patients < fewest or value is None:
            return None
        told = patients // fewest * fewest
        if isinstance(value, Spread | Levels):
            low, high = self._ends(fewest)
            return value.rounded(self.digits, tails=told >= TAIL * fewest, low=low, high=high)
        if isinstance(value, float):
            return _cut(value, -1.0 if name == "side" else 0.0, told, (first, second), fewest)
        if name == "patients":
            few = first if first < fewest else 0
            return int(_rounded((patients + few) // fewest * fewest, DIGITS))
        return value

    def _ends(self, fewest: int) -> tuple[float, float]:
        """Between which all of its spreads lie."""
        return -math.inf, math.inf


LEAST_PIXELS: Final = 8
"""Shortest side of a slice that is trained on, as stored and after shrinking."""

MOST_VOXELS: Final = 1e6
LONGEST: Final = 1e9

FINEST: Final = 1e-6
COARSEST: Final = 1e3
"""Millimetres between voxels: of an electron microscope, and more than of any scanner."""

SITE_APART: Final = 100.0
"""Most by which voxels, spacings or fields of view differ within a site."""

BITS: Final = {8: (0, 2**8 - 1), 16: (-(2**15), 2**16 - 1), 32: (-1e39, 1e39)}

HARDEST: Final = 1e5
"""Hounsfield units beyond which no window reaches; metal has some 3e4."""

ROUNDED: Final = 1.02
"""Ratio by which rounding may set figures further apart."""

PERCENTILES: Final = (0.5, 99.5)


@final
class ModalityFigures(Counted):
    """One modality."""

    name: Name
    # ct: volumes in Hounsfield units; mri: other volumes; grey: pictures
    kind: Literal["ct", "mri", "grey", "unknown"] = "unknown"
    # 8 and 16 hold whole numbers of that size, 32 all others; as it leaves a site, those that
    # enough patients need, and the others' intensities may lie beyond
    bits: Literal[8, 16, 32] = 32
    patients: Count | None = None  # who have it
    whole: Levels | None = None  # intensities of whole cases
    inside: Levels | None = None  # within all labels
    # part of the variance of a case's intensities that its labels explain: where slices hold one,
    # and within the range that a plan takes
    explained: Share | None = None

    @model_validator(mode="after")
    def _within_its_bits(self) -> Self:
        low, high = self._range(self.bits)
        for each in filter(None, (self.whole, self.inside)):
            if each.p0_5.lowest < low or each.p99_5.highest > high:
                raise ValueError(f"{self.kind} of {self.bits} bits is from {low:g} to {high:g}")
        return self

    def _range(self, bits: int) -> tuple[float, float]:
        return (-HARDEST, HARDEST) if self.kind == "ct" else BITS[bits]

    def _bits(self, fewest: int) -> int:
        """Bits that half of the patients need, or at least `fewest`."""
        patients, deep, deeper = self.behind.get("bits", (0, 0, 0))
        least = min(fewest, patients / 2)
        return 32 if deeper >= least else 16 if deep >= least else 8

    def _ends(self, fewest: int) -> tuple[float, float]:
        return self._range(self._bits(fewest))

    def _kept(self, name: str, value: object, fewest: int) -> object:
        kept = super()._kept(name, value, fewest)
        return self._bits(fewest) if kept and name == "bits" else kept


@final
class LabelFigures(Counted):
    """One label other than the background."""

    name: Name
    number: int = Field(ge=1, lt=LABELS_LIMIT)
    patients: Count | None = None  # who have it
    slices: Share | None = None  # fraction of the axial slices, or pictures, that hold it
    area: Spread | None = None  # fraction of the pixels of such a slice that it covers
    # mean over patients: -1, always in the image's right half; 1, in its left half; 0, in both
    side: float | None = Field(None, ge=-1, le=1)

    @model_validator(mode="after")
    def _part_of_a_slice(self) -> Self:
        if self.name.casefold() in ("background", "ignore"):
            raise ValueError(f"'{self.name}' is no label to be painted")
        if self.area and not 0 <= self.area.lowest <= self.area.highest <= 1:
            raise ValueError("an area is no fraction of a slice")
        return self


@final
class Side(Counted):
    """One stored axis of the cases: rows and columns of a picture, or as `PLANES`."""

    digits: ClassVar[int] = DIGITS + 1
    voxels: Spread  # their number
    mm: Spread  # their spacing; 1 where the format has none
    view: Spread  # both multiplied: the field of view in millimetres
    common: Share  # fraction of the cases with the most common number of voxels

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for each, most in ((self.voxels, MOST_VOXELS), (self.mm, LONGEST), (self.view, LONGEST)):
            if not 0 < each.highest <= SITE_APART * ROUNDED * each.lowest:
                raise ValueError(
                    f"voxels, mm and view are above 0, and {SITE_APART:g} times the least at most"
                )
            if each.highest > most:
                raise ValueError(
                    f"{MOST_VOXELS:g} voxels and {LONGEST:g} mm are the most along an axis"
                )
        if self.voxels.lowest < 1:
            raise ValueError("an axis has one voxel at least")
        if not FINEST <= self.mm.lowest <= self.mm.highest <= COARSEST:
            raise ValueError(f"mm are {FINEST:g} to {COARSEST:g}")
        return self


@final
class Fingerprint(Counted):
    """Figures of a data set. None, or an empty list, stands for what was withheld.

    Fractions are means over patients.
    """

    version: Literal[3] = 3
    patients: Count | None = None
    spaced: bool  # whether most patients' cases are volumes, whose files store a spacing
    axes: tuple[Side, ...] = Field((), max_length=3)  # two of pictures, three of volumes
    # in the order of channel_names
    modalities: tuple[ModalityFigures, ...] = Field(min_length=1, max_length=MODALITIES_LIMIT)
    # by number, without the background
    labels: tuple[LabelFigures, ...] = Field((), max_length=LABELS_LIMIT)
    # fraction of the slices without a label, by the axis along which they are cut
    unlabelled: dict[Axis, Share] = {}

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(self.axes) not in ((0, 2, 3) if self.spaced else (0, 2)):
            raise ValueError(f"{len(self.axes)} axes fit no picture or volume")
        parts: tuple[ModalityFigures | LabelFigures, ...] = (*self.modalities, *self.labels)
        if any(each.patients and each.patients > (self.patients or 0) for each in parts):
            raise ValueError("a modality or a label has more patients than there are")
        for what, of in (
            ("modality's name", [each.name for each in self.modalities]),
            ("label's name", [each.name for each in self.labels]),
            ("label's number", [each.number for each in self.labels]),
        ):
            if len(set(of)) < len(of):
                raise ValueError(f"a {what} is there twice")
        return self

    @property
    def thick(self) -> Axis | None:
        """The axis along which voxels are twice as long, or alone too few for a side."""
        if len(self.axes) < 3:
            return None
        thin = [axis for axis, side in enumerate(self.axes) if side.voxels.lowest < LEAST_PIXELS]
        if len(thin) == 1:
            return PLANES[thin[0]]
        mm = [side.mm.middle for side in self.axes]
        longest = max(range(3), key=lambda axis: mm[axis])
        others = max(mm[:longest] + mm[longest + 1 :])
        return PLANES[longest] if mm[longest] >= 2 * others else None


_ALWAYS: Final = frozenset({"version", "name", "number", "spaced"})
_PARTS: Final = frozenset({"modalities", "labels"})


def _rounded(value: float, digits: int) -> float:
    """A number of so many significant digits."""
    return round(value, digits - 1 - math.floor(math.log10(abs(value)))) if value else value


def _cut(mean: float, least: float, patients: int, sides: tuple[int, int], fewest: int) -> float:
    """A fraction over patients, from `least` to 1, as it leaves a site.

    `sides`: how many patients are above `least`, and below 1; if fewer than `fewest` are on one
    side, all count as if they were on the other.
    """
    if min(sides) < fewest:
        return least if sides[0] <= sides[1] else 1.0
    step = (1 - least) * next((each for each in STEPS if each * patients >= 1), STEPS[-1])
    return round(math.copysign(math.floor(abs(mean) / step + 1e-9) * step, mean), 2)
