"""What a survey of a data set shows: faults that stop a training, and notes.

`asyndgan check` prints both. Training, and a site's service, refuse faults and log notes.
"""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Final, final

from asyndgan.errors import DataError
from asyndgan.intake.grids import shown_shape
from asyndgan.intake.remedies import LABELS_AGAIN
from asyndgan.intake.units import WARMEST_AIR, in_hounsfield
from asyndgan.intensities import IMAGE_HIGH, IMAGE_LOW
from asyndgan.recipe import ImageSection, Intensity
from asyndgan.recipe.toml import key_of
from asyndgan.store.case import Source
from asyndgan.store.geometry import (
    LEAST_SIDE,
    SKEWED,
    alike,
    is_shrunk,
    one_spacing,
    options,
    resampled,
    skew_of,
    slice_of,
    suited,
)
from asyndgan.store.survey import Kept, Survey, Volume
from asyndgan.texts import counted

MOST_LOST: Final = 0.5
"""Largest fraction of a label, or of a patient's picture, that may lie outside the range."""

MOST_WINDOWED: Final = 0.9
"""The same of a picture whose range was chosen: a CT window leaves air or bone out."""

LEAST_USED: Final = 0.02
"""Smallest fraction of the intensity range that a patient's images must span."""

LITTLE_USED: Final = 0.15
"""Smallest fraction of it that is not noted."""

FEW: Final = 0.1
"""Fraction of the patients from which on lost intensities are a fault; below it they are noted."""

SEVERAL: Final = 3
"""Fewest patients who are a fault where most others fit: a scanner, and not single patients. Of few
patients two are enough who are a quarter of them: one scanner of four."""

NAMED: Final = 3
"""Most cases that a note names."""

SPACING_APART: Final = 0.05
"""Relative difference of spacings above which they are reported."""

CT: Final = Intensity(low=-1000, high=1000)
UNIT: Final = Intensity(low=0, high=1)
PERCENTILES: Final = Intensity(kind="percentiles", low=0.5, high=99.5)
_WHY: Final = {
    ("range", CT.high): "Hounsfield units are stored",
    ("range", UNIT.high): "0 to 1 is stored",
    ("percentiles", PERCENTILES.high): "Percentiles suit any intensities",
}

_ACROSS: Final = "its slices lie along another axis than the others'"
_LITTLE: Final = "its pixels span {share:.0%} of that range, so they look alike"


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


@final
@dataclass(frozen=True)
class _Loss:
    """What the intensities lose of a patient's images.

    Attributes:
        kind: a text for the fraction.
        part: the fraction.
        grave: whether a training would throw them away; else it may be meant.
    """

    kind: str
    part: float
    grave: bool = True


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
        of = len(survey.kept[modality])
        little = {p: loss for p, loss in losses[modality].items() if loss.kind == _LITTLE}
        others = {p: loss for p, loss in losses[modality].items() if loss.kind != _LITTLE}
        setting = "default" if alike else modality
        for lost in (others, little if _are_many(len(little), of) else {}):
            if lost:
                remedy = _WHY[wanted.kind, wanted.high], _intensity_options(setting, wanted)
                yield _unfit(survey, modality, lost, remedy)


def _unfit(
    survey: Survey, modality: str, lost: Mapping[str, _Loss], remedy: tuple[str, str]
) -> Finding:
    """What the intensities lose of a modality of these patients."""
    how, of = survey.image.intensity_of(modality), len(survey.kept[modality])
    grave = {patient: loss for patient, loss in lost.items() if loss.grave}
    fault = _are_many(len(grave), of)
    lost = grave if fault else lost
    kinds = [loss.kind for loss in lost.values()]
    kind = max(kinds, key=kinds.count)
    share = fmean(loss.part for loss in lost.values() if loss.kind == kind)
    where = f" in {len(lost)} of {counted(of, 'patient')}" if len(lost) < of else ""
    if where and not fault and len(lost) <= NAMED:
        where += f" ({', '.join(lost)})"
    meant = ". If this is not meant"
    if survey.planned:
        meant = f". The plan chose {how.low:g} to {how.high:g} all the same; to train otherwise"
    return Finding(
        fault,
        f"modality {modality} does not fit image.intensity ({how.kind}, {how.low:g} to "
        f"{how.high:g}){where}: {kind.format(share=share)}",
        f"{remedy[0]}{'' if fault else meant}: {remedy[1]}.",
        tuple(name for name, one in survey.volumes.items() if fault and one.patient in lost),
    )


def _are_many(lost: int, of: int) -> bool:
    """Whether those who lose are all, half of them, or as many as one scanner of several has."""
    return lost == of or (lost > 1 and lost >= max(FEW * of, min(SEVERAL, of / 4)))


