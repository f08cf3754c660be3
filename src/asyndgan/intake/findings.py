"""What a survey of a data set shows: faults that stop a training, and notes.

`asyndgan check` prints both. Training, and a site's service, refuse faults and log notes.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Final, final

from asyndgan.errors import DataError
from asyndgan.intensities import IMAGE_HIGH, IMAGE_LOW
from asyndgan.recipe import ImageSection, Intensity
from asyndgan.store.case import Source
from asyndgan.store.geometry import LEAST_SIDE, is_shrunk, resampled, slice_of
from asyndgan.store.survey import Kept, Survey
from asyndgan.texts import counted, shown_shape

if TYPE_CHECKING:  # torch, which 'check' need not wait for
    from asyndgan.store.prepared import Case

MOST_LOST: Final = 0.5
"""Largest fraction of a label, or of a patient's picture, that may lie outside the range."""

MOST_WINDOWED: Final = 0.9
"""The same of a picture whose range was chosen: a CT window leaves air or bone out."""

LEAST_USED: Final = 0.02
"""Smallest fraction of the intensity range that a patient's images must span."""

MOST_CUT: Final = 0.05
"""Largest fraction of a patient's images, by brightness, that a generator may not paint."""

FEW: Final = 0.1
"""Fraction of the patients from which on lost intensities are a fault; below it they are noted."""

SEVERAL: Final = 3
"""Fewest patients who are a fault where most others fit: a scanner, and not single patients. Of few
patients two are enough who are a quarter of them: one scanner of four."""

NAMED: Final = 3
"""Most cases that a note names."""

SPACING_APART: Final = 0.05
"""Relative difference of spacings above which they are reported."""

LABELS_AGAIN: Final = (
    "Export the masks again with their labels; check their values and their file names."
)


@final
@dataclass(frozen=True)
class Finding:
    """One conclusion about a data set."""

    fault: bool  # whether it stops a training
    reason: str  # what was found, without a full stop
    remedy: str  # what to do, as a full sentence
    volumes: tuple[str, ...] = ()  # names of those concerned; empty: the set as a whole
    kind: str = ""  # name of its rule, for scripts

    def __str__(self) -> str:
        return f"{self.reason}. {self.remedy}"


def refuse(findings: Iterable[Finding], where: str | Path) -> None:
    """Raises `DataError` with the first fault among the findings of the data at `where`."""
    for finding in findings:
        if finding.fault:
            raise DataError(f"{where}: {finding}")


_Loss = tuple[str, float, bool]
"""What the intensities lose of a patient's images: a text for the fraction, the fraction, and
whether a training would throw them away; else it may be meant."""


def intensities(survey: Survey) -> Iterator[Finding]:
    """Intensities that the recipe throws away, judged by patient."""
    for modality, patients in survey.kept.items():
        how, of = survey.image.intensity_of(modality), len(patients)
        lost = {patient: what for patient, kept in patients.items() if (what := _loss(kept, how))}
        if not lost:
            continue
        threatened = {patient: loss for patient, loss in lost.items() if loss[2]}
        many = len(threatened)  # all, half of them, or as many as one scanner of several has
        fault = many == of or (many > 1 and many >= max(FEW * of, min(SEVERAL, of / 4)))
        lost = threatened if fault else lost
        kinds = [kind for kind, _, _ in lost.values()]
        kind = max(kinds, key=kinds.count)
        share = fmean(part for own, part, _ in lost.values() if own == kind)
        where = f" in {len(lost)} of {counted(of, 'patient')}" if len(lost) < of else ""
        if where and not fault and len(lost) <= NAMED:
            where += f" ({', '.join(lost)})"
        yield Finding(
            fault,
            f"modality {modality} does not fit image.intensity ({how.kind}, {how.low:g} to "
            f"{how.high:g}){where}: {kind.format(share=share)}",
            "Take the intensities that 'asyndgan plan' chooses, or set image.intensity to what is "
            f"stored{'' if fault else ', unless this is meant'}.",
            tuple(name for name, one in survey.volumes.items() if fault and one.patient in lost),
        )


_BESIDE: Final = "{share:.0%} of its pixels lie outside and would be black or white"


def _loss(kept: Kept, how: Intensity) -> _Loss | None:
    """What is lost of a patient's images; None: little."""
    if kept.low == kept.high:
        return None  # see `silent`
    used = (kept.white - kept.black) / (IMAGE_HIGH - IMAGE_LOW)
    if used < LEAST_USED:
        for where in ("above", "below"):
            if (part := kept.part(where)) > MOST_LOST:
                text = f"{{share:.0%}} of its pixels lie {where} that range, so they look alike"
                return text, part, True
        return "all of its pixels lie within a fiftieth of that range", 1.0, True
    if how.kind != "range":
        return None  # other kinds adapt to each case's own intensities
    chosen = how != Intensity()
    outside = kept.part("below") + kept.part("above")
    if outside > MOST_WINDOWED:
        return _BESIDE, outside, True
    for label, pixels in sorted(kept.pixels.items()):
        if kept.lost[label] > MOST_LOST * pixels:
            text = f"{{share:.0%}} of label {label} lies outside and would be black or white"
            return text, kept.lost[label] / pixels, not chosen
    if (beyond := kept.part("above", "bright")) > MOST_LOST:
        text = "{share:.0%} of its pixels that are not black lie beyond and would be white"
        return text, beyond, not chosen
    return (_BESIDE, outside, True) if not chosen and outside > MOST_LOST else None


