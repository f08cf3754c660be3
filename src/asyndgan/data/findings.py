"""What a survey of a data set shows: faults that stop a training, and notes.

`asyndgan check` prints both. Training, and a site's service, refuse faults and log notes.
"""

import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Final, final

from asyndgan.data.grids import shown_shape
from asyndgan.data.nnunet import AXES, Axis
from asyndgan.data.survey import Kept, Survey, Volume
from asyndgan.errors import DataError
from asyndgan.intensities import IMAGE_HIGH, IMAGE_LOW
from asyndgan.recipe import Intensity
from asyndgan.recipe.toml import key_of
from asyndgan.texts import counted

MOST_LOST: Final = 0.5
"""Largest fraction of a label, or of a patient's picture, that may lie outside the range."""

MOST_WINDOWED: Final = 0.9
"""The same of a picture whose range was chosen: a CT window leaves air or bone out."""

LEAST_USED: Final = 0.02
"""Smallest fraction of the intensity range that a patient's images must span."""

FEW: Final = 0.1
"""Fraction of the patients from which on lost intensities are a fault; below it they are noted."""

LEAST_SIDE: Final = 8
"""Fewest pixels along a side of a slice."""

SKEWED: Final = 2.0
"""Ratio of a slice's two spacings above which another axis is proposed."""

SPACING_APART: Final = 0.05
"""Relative difference of spacings above which they are reported."""

MOST_EMPTY: Final = 0.15
"""Largest fraction of padding that is not reported."""

CT: Final = Intensity(low=-1000, high=1000)
UNIT: Final = Intensity(low=0, high=1)
PERCENTILES: Final = Intensity(kind="percentiles", low=0.5, high=99.5)
_WHY: Final = {
    ("range", CT.high): "Hounsfield units are stored",
    ("range", UNIT.high): "0 to 1 is stored",
    ("percentiles", PERCENTILES.high): "Percentiles suit any intensities",
}

WARMEST_AIR: Final = -200
"""In a CT every patient's lowest intensity is below this, in Hounsfield units."""

COLDEST: Final = -5000
"""Lowest intensity of a CT: scanners mark with some -3000 what they did not see."""


@final
@dataclass(frozen=True)
class Finding:
    """One conclusion about a data set.

    Attributes:
        fault: whether it stops a training.
        reason: what was found, without a full stop.
        remedy: what to do, as a full sentence.
        volumes: names of the pictures or volumes concerned; empty: the set as a whole.
        kind: name of the rule that it is of, for scripts.
    """

    fault: bool
    reason: str
    remedy: str
    volumes: tuple[str, ...] = ()
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.reason}. {self.remedy}"


def refuse(findings: Iterable[Finding], where: str | Path) -> None:
    """Raises `DataError` with the first fault among the findings of the data at `where`."""
    for finding in findings:
        if finding.fault:
            raise DataError(f"{where}: {finding}")


def intensities(survey: Survey) -> Iterator[Finding]:
    """Intensities that the recipe throws away, judged by patient."""
    image = survey.image
    losses = {
        modality: {
            patient: what
            for patient, kept in patients.items()
            if (what := _loss(kept, image.intensity_of(modality)))
        }
        for modality, patients in survey.kept.items()
    }
    suited = {modality: _suited(survey, modality) for modality, lost in losses.items() if lost}
    alike = set(image.intensity) == {"default"} and all(losses.values())
    alike = alike and all(one == next(iter(suited.values())) for one in suited.values())
    for modality, wanted in suited.items():
        how, lost = image.intensity_of(modality), losses[modality]
        kinds = [kind for kind, _ in lost.values()]
        kind = max(kinds, key=kinds.count)
        share = fmean(part for found, part in lost.values() if found == kind)
        of = len(survey.kept[modality])
        where = f" in {len(lost)} of {counted(of, 'patient')}" if len(lost) < of else ""
        setting = (
            f"{_WHY[wanted.kind, wanted.high]}: "
            f"{_intensity_options('default' if alike else modality, wanted, how)}."
        )
        silent = (
            "Export these images again, leave their cases out, or take it out of channel_names."
        )
        yield Finding(
            len(lost) >= FEW * of,
            f"modality {modality} does not fit image.intensity ({how.kind}, {how.low:g} to "
            f"{how.high:g}){where}: {kind.format(share=share)}",
            silent if wanted == how else setting,
            tuple(name for name, one in survey.volumes.items() if one.patient in lost),
        )


