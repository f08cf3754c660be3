"""What the fingerprints of all sites say together, as the rules of a plan ask for it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from statistics import fmean, median
from typing import Final, final

from asyndgan.recipe.fingerprint import (
    HARDEST,
    LEAST_PIXELS,
    PLANES,
    Axis,
    Fingerprint,
    LabelFigures,
    Levels,
    ModalityFigures,
    Side,
    Spread,
)
from asyndgan.recipe.image import Intensity

LEAST_SIDE: Final = 32
LARGEST_SIDE: Final = 64
"""Fewest and most pixels along a side: what the default policy of a federation allows. Most are of
a plan that no time was granted for."""

LARGER_SIDES: Final = (96, 128, 192, 256)
"""Most pixels along a side, of which a plan takes the largest whose training fits into the time."""

SIXTEENS: Final = 128

VOLUME_SIDES: Final = (48, 64, 96, 128)
"""The same of whole volumes; the least is taken however long the training is."""

MOST_SIDE: Final = 256
"""Most pixels along a side, of slices so long that fewer would leave the other side too few."""

USUAL: Final = 0.4
"""In crops around an organ, fewer of the cases than this have the most common number of voxels."""

LITTLE: Final = 0.1

MOST_EMPTY: Final = {True: 0.2, False: 0.5}
"""Fraction of slices of volumes (True), or of pictures, without a label from which on they are
left out: somebody chose the pictures."""

ONE_SIDED: Final = 0.4
"""Distance from 0 of a label's `side` from which on it tells left from right."""

APART: Final = 0.05
"""Relative difference of spacings above which they are brought to one."""

VIEWS_APART: Final = 0.5
"""Relative difference of the sites' fields of view above which they are."""

AGREED: Final = 0.1
"""Most by which patients' percentiles may differ, as a part of the range, to share one range."""

DARKEST: Final = 0.02
"""Part of a range that images of 8 bits reach at least to be taken as such; 0 and 1 do not."""

SOFT_TISSUE: Final = 300.0
"""Hounsfield units that a window reaches at least: what lies around a lung must not be white."""