def silent(survey: Survey) -> Iterator[Finding]:
    """Images of one grey value, as some programs write for a modality that a patient lacks."""
    for modality in survey.modalities:
        held = {n: one for n, one in survey.volumes.items() if modality in one.varied}
        grey = tuple(name for name, one in held.items() if not one.varied[modality])
        if grey and len(grey) == len(held):
            yield Finding(
                True,
                f"modality {modality} is empty: every image is one grey value",
                "Export the images again, or take it out of channel_names and its files away.",
            )
        elif grey:
            yield Finding(
                False,
                f"modality {modality} is empty, one grey value, in {len(grey)} of "
                f"{counted(len(held), 'case')}",
                "Export these images again, or leave the cases out and lower numTraining. If these "
                'patients lack it, remove the files and write "incomplete": true in dataset.json.',
                grey,
            )


def grid(survey: Survey) -> Iterator[Finding]:
    """Slices of a few pixels, as stored or after shrinking."""
    found: dict[str, list[str]] = {}
    for name, source in survey.sources.items():
        if what := _misfit(source, survey.image):
            found.setdefault(what, []).append(name)
    for text, names in found.items():
        remedy = "Take the axis and size that 'asyndgan plan' chooses, or export it in full size."
        yield Finding(True, text, remedy, tuple(names))


def _misfit(source: Source, image: ImageSection) -> str:
    """What is wrong with the slices of a file; empty: nothing."""
    shape, spacing = slice_of(source, image)
    size = shown_shape(shape)
    sliced = len(source.shape) == 3 and not image.whole
    if len(shape) < len(image.size):
        return "is a picture, and image.size has three sides"
    if min(shape) < LEAST_SIDE:
        return f"{image.axis} slices are {size} pixels" if sliced else f"is {size} pixels"
    resized = resampled(shape, spacing, image)
    if is_shrunk(shape, resized):
        what = f"{image.axis} slices" if sliced else "a volume" if image.whole else "a picture"
        return f"{what} of {size} pixels would become {shown_shape(resized)}"
    return ""


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
    pictures: dict[str, list[str]] = defaultdict(list)
    for name, volume in survey.volumes.items():
        pictures[volume.digest or name].append(name)
    patients = {name: volume.patient for name, volume in survey.volumes.items()}
    found = [own for own in pictures.values() if len({patients[name] for name in own}) > 1]
    every = tuple(name for names in found for name in names)
    what = "one picture" if len(found) == 1 else f"{len(found)} pictures"
    such = f", such as {' = '.join(found[0][:NAMED])}" if len(every) > NAMED else ""
    if found:
        yield Finding(
            False,
            f"{len(every)} cases are {what} under the names of several patients{such}",
            "Keep one case of each and lower numTraining, or held-out patients are trained on.",
            every,
        )


def spacings(survey: Survey) -> Iterator[Finding]:
    """Spacings that differ from case to case, where the recipe does not bring them to one."""
    volumes = [one for one in survey.sources.values() if len(one.shape) == 3]
    found = [slice_of(one, survey.image)[1] for one in volumes]
    if survey.image.spacing or not found:
        return
    if any(max(mm) > (1 + SPACING_APART) * min(mm) for mm in zip(*found, strict=True)):
        yield Finding(
            False,
            "cases differ in spacing, so anatomy comes in different scales",
            "Train with one for all: set image.spacing, as 'asyndgan plan' does.",
        )


def empty_masks(survey: Survey) -> Iterator[Finding]:
    """Many slices without a label."""
    if survey.labels and survey.without > survey.slices / 2:
        yield Finding(
            False,
            f"{survey.without} of {survey.slices} slices hold no label, so their masks say nothing "
            "of what to paint",
            "Leave them out: --set image.slices=labelled.",
        )


Rule = Callable[[Survey], Iterator[Finding]]

OF_DATA: Final[tuple[Rule, ...]] = (unlabelled, silent, masks_for_images, duplicates)
"""Rules about the data alone."""

OF_FIT: Final[tuple[Rule, ...]] = (intensities, grid, spacings, empty_masks)
"""Rules about the data and a recipe's [image] table."""


def findings(survey: Survey, rules: Iterable[Rule] | None = None) -> list[Finding]:
    """Everything that the rules find; None: all rules that matter to the survey's recipe."""
    if rules is None:  # a generator of masks sees no image
        rules = (*OF_DATA, *OF_FIT) if survey.image.source == "images" else (unlabelled, grid)
    return [replace(found, kind=rule.__name__) for rule in rules for found in rule(survey)]


def check_contrast(cases: "Iterable[Case]", image: ImageSection, where: str | Path) -> None:
    """Refuses prepared images, of the data at `where`, as `silent` and `intensities` find."""
    refuse(findings(Survey.of(cases, image), (silent, intensities)), where)


def check_uncut(cases: "Iterable[Case]", image: ImageSection, where: Path) -> None:
    """Refuses images of which cropping cut off more than `MOST_CUT` of a patient's.

    A generator does not paint what is cut off; stored, it would be black.
    """
    lost: dict[str, float] = defaultdict(float)
    for case in cases:  # an end slice of a volume, all air, says nothing
        cut, bright = case.preparation.cut
        lost[case.patient] += cut - MOST_CUT * bright
    if many := sum(beyond > 0 for beyond in lost.values()):
        raise DataError(
            f"{where}: of {many} of {len(lost)} patients more than {MOST_CUT:.0%} of what is "
            f"not dark lies beyond the {shown_shape(image.size)} pixels that this run paints; "
            "painted images would be black there. Take a run with image.fit 'pad' or, if it has "
            "image.spacing, a larger image.size."
        )