def _loss(kept: Kept, how: Intensity) -> tuple[str, float] | None:
    """What is lost of a patient's images, as a text for its share, and the share; None: little."""
    if how.kind == "range":  # other kinds adapt to each case's own intensities
        for label, pixels in sorted(kept.pixels.items()):
            if kept.lost[label] > MOST_LOST * pixels:
                text = f"{{share:.0%}} of label {label} lies outside and would be black or white"
                return text, kept.lost[label] / pixels
        if (beyond := kept.part("above", "bright")) > MOST_LOST:
            text = "{share:.0%} of its pixels that are not black lie beyond and would be white"
            return text, beyond
        outside = kept.part("below") + kept.part("above")
        if outside > (MOST_LOST if how == Intensity() else MOST_WINDOWED):
            text = "{share:.0%} of its pixels lie outside and would be black or white"
            return text, outside
    if (kept.white - kept.black) / (IMAGE_HIGH - IMAGE_LOW) < LEAST_USED:
        return "all of its pixels lie within a fiftieth of that range", 1.0
    return None


def _suited(survey: Survey, modality: str) -> Intensity:
    """The normalisation that suits what is stored."""
    how, stored = survey.image.intensity_of(modality), survey.kept[modality].values()
    lowest, highest = [kept.low for kept in stored], [kept.high for kept in stored]
    suited = PERCENTILES
    if max(lowest) <= WARMEST_AIR and min(lowest) >= COLDEST:
        suited = CT
    elif min(lowest) >= 0 and max(highest) <= 1 and min(highest) >= LEAST_USED:
        suited = UNIT
    return PERCENTILES if suited == how else suited


def _intensity_options(modality: str, wanted: Intensity, how: Intensity) -> str:
    key = f"image.intensity.{key_of(modality)}"
    kind = [f"{key}.kind={wanted.kind}"] if wanted.kind != how.kind else []
    return _options(*kind, f"{key}.low={wanted.low:g}", f"{key}.high={wanted.high:g}")


def _options(*values: str) -> str:
    return " ".join(f"--set {shlex.quote(value)}" for value in values)


def thin(survey: Survey) -> Iterator[Finding]:
    """Slices of a few pixels, and slices that are cut across thick ones."""
    axis = AXES[survey.image.axis]
    found: dict[tuple[str, str, bool], list[str]] = {}
    for name, volume in survey.volumes.items():
        shape, spacing = volume.source.shape, volume.source.spacing
        small = min(_plane(shape, axis)) < LEAST_SIDE
        if len(shape) == 2 and small:
            text, remedy = f"is {shown_shape(shape)} pixels", "Export it again in full size."
            found.setdefault((text, remedy, True), []).append(name)
        if len(shape) == 2:
            continue
        wide = max(AXES.values(), key=lambda one: (min(_plane(shape, one)), one == axis))
        fine = min(AXES.values(), key=lambda one: (_skew(_plane(spacing, one)), one != axis))
        skew = _skew(_plane(spacing, axis))
        if small:
            sides = shown_shape(_plane(shape, axis)[::-1])
            text = f"{survey.image.axis} slices are {sides} pixels"
            found.setdefault((text, _cut_along(shape, wide), True), []).append(name)
        elif skew > SKEWED and _skew(_plane(spacing, fine)) <= skew / SKEWED:
            sides = shown_shape(f"{mm:g}" for mm in _plane(spacing, axis)[::-1])
            text = f"{survey.image.axis} slices have pixels of {sides} mm: they cross thick slices"
            if min(_plane(shape, fine)) >= LEAST_SIDE:
                found.setdefault((text, _cut_along(shape, fine), False), []).append(name)
    for (text, remedy, fault), names in found.items():
        yield Finding(fault, text, remedy, tuple(names))


def _plane(sides: Sequence[float], axis: int) -> list[float]:
    """Of the three axes of a volume, what remains of it in a slice: columns, rows."""
    return [side for place, side in enumerate(sides) if place != axis or len(sides) == 2]


def _skew(spacing: Sequence[float]) -> float:
    return max(spacing) / min(spacing)


def _cut_along(shape: Sequence[int], axis: int) -> str:
    if min(_plane(shape, axis)) < LEAST_SIDE:
        return "Export it again in full size."
    name: Axis = next(name for name, place in AXES.items() if place == axis)
    flip = ("training.flip=false",) if name == "sagittal" else ()  # a mirror swaps front and back
    return f"Cut along another axis: {_options(f'image.axis={name}', *flip)}."


def unlabelled(survey: Survey) -> Iterator[Finding]:
    """Masks that hold no label at all."""
    if survey.masked and not survey.labels and (survey.volumes or survey.left_out):
        yield Finding(
            True,
            "no mask holds a label other than 0, so every mask would paint the same image",
            "Export the masks again with their labels; check their values and their file names.",
        )


def masks_for_images(survey: Survey) -> Iterator[Finding]:
    """Images that are their own mask."""
    names = [n for n, one in survey.volumes.items() if one.labelled and one.masks == one.labelled]
    if names:
        yield Finding(
            True, "the image is its own mask", "Put the acquired image there.", tuple(names)
        )