@final
class Sites:
    """The fingerprints of all sites, as rules ask for them; their order does not matter."""

    def __init__(
        self,
        fingerprints: Mapping[str, Fingerprint],
        largest: int = LARGEST_SIDE,
        *,
        volumes: bool = False,
    ) -> None:
        self.of = dict(sorted(fingerprints.items()))
        self.largest = largest
        self.volumes = volumes

    def __len__(self) -> int:
        return len(self.of)

    @cached_property
    def modalities(self) -> dict[str, dict[str, ModalityFigures]]:
        """What each site says of a modality, by its name."""
        found: dict[str, dict[str, ModalityFigures]] = {}
        for site, one in self.of.items():
            for modality in one.modalities:
                found.setdefault(modality.name, {})[site] = modality
        return dict(sorted(found.items()))

    @cached_property
    def axis(self) -> Axis:
        """The axis along which volumes are cut: the thick one of most sites that have one."""
        thick = [one.thick for one in self.of.values() if one.thick and not self.volumes]
        return max(PLANES[::-1], key=thick.count) if thick else "axial"

    @cached_property
    def planes(self) -> dict[str, tuple[Side, ...]]:
        """Rows and columns of the slices of each site that tells them, after a volume's slices."""
        cut = PLANES.index(self.axis)
        found: dict[str, tuple[Side, ...]] = {}
        for site, one in self.of.items():
            if len(one.axes) == 3:
                columns, rows = (side for place, side in enumerate(one.axes) if place != cut)
                found[site] = (one.axes[cut], rows, columns) if self.volumes else (rows, columns)
            elif one.axes:
                found[site] = one.axes
        return found

    @cached_property
    def proportions(self) -> tuple[float, ...]:
        """Sides of a typical image in millimetres, as parts of the longest."""
        each = [[side.view.middle for side in plane] for plane in self.planes.values()]
        across = zip(*([view / views[-1] for view in views] for views in each), strict=True)
        ratios = [median(found) for found in across] or [1.0] * (2 + self.volumes)
        return tuple(ratio / max(ratios) for ratio in ratios)

    @cached_property
    def stored(self) -> float:
        """Pixels along the longest side of a typical image."""
        sides = [max(side.voxels.middle for side in plane) for plane in self.planes.values()]
        return median(sides) if sides else float(LARGEST_SIDE)

    @cached_property
    def longest(self) -> int:
        """Pixels of the longest side of an image: so many that the others have enough."""
        least = 16 * math.ceil(LEAST_PIXELS / min(self.proportions) / 16)
        longest = min(max(self._side(self.stored), least), MOST_SIDE)
        return longest if longest <= SIXTEENS else 32 * math.ceil(longest / 32)

    @cached_property
    def size(self) -> tuple[int, ...]:
        """Rows and columns of an image, after a volume's slices, in the images' proportions."""
        part = 16 if self.longest <= SIXTEENS else 32
        return tuple(
            self.longest if ratio == 1 else self._side(self.longest * ratio, part)
            for ratio in self.proportions
        )

    def _side(self, pixels: float, part: int = 16) -> int:
        """The nearest multiple, and of two the larger: padding keeps what shrinking loses."""
        return min(self.largest, max(LEAST_SIDE, part * math.floor(pixels / part + 0.5)))

    @property
    def levels(self) -> int:
        """Sizes at which an image is painted, from about 8 pixels along its longer side."""
        wanted = 4 + (self.longest >= SIXTEENS) + (self.longest > SIXTEENS)
        return min(wanted, min(self.size).bit_length() - 1)  # the lowest has 2 pixels along a side

    @cached_property
    def cropped(self) -> bool:
        """Whether all sites' volumes are crops, each of its own size at a spacing alike."""
        return bool(self.planes) and all(
            self.of[site].spaced
            and all(side.common < USUAL and not differ([side.mm]) for side in plane)
            for site, plane in self.planes.items()
        )

    @cached_property
    def unlabelled(self) -> float:
        """Fraction of the slices without a label, mean over the sites."""
        found = [
            one.unlabelled.get(self.axis if one.spaced else "axial") for one in self.of.values()
        ]
        known = [share for share in found if share is not None]
        return fmean(known) if known else 0.0

    @property
    def mostly_empty(self) -> bool:
        """Whether so many slices hold no label that they are left out; never of a volume's."""
        return (
            not self.volumes
            and self.unlabelled >= MOST_EMPTY[all(one.spaced for one in self.of.values())]
        )

    @cached_property
    def spacings(self) -> dict[str, tuple[Spread, ...]]:
        """Millimetres between pixels along each side at each site; empty if one has pictures."""
        if not all(one.spaced for one in self.of.values()):
            return {}
        return {site: tuple(side.mm for side in plane) for site, plane in self.planes.items()}

    @cached_property
    def scaled_apart(self) -> bool:
        """Whether spacings differ between cases, so that anatomy comes in several scales."""
        return any(differ(mm) for mm in zip(*self.spacings.values(), strict=True))

    @cached_property
    def views(self) -> dict[str, tuple[float, ...]]:
        """Field of view along each side in millimetres at each site of `spacings`."""
        return {
            site: tuple(side.view.middle for side in plane)
            for site, plane in self.planes.items()
            if site in self.spacings
        }

    @cached_property
    def views_apart(self) -> bool:
        """Whether sites show so much more than others that one size gives anatomy two scales."""
        return apart(self.views.values(), VIEWS_APART)

    @cached_property
    def one_scale(self) -> bool:
        """Whether spacings or fields of view differ, and at one spacing no side gets too short."""
        if not (self.scaled_apart or self.views_apart) or self.cropped:
            return False
        views = [side.view.lowest for plane in self.planes.values() for side in plane]
        return min(views) >= LEAST_PIXELS * self.one_spacing

    @cached_property
    def one_spacing(self) -> float:
        """Millimetres per pixel at which nearly every slice fits the image, to three digits."""
        most = max(
            side.view.highest / pixels
            for plane in self.planes.values()
            for side, pixels in zip(plane, self.size, strict=True)
        )
        digits = 10.0 ** (2 - math.floor(math.log10(most)))
        return math.ceil(most * digits) / digits

    @cached_property
    def sided(self) -> list[str]:
        """Labels that lie on one side in most patients."""
        figures: dict[str, list[tuple[int, float]]] = {}
        found = []
        for label in self._labels:
            if label.side is not None and label.patients:
                figures.setdefault(label.name, []).append((label.patients, label.side))
        for name, sides in figures.items():
            patients = sum(count for count, _ in sides)
            # Sides of few patients agree by chance: two standard errors, at most 1 each.
            least = max(ONE_SIDED, 2 / math.sqrt(patients))
            if abs(sum(count * side for count, side in sides)) >= least * patients:
                found.append(name)
        return sorted(found)

    def kind(self, modality: str) -> str:
        """Which of the rules for intensities a modality follows: the last word of its name."""
        parts = list(self.modalities[modality].values())
        kinds = {part.kind for part in parts}
        known = [part.whole for part in parts]
        if kinds == {"ct"}:
            return "ct"
        bright = all(_brightest(part) >= DARKEST * 255 for part in parts if part.whole)
        if kinds == {"grey"} and all(part.bits == 8 for part in parts) and bright:
            return "bytes"
        if None not in known and "unknown" not in kinds:
            levels = [each for each in known if each]
            if all(part.bits == 32 for part in parts) and all(map(_within_one, levels)):
                return "unit"
            if len(kinds) == 1 and _agreed(levels):
                return "agreed"
        return "crops" if self.cropped else "percentiles"

    def named(self, kind: str) -> list[str]:
        """Modalities of one of those kinds."""
        return [name for name in self.modalities if self.kind(name) == kind]

    def window(self, modality: str) -> Intensity:
        """Hounsfield units of the labels, widened by half on either side."""
        inside = [one.inside for one in self.modalities[modality].values() if one.inside]
        return window([one.p0_5.middle for one in inside], [one.p99_5.middle for one in inside])

    def common_range(self, modality: str) -> Intensity:
        """The range of stored values that the sites' patients share."""
        levels = [one.whole for one in self.modalities[modality].values() if one.whole]
        low = min(each.p0_5.lowest for each in levels)
        high = max(each.p99_5.highest for each in levels)
        digits = 2 - math.floor(math.log10(high - low))
        return Intensity(low=round(low, digits), high=round(high, digits))

    @cached_property
    def explained(self) -> dict[str, float]:
        """The most that labels explain at a site of each modality's variance, where it is known."""
        found = {
            name: [one.explained for one in parts.values() if one.explained is not None]
            for name, parts in self.modalities.items()
        }
        return {name: max(shares) for name, shares in found.items() if shares}

    @property
    def left_open(self) -> bool:
        """Whether labels explain little of every modality, and slices are painted."""
        return not self.volumes and bool(self.explained) and max(self.explained.values()) < LITTLE

    @cached_property
    def areas(self) -> dict[str, float]:
        """Pixels of each label in the slices that show it, where they are known: the least site."""
        pixels = self.longest**2 if self.cropped else math.prod(self.size[-2:])
        found: dict[str, float] = {}
        for label in sorted(self._labels, key=lambda one: one.name):
            if label.area:
                area = label.area.middle * pixels
                found[label.name] = min(area, found.get(label.name, area))
        return found

    @property
    def smallest(self) -> float:
        """Pixels of the smallest label; 0 if those of one are unknown."""
        return min((self.areas.get(one.name, 0) for one in self._labels), default=0)

    @property
    def _labels(self) -> list[LabelFigures]:
        return [label for one in self.of.values() for label in one.labels]

    @cached_property
    def rare(self) -> list[str]:
        """Modalities that fewer than half of the sites hold."""
        return [name for name, sites in self.modalities.items() if 2 * len(sites) < len(self)]

    @cached_property
    def lonely(self) -> list[str]:
        """Sites with a single patient."""
        return [site for site, one in self.of.items() if one.patients == 1]


