"""Compares data sets that are to be trained on together, and judged on, within one party."""

from collections.abc import Iterator, Sequence
from itertools import product
from statistics import median

from asyndgan.intake.check import CheckReport, Fault
from asyndgan.intake.findings import (
    SPACING_APART,
    plane_spacings,
    set_options,
    spacing_option,
    views,
)
from asyndgan.intake.grids import shown_shape
from asyndgan.intake.patients import shared_patients
from asyndgan.recipe import Recipe
from asyndgan.recipe.pooled import VIEWS_APART, apart
from asyndgan.store.enrolment import unheld
from asyndgan.store.geometry import alike, options, suited
from asyndgan.store.survey import Survey
from asyndgan.texts import named_alike

RANGES_APART = 4.0
"""Ratio of the typical ranges of two folders above which they are reported."""


def compare_folders(reports: Sequence[CheckReport]) -> tuple[Fault, ...]:
    """Finds contradictions between data sets that are to be trained on together.

    These are one label number with two names, one label name with two numbers, names of modalities
    or labels that only capitals, spaces, dots or dashes tell apart, and a patient who is at two
    sites; capitals do not tell patients apart.
    """
    faults: list[Fault] = []
    for place, report in enumerate(reports):
        for here, there in (*named_alike(report.modalities), *named_alike(report.labels)):
            faults.append(
                Fault(
                    report.folder / "dataset.json",
                    f"names '{here}' and '{there}', which are too much alike",
                    "Give one thing one name, and name different ones more clearly.",
                )
            )
        for other in reports[:place]:
            faults += _contradictions(report, other)
            faults += [
                Fault(
                    report.patients[patient],
                    f"is of a patient who is at {other.folder} as well",
                    "Keep each patient at one site; if two people share the name, rename one.",
                )
                for patient in shared_patients(report.patients, other.patients)
            ]
    return tuple(faults)


def same_pictures(reports: Sequence[CheckReport]) -> tuple[Fault, ...]:
    """Finds pictures that are in two of these folders, whatever their names.

    They are compared as a recipe prepares them.
    """
    faults: list[Fault] = []
    seen: dict[str, CheckReport] = {}
    for report in reports:
        volumes = report.survey.volumes
        for name, volume in volumes.items():
            other = seen.get(volume.digest)
            if other and not shared_patients([volume.patient], other.patients):
                faults.append(
                    Fault(
                        report.files[name],
                        f"is a picture of {other.folder} as well, under another name",
                        "Keep it in one of them, or results will look better than they are.",
                    )
                )
        for volume in volumes.values():
            if volume.digest:
                seen.setdefault(volume.digest, report)
    return tuple(faults)


def unheld_modalities(reports: Sequence[CheckReport], recipe: Recipe) -> tuple[Fault, ...]:
    """Finds modalities that a recipe names and no folder holds, for which training ends.

    Where further sites come later (`timeline`), they may hold them.
    """
    held = {name for report in reports for name in report.modalities}
    if recipe.timeline or not held or recipe.image.source == "masks":
        return ()
    return tuple(
        Fault(
            report.folder / "dataset.json",
            f"{key} of the recipe names {name}, and the folders hold {', '.join(sorted(held))}",
            "Name it as the folders do, or leave it out.",
        )
        for key, names in unheld(recipe.image, held).items()
        for name in names
        for report in reports
    )


def notes_between(
    reports: Sequence[CheckReport], *, fits: bool = True, told: int = 0
) -> tuple[str, ...]:
    """What differs between data sets that are to be trained on together, and need not be wrong.

    Args:
        reports: one of each data set.
        fits: whether a recipe's image settings are known, so that what they make of it is told.
        told: how many of the first data sets a plan's notes have compared.
    """
    notes = [*_unheld(reports), *_lacked(reports, told)]
    if fits and told < len(reports):
        notes += [*_scales(reports), *_ranges(reports)]
    if fits:
        notes += _padding(reports)
    return tuple(notes)


def _unheld(reports: Sequence[CheckReport]) -> Iterator[str]:
    """Labels that are named, and that no case of any folder holds."""
    held = set[int]().union(*(report.survey.labels for report in reports))
    named = {number: name for report in reports for name, number in report.labels.items()}
    lacking = [f"{number} '{name}'" for number, name in sorted(named.items()) if number]
    lacking = [text for text in lacking if int(text.split()[0]) not in held]
    if lacking and held and not any(report.faults for report in reports):
        yield (
            f"no case holds label {', '.join(lacking)}, which dataset.json names: the generator "
            "cannot learn it. Take it out there, or check the masks"
        )