def _loss(kept: Kept, how: Intensity) -> _Loss | None:
    """What is lost of a patient's images; None: little."""
    if kept.low == kept.high:
        return None  # see `silent`
    used = (kept.white - kept.black) / (IMAGE_HIGH - IMAGE_LOW)
    if used < LEAST_USED:
        for where in ("above", "below"):
            if (part := kept.part(where)) > MOST_LOST:
                text = f"{{share:.0%}} of its pixels lie {where} that range, so they look alike"
                return _Loss(text, part)
        return _Loss("all of its pixels lie within a fiftieth of that range", 1.0)
    if how.kind != "range":
        return None  # other kinds adapt to each case's own intensities
    chosen = how != Intensity()
    outside = kept.part("below") + kept.part("above")
    beside = _Loss("{share:.0%} of its pixels lie outside and would be black or white", outside)
    if chosen and outside > MOST_WINDOWED:
        return beside
    for label, pixels in sorted(kept.pixels.items()):
        if kept.lost[label] > MOST_LOST * pixels:
            text = f"{{share:.0%}} of label {label} lies outside and would be black or white"
            return _Loss(text, kept.lost[label] / pixels, not chosen)
    if (beyond := kept.part("above", "bright")) > MOST_LOST:
        text = "{share:.0%} of its pixels that are not black lie beyond and would be white"
        return _Loss(text, beyond, not chosen)
    if not chosen and outside > MOST_LOST:
        return beside
    if used < LITTLE_USED:
        return _Loss(_LITTLE, used, grave=False)
    return None


def silent(survey: Survey) -> Iterator[Finding]:
    """Images of one grey value, as some programs write for a modality that a patient lacks."""
    for modality in survey.modalities:
        held = {n: one for n, one in survey.volumes.items() if modality in one.varied}
        grey = tuple(name for name, one in held.items() if not one.varied[modality])
        if grey and len(grey) == len(held):
            yield Finding(
                True,
                f"modality {modality} is empty: every image is one grey value",
                "Export the images again, or take it out of channel_names.",
            )
        elif grey:
            yield Finding(
                False,
                f"modality {modality} is empty, one grey value, in {len(grey)} of "
                f"{counted(len(held), 'case')}",
                "Export these images again, or leave the cases out. If these patients lack it, "
                'remove the files and write "incomplete": true in dataset.json.',
                grey,
            )


def _suited(survey: Survey, modality: str) -> Intensity:
    """The normalisation that suits what is stored."""
    how, stored = survey.image.intensity_of(modality), survey.kept[modality].values()
    lowest, highest = [kept.low for kept in stored], [kept.high for kept in stored]
    suited = PERCENTILES
    if _is_ct(survey, modality):
        suited = CT
    elif min(lowest) >= 0 and max(highest) <= 1 and min(highest) >= LEAST_USED:
        suited = UNIT
    return PERCENTILES if suited == how else suited


def _is_ct(survey: Survey, modality: str) -> bool:
    stored = survey.kept[modality].values()
    volumes = all(len(source.shape) == 3 for source in survey.sources.values())
    ends = [kept.low for kept in stored], [kept.high for kept in stored]
    return in_hounsfield(modality, *ends, volumes=volumes, unit=survey.units.get(modality))


def airless(survey: Survey) -> Iterator[Finding]:
    """Patients of a CT whose stored values reach down to no air, where others' do."""
    for modality, patients in survey.kept.items():
        without = [name for name, kept in patients.items() if kept.low > WARMEST_AIR]
        if 0 < len(without) < len(patients) and _is_ct(survey, modality):
            yield Finding(
                False,
                f"{modality} is in Hounsfield units, and {len(without)} of "
                f"{counted(len(patients), 'patient')} hold nothing below {WARMEST_AIR}, as air is",
                "Crops may be so. If their values have an offset, such as 1024, take it away.",
            )


def _intensity_options(modality: str, wanted: Intensity) -> str:
    key = f"image.intensity.{key_of(modality)}"
    ends = f"{key}.low={wanted.low:g}", f"{key}.high={wanted.high:g}"
    return set_options(f"{key}.kind={wanted.kind}", *ends)


def set_options(*values: str) -> str:
    """What to type for these settings."""
    return " ".join(f"--set {shlex.quote(value)}" for value in values)


def grid(survey: Survey) -> Iterator[Finding]:
    """Slices of a few pixels, as stored or after shrinking, and slices across thick ones."""
    image, sources = survey.image, survey.sources
    fitting = alike(sources.values(), image)
    wanted = suited(fitting, image)
    found: dict[tuple[str, bool], list[str]] = {}
    odd = sources.keys() - {one.name for one in fitting}
    for name, source in sources.items():
        what = (_ACROSS, True) if name in odd else _misfit(source, image, wanted)
        if what:
            found.setdefault(what, []).append(name)
    settings = options(image, wanted) if wanted else ()
    other = (
        "Cut along another axis" if wanted and wanted.axis != image.axis else "Take another grid"
    )
    for (text, fault), names in found.items():
        strips = all(sorted(sources[name].shape)[-2] < LEAST_SIDE for name in names)
        remedy = "Export it again in full size."
        if text == _ACROSS:
            remedy = "Leave it out, resample it to slices like the others', or correct its header."
        elif settings and not strips:
            remedy = f"{other}: {set_options(*settings)}."
        yield Finding(fault, text, remedy, tuple(names))


