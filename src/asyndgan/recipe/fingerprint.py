"""What a plan is made from: figures of one site's data set, without an image, a name or a path.

`asyndgan.data.fingerprint` measures a folder. A fingerprint may also come from a stranger, so every
field is bounded.
"""

import math
from typing import Annotated, Final, Literal, Self, final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from asyndgan.recipe.sections import LABELS_LIMIT
from asyndgan.texts import Name

MODALITIES_LIMIT: Final = 64
DIGITS: Final = 3
"""Significant digits of a figure that leaves a site; counts have one less."""

TAIL: Final = 10
"""Patients of whom one lies beyond the 10th percentile."""

Axis = Literal["sagittal", "coronal", "axial"]
PLANES: Final[tuple[Axis, ...]] = ("sagittal", "coronal", "axial")
"""Directions along which a volume is cut, in the order of its axes."""

Number = Annotated[float, Field(strict=True, ge=-1e39, le=1e39)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=1, le=2**31)]


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


@final
class Levels(Figures):
    """Percentiles of the stored intensities of a case, over patients."""

    p0_5: Spread
    p1: Spread
    p50: Spread
    p99: Spread
    p99_5: Spread

    @property
    def spreads(self) -> tuple[Spread, ...]:
        """All, from the lowest percentile on."""
        return (self.p0_5, self.p1, self.p50, self.p99, self.p99_5)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        middles = [each.middle for each in self.spreads]
        if sorted(middles) != middles:
            raise ValueError("percentiles are not in order")
        return self


LEAST_PIXELS: Final = 8
"""Shortest side of a slice that is trained on, as stored and after shrinking."""

MOST_VOXELS: Final = 1e6
LONGEST: Final = 1e9
"""Most voxels and most millimetres along an axis."""

FINEST: Final = 1e-6
COARSEST: Final = 1e3
"""Millimetres between voxels: of an electron microscope, and more than of any scanner."""

SITE_APART: Final = 100.0
"""Most by which voxels, spacings or fields of view differ within a site."""

BITS: Final = {8: (0, 2**8 - 1), 16: (-(2**15), 2**16 - 1), 32: (-1e39, 1e39)}
"""Intensities by `ModalityFigures.bits`."""

HARDEST: Final = 1e5
"""Hounsfield units beyond which no window reaches; metal has some 3e4."""

ROUNDED: Final = 1.02
"""Ratio by which rounding may set voxels times mm apart from the view."""

VARIED: Final = 4.0
"""The same where patients differ: percentiles of a product are no products of percentiles."""

PERCENTILES: Final = (0.5, 1.0, 50.0, 99.0, 99.5)
"""The percentiles of `Levels`, in its order."""


@final
class ModalityFigures(Figures):
    """One modality.

    Attributes:
        kind: ct, volumes in Hounsfield units; mri, other volumes; grey or rgb, pictures; unknown.
        bits: 8 and 16 hold whole numbers of that size, 32 all others.
        patients: who have it.
        whole: intensities of whole cases; inside and outside: within and beyond all labels.
        explained: part of the variance of a case's intensities that its labels explain: where
            slices hold one, and within the range that a plan takes.
    """

    name: Name
    kind: Literal["ct", "mri", "grey", "rgb", "unknown"] = "unknown"
    bits: Literal[8, 16, 32] = 32
    patients: Count | None = None
    whole: Levels | None = None
    inside: Levels | None = None
    outside: Levels | None = None
    explained: Share | None = None

    @model_validator(mode="after")
    def _within_its_bits(self) -> Self:
        low, high = (-HARDEST, HARDEST) if self.kind == "ct" else BITS[self.bits]
        for each in filter(None, (self.whole, self.inside, self.outside)):
            spreads = each.spreads
            if spreads[0].lowest < low or spreads[-1].highest > high:
                raise ValueError(f"{self.kind} of {self.bits} bits is from {low:g} to {high:g}")
        return self


@final
class LabelFigures(Figures):
    """One label other than the background.

    Attributes:
        patients: who have it.
        slices: fraction of the axial slices, or pictures, that hold it.
        area: fraction of the pixels of such a slice that it covers.
        side: where it lies: -1, always in the image's right half; 1, in its left half; 0, in both.
            Its mean over patients.
        kept: fraction of its pixels that have the same label after the mirror.
        exchanged: another label that more of them have.
    """

    name: Name
    number: int = Field(ge=1, lt=LABELS_LIMIT)
    patients: Count | None = None
    slices: Share | None = None
    area: Spread | None = None
    side: float | None = Field(None, ge=-1, le=1)
    kept: Share | None = None
    exchanged: Name | None = None

    @model_validator(mode="after")
    def _part_of_a_slice(self) -> Self:
        if self.name.casefold() in ("background", "ignore"):
            raise ValueError(f"'{self.name}' is no label to be painted")
        if self.area and not 0 <= self.area.lowest <= self.area.highest <= 1:
            raise ValueError("an area is no fraction of a slice")
        return self