def _lacked(reports: Sequence[CheckReport], told: int) -> Iterator[str]:
    """Modalities and labels that some folders name and others do not.

    Of the first `told` folders only those are named that lack what none of them has.
    """
    for kind, of in (("modality", "modalities"), ("label", "labels")):
        names = list(dict.fromkeys(name for report in reports for name in getattr(report, of)))
        for name in names:
            known = any(name in getattr(one, of) for one in reports[:told])
            after = reports[told:] if known else reports
            others = [str(one.folder) for one in after if name not in getattr(one, of)]
            if others:
                yield (
                    f"{kind} '{name}' is not named in {', '.join(others)}: the generator learns "
                    "it from the other folders alone"
                )


def _scales(reports: Sequence[CheckReport]) -> Iterator[str]:
    """Spacings that differ where the recipe does not bring them to one, or else fields of view."""
    surveys = {str(one.folder): one.survey for one in reports if plane_spacings(one.survey)}
    if len(surveys) < 2:
        return
    spaced = next(iter(surveys.values())).image.spacing
    remedy = (
        "Where they are smaller, images are mostly padding. Crop the others to the same region"
        if spaced
        else "Anatomy then comes in different scales or sharpness. Train with one spacing for all: "
        f"{spacing_option([*surveys.values()])}"
    )
    for what, of, most in (
        ("spacing", plane_spacings, SPACING_APART),
        ("field of view", views, VIEWS_APART),
    ):
        found = {
            folder: [median(sides) for sides in zip(*of(survey), strict=True)]
            for folder, survey in surveys.items()
        }
        if not apart(found.values(), most) or (spaced and of is plane_spacings):
            continue
        shown = [
            f"{shown_shape(f'{mm:.3g}' for mm in sides)} mm in {folder}"
            for folder, sides in found.items()
        ]
        yield f"the folders differ in {what}: {', '.join(shown)}. {remedy}"
        return


def _padding(reports: Sequence[CheckReport]) -> Iterator[str]:
    """Padding that another size of image has less of."""
    surveys = [report.survey for report in reports if report.survey.slices]
    empty = sum(survey.empty * survey.slices for survey in surveys)
    empty /= max(1, sum(survey.slices for survey in surveys))
    if surveys and (option := _size_with_less(surveys)):
        yield f"{100 * empty:.0f} % of each image is padding. Another size has less: {option}"


def _ranges(reports: Sequence[CheckReport]) -> Iterator[str]:
    """Stored intensities that differ, where the recipe takes one range for all."""
    for modality in dict.fromkeys(name for one in reports for name in one.survey.kept):
        typical: dict[str, float] = {}
        for report in reports:
            patients = report.survey.kept.get(modality)
            if patients and report.survey.image.intensity_of(modality).kind == "range":
                spans = median(kept.high - kept.low for kept in patients.values())
                typical[str(report.folder)] = spans
        if typical and max(typical.values()) > RANGES_APART * min(typical.values()):
            shown = ", ".join(f"{span:.3g} in {folder}" for folder, span in typical.items())
            yield (
                f"the folders differ in the intensities of {modality}; a patient's span "
                f"{shown}. Percentiles bring them to one scale: --set image.intensity.default.kind="
                "percentiles --set image.intensity.default.low=0.5 "
                "--set image.intensity.default.high=99.5"
            )


def _contradictions(report: CheckReport, other: CheckReport) -> Iterator[Fault]:
    file = report.folder / "dataset.json"
    remedy = "Labels match by name and number: give both folders the same, and remap the masks."
    for here, there in product(report.modalities, other.modalities):
        if named_alike([here, there]):
            yield Fault(
                file,
                f"modality '{here}' here is '{there}' in {other.folder}",
                "Names are matched to the letter: name one modality alike everywhere.",
            )
    for here, there in product(report.labels, other.labels):
        if named_alike([here, there]):
            yield Fault(file, f"label '{here}' here is '{there}' in {other.folder}", remedy)
    other_names = {number: name for name, number in other.labels.items()}
    for name, number in report.labels.items():
        if other.labels.get(name, number) != number:
            yield Fault(
                file,
                f"label '{name}' is {number} here and {other.labels[name]} in {other.folder}",
                remedy,
            )
        if other_names.get(number, name) != name:
            yield Fault(
                file,
                f"label {number} is '{name}' here and '{other_names[number]}' in {other.folder}",
                remedy,
            )


def _size_with_less(surveys: Sequence[Survey]) -> str:
    """The option with a size that has at most half of the padding; empty: there is none.

    It goes together with another axis or spacing, where one is wanted: see `grid`.
    """
    image = surveys[0].image
    sources = [alike(survey.sources.values(), survey.image) for survey in surveys]
    wanted = [suited(own, image) for own in (*sources, [one for own in sources for one in own])]
    if not all(one and (one.axis, one.spacing) == (image.axis, image.spacing) for one in wanted):
        return ""
    return set_options(*options(image, wanted[-1])) if wanted[-1] else ""