def _misfit(
    source: Source, image: ImageSection, wanted: ImageSection | None
) -> tuple[str, bool] | None:
    """What is wrong with the slices of a file, and whether it is a fault."""
    (rows, columns), spacing = slice_of(source, image)
    volume = len(source.shape) == 3
    size = shown_shape((rows, columns))
    if min(rows, columns) < LEAST_SIDE:
        return (f"{image.axis} slices are {size} pixels" if volume else f"is {size} pixels"), True
    resized = resampled((rows, columns), spacing, image)
    if is_shrunk((rows, columns), resized):
        what = f"{image.axis} slices" if volume else "a picture"
        return f"{what} of {size} pixels would become {shown_shape(resized)}", True
    skew = skew_of(source, image)
    if wanted and wanted.axis != image.axis and skew > SKEWED * skew_of(source, wanted):
        mm = shown_shape(f"{side:g}" for side in spacing)
        return f"{image.axis} slices have pixels of {mm} mm: they cross thick slices", False
    return None


def unlabelled(survey: Survey) -> Iterator[Finding]:
    """Masks that hold no label at all."""
    if survey.masked and not survey.labels and (survey.volumes or survey.left_out):
        yield Finding(
            True,
            "no mask holds a label other than 0, so every mask would paint the same image",
            LABELS_AGAIN,
        )


def masks_for_images(survey: Survey) -> Iterator[Finding]:
    """Images that are their own mask."""
    names = [n for n, one in survey.volumes.items() if one.labelled and one.masks == one.labelled]
    if names:
        yield Finding(
            True, "the image is its own mask", "Put the acquired image there.", tuple(names)
        )


def duplicates(survey: Survey) -> Iterator[Finding]:
    """Pictures under the names of several patients each."""
    found = [
        names
        for names in _by_digest(survey.volumes).values()
        if len({survey.volumes[name].patient for name in names}) > 1
    ]
    every = tuple(name for names in found for name in names)
    pictures = "one picture" if len(found) == 1 else f"{len(found)} pictures"
    such = f", such as {' = '.join(found[0][:NAMED])}" if len(every) > NAMED else ""
    if found:
        yield Finding(
            False,
            f"{len(every)} cases are {pictures} under the names of several patients{such}",
            "Keep one case of each, or held-out patients are trained on.",
            every,
        )


def _by_digest(volumes: dict[str, Volume]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
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
            f"Train with one for all: {spacing_option([survey])}.",
        )


def plane_spacings(survey: Survey) -> list[list[float]]:
    """Millimetres per pixel of each volume's slices, rows and columns; pictures have none."""
    return [slice_of(one, survey.image)[1] for one in _of_volumes(survey)]


def views(survey: Survey) -> list[list[float]]:
    """Field of view of each volume's slices in millimetres, rows and columns."""
    both = [slice_of(one, survey.image) for one in _of_volumes(survey)]
    return [[side * mm for side, mm in zip(*one, strict=True)] for one in both]


def _of_volumes(survey: Survey) -> list[Source]:
    return [
        source for source in alike(survey.sources.values(), survey.image) if len(source.shape) == 3
    ]


def spacing_option(surveys: Sequence[Survey]) -> str:
    """The option that brings all volumes to one spacing, on the grid that suits them."""
    sources = [
        source for survey in surveys for source in alike(survey.sources.values(), survey.image)
    ]
    image = suited(sources, surveys[0].image) or surveys[0].image
    return set_options(one_spacing(sources, image))


def empty_masks(survey: Survey) -> Iterator[Finding]:
    """Many slices without a label."""
    if survey.labels and survey.without > survey.slices / 2:
        yield Finding(
            False,
            f"{survey.without} of {survey.slices} slices hold no label, so their masks say nothing "
            "of what to paint",
            f"Leave them out: {set_options('image.slices=labelled')}.",
        )


Rule = Callable[[Survey], Iterator[Finding]]

OF_DATA: Final[tuple[Rule, ...]] = (unlabelled, silent, airless, masks_for_images, duplicates)
"""Rules about the data alone."""

OF_FIT: Final[tuple[Rule, ...]] = (intensities, grid, spacings, empty_masks)
"""Rules about the data and a recipe's [image] table."""


def findings(survey: Survey, rules: Iterable[Rule] | None = None) -> list[Finding]:
    """Everything that the rules find; None: all rules that matter to the survey's recipe."""
    if rules is None:  # a generator of masks sees no image
        rules = (*OF_DATA, *OF_FIT) if survey.image.source == "images" else (unlabelled, grid)
    return [replace(found, kind=rule.__name__) for rule in rules for found in rule(survey)]