@final
class Side(Figures):
    """One stored axis of the cases: rows and columns of a picture, or as `PLANES`.

    Attributes:
        voxels: their number.
        mm: their spacing in millimetres; 1 where the format has none.
        view: both multiplied: the field of view in millimetres.
        common: fraction of the cases with the most common number of voxels.
    """

    voxels: Spread
    mm: Spread
    view: Spread
    common: Share

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
        sizes = self.voxels, self.mm
        apart = ROUNDED if all(each.low == each.high is not None for each in sizes) else VARIED
        low, high = math.prod(s.lowest for s in sizes), math.prod(s.highest for s in sizes)
        if not low / apart <= self.view.middle <= high * apart:
            raise ValueError("view is not voxels times mm")
        return self


@final
class Fingerprint(Figures):
    """Figures of a data set. None, or an empty list, stands for what was withheld.

    Attributes:
        cases: pictures or volumes.
        slices: pictures or axial slices.
        patients: number of patients.
        spaced: whether the cases are volumes, whose files store a spacing.
        axes: two of pictures, three of volumes.
        orientation: most common orientation of the files' axes, such as RAS; empty: pictures.
        modalities: in the order of channel_names.
        labels: by number, without the background.
        unlabelled: fraction of the slices without a label, by the axis along which they are cut.
    """

    version: Literal[1] = 1
    cases: Count | None = None
    slices: Count | None = None
    patients: Count | None = None
    spaced: bool
    axes: tuple[Side, ...] = Field((), max_length=3)
    orientation: str = Field("", pattern="^([LRAPSI]{3})?$")
    modalities: tuple[ModalityFigures, ...] = Field(min_length=1, max_length=MODALITIES_LIMIT)
    labels: tuple[LabelFigures, ...] = Field((), max_length=LABELS_LIMIT)
    unlabelled: dict[Axis, Share] = {}

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(self.axes) not in ((0, 2, 3) if self.spaced else (0, 2)):
            raise ValueError(f"{len(self.axes)} axes fit no picture or volume")
        parts: tuple[ModalityFigures | LabelFigures, ...] = (*self.modalities, *self.labels)
        if any(each.patients and each.patients > (self.patients or 0) for each in parts):
            raise ValueError("a modality or a label has more patients than there are")
        if len({"LRAPSI".index(letter) // 2 for letter in self.orientation}) not in (0, 3):
            raise ValueError("an orientation names each of three directions once")
        if self.slices and self.cases and self.slices < self.cases:
            raise ValueError("there are fewer slices than cases")
        if {each.exchanged for each in self.labels} - {each.name for each in self.labels} - {None}:
            raise ValueError("a label is exchanged with one that is not there")
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
        """The axis along which voxels are at least twice as long as along both others.

        Or along which alone there are too few to be a side of a slice.
        """
        if len(self.axes) < 3:
            return None
        thin = [axis for axis, side in enumerate(self.axes) if side.voxels.lowest < LEAST_PIXELS]
        if len(thin) == 1:
            return PLANES[thin[0]]
        mm = [side.mm.middle for side in self.axes]
        longest = max(range(3), key=lambda axis: mm[axis])
        others = max(mm[:longest] + mm[longest + 1 :])
        return PLANES[longest] if mm[longest] >= 2 * others else None

    def bounded(self, fewest: int) -> Self:
        """The fingerprint with nothing about fewer than `fewest` patients, and rounded.

        Names of modalities and labels stay: a site's card sends them too. A quantile of the
        patients stays if at least `fewest` of them lie beyond it.
        """
        total = self.patients or 0
        own = self.model_dump(exclude={"modalities", "labels"})
        if total < fewest:
            own = {"spaced": self.spaced}

        def kept(part: ModalityFigures | LabelFigures) -> object:
            patients = part.patients or 0
            if patients < fewest:
                return part.model_dump(include={"name", "number"})
            told = total if total - patients < fewest else patients  # few lack it
            figures = {**part.model_dump(), "patients": told}
            return _rounded(figures, tails=patients >= TAIL * fewest)

        parts = {of: list(map(kept, getattr(self, of))) for of in ("modalities", "labels")}
        whole = {
            key: _rounded(value, key, tails=total >= TAIL * fewest) for key, value in own.items()
        }
        return type(self).model_validate({**whole, **parts})


_EXACT: Final = frozenset({"version", "number", "bits", "spaced"})


def _rounded(value: object, key: str = "", *, tails: bool) -> object:
    """Figures, rounded; without the tails of spreads if there are to be none."""
    if isinstance(value, dict):
        bare = not tails and value.keys() == Spread.model_fields.keys()
        return {
            name: None if bare and name != "middle" else _rounded(item, name, tails=tails)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_rounded(item, tails=tails) for item in value]
    if key in _EXACT or not isinstance(value, int | float) or not value:
        return value
    digits = DIGITS - isinstance(value, int) - 1 - math.floor(math.log10(abs(value)))
    return round(value, digits)