def duplicates(survey: Survey) -> Iterator[Finding]:
    """One picture under the names of two patients."""
    for names in _by_digest(survey.volumes).values():
        if len({survey.volumes[name].patient for name in names}) > 1:
            yield Finding(
                False,
                f"{len(names)} cases are one picture under the names of several patients",
                "Keep one of them, or held-out patients are trained on.",
                tuple(names),
            )


def _by_digest(volumes: dict[str, Volume]) -> dict[bytes, list[str]]:
    found: dict[bytes, list[str]] = {}
    for name, volume in volumes.items():
        if volume.digest:
            found.setdefault(volume.digest, []).append(name)
    return {digest: names for digest, names in found.items() if len(names) > 1}


def spacings(survey: Survey) -> Iterator[Finding]:
    """Spacings that differ from case to case, where the recipe does not bring them to one."""
    found = plane_spacings(survey)
    if survey.image.spacing or not found:
        return
    if any(max(mm) > (1 + SPACING_APART) * min(mm) for mm in zip(*found, strict=True)):
        yield Finding(
            False,
            "cases differ in spacing, so anatomy comes in different scales",
            f"Train with one for all: {one_spacing([survey])}.",
        )


def plane_spacings(survey: Survey) -> list[list[float]]:
    """Millimetres per pixel of each volume's slices, columns and rows; pictures have none."""
    axis = AXES[survey.image.axis]
    sources = [volume.source for volume in survey.volumes.values()]
    return [_plane(source.spacing, axis) for source in sources if len(source.shape) == 3]


def views(survey: Survey) -> list[list[float]]:
    """Field of view of each volume's slices in millimetres, columns and rows."""
    axis = AXES[survey.image.axis]
    sources = [volume.source for volume in survey.volumes.values()]
    return [
        _plane([side * mm for side, mm in zip(one.shape, one.spacing, strict=True)], axis)
        for one in sources
        if len(one.shape) == 3
    ]


def one_spacing(surveys: Iterable[Survey]) -> str:
    """The option that brings all volumes to one spacing, in which each fits the image's size."""
    most = max(
        max(rows / survey.image.size[0], columns / survey.image.size[1])
        for survey in surveys
        for columns, rows in views(survey)
    )
    digits = 10 ** (2 - math.floor(math.log10(most)))
    return _options(f"image.spacing={math.ceil(most * digits) / digits:g}")


def empty_masks(survey: Survey) -> Iterator[Finding]:
    """Many slices without a label."""
    without = sum(volume.slices - volume.labelled for volume in survey.volumes.values())
    if survey.masked and survey.labels and without > survey.slices / 2:
        yield Finding(
            False,
            f"{without} of {survey.slices} slices hold no label, so their masks say nothing of "
            "what to paint",
            f"Leave them out: {_options('image.slices=labelled')}.",
        )


def size_with_less(surveys: Sequence[Survey]) -> str:
    """The option with a size that has at most half of the padding; empty: there is none."""
    image = surveys[0].image
    ratios = [
        _proportion(volume, AXES[image.axis])
        for survey in surveys
        for volume in survey.volumes.values()
    ]
    if image.fit != "pad" or image.spacing or not ratios:
        return ""
    most, mean = max(image.size), fmean(math.log(ratio) for ratio in ratios)
    short = max(16, 16 * round(most * math.exp(-abs(mean)) / 16))
    size = (short, most) if mean < 0 else (most, short)

    def empty(height: int, width: int) -> float:
        fits = [ratio * width / height for ratio in ratios]
        return 1 - fmean(min(fit, 1 / fit) for fit in fits)

    if empty(*size) > empty(*image.size) / 2:
        return ""
    return _options(f"image.size={size[0]}x{size[1]}")


def _proportion(volume: Volume, axis: int) -> float:
    """Height over width of a slice, in millimetres."""
    source = volume.source
    mm = [a * b for a, b in zip(source.shape, source.spacing, strict=True)]
    rows, columns = mm if len(mm) == 2 else _plane(mm, axis)[::-1]
    return rows / columns


Rule = Callable[[Survey], Iterator[Finding]]

OF_DATA: Final[tuple[Rule, ...]] = (unlabelled, masks_for_images, duplicates)
"""Rules about the data alone."""

OF_FIT: Final[tuple[Rule, ...]] = (intensities, thin, spacings, empty_masks)
"""Rules about the data and a recipe's [image] table."""


def findings(survey: Survey, rules: Iterable[Rule] | None = None) -> list[Finding]:
    """Everything that the rules find; None: all rules that matter to the survey's recipe."""
    if rules is None:  # a generator of masks sees no image
        rules = (*OF_DATA, *OF_FIT) if survey.image.source == "images" else (unlabelled, thin)
    return [replace(found, kind=rule.__name__) for rule in rules for found in rule(survey)]