def window(lowest: Sequence[float], highest: Sequence[float]) -> Intensity:
    """Hounsfield units of labels, widened by half on either side, from their percentiles."""
    if not lowest:
        return Intensity(low=-1000, high=1000)
    low = max(-HARDEST, min(HARDEST, *map(float, lowest)))
    high = max(low, min(HARDEST, float(max(highest))))
    wide = max(20.0, high - low) / 2
    bottom = max(-1000.0, 10 * math.floor((low - wide) / 10))
    top = max(SOFT_TISSUE, 10 * math.ceil((high + wide) / 10))
    return Intensity(low=min(bottom, top - 100), high=top)


def apart(sites: Iterable[Sequence[float]], most: float) -> bool:
    """Whether a number of some sites, each of which tells several, differs by more than `most`."""
    return any(max(each) > (1 + most) * min(each) for each in zip(*sites, strict=True))


def differ(spreads: Sequence[Spread]) -> bool:
    """Whether numbers differ by more than `APART`."""
    low, high = min(each.lowest for each in spreads), max(each.highest for each in spreads)
    return high > (1 + APART) * low


def _brightest(part: ModalityFigures) -> float:
    """Where a modality's intensities end: those of small labels are hardly seen in the whole."""
    return max(of.p99_5.highest for of in (part.whole, part.inside) if of)


def _within_one(levels: Levels) -> bool:
    return levels.p0_5.lowest >= 0 and 0.02 <= levels.p99_5.lowest <= levels.p99_5.highest <= 1


def _agreed(levels: Sequence[Levels]) -> bool:
    """Whether lowest and highest intensities are alike in nearly all patients of all sites."""
    ends = [[getattr(each, key) for each in levels] for key in ("p0_5", "p99_5")]
    if any(spread.low is None or spread.high is None for end in ends for spread in end):
        return False
    (bottom, floor), (ceiling, top) = (
        (min(each.lowest for each in end), max(each.highest for each in end)) for end in ends
    )
    within = AGREED * (top - bottom)
    return floor - bottom <= within and top - ceiling <= within and within > 0
