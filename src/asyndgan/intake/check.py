"""Checks a data set before training and reports every fault, not only the first.

All files are read; none is changed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

import numpy as np

from asyndgan.errors import DataError
from asyndgan.intake.dataset import DataSet, painted
from asyndgan.intake.description import BACKGROUND, describe
from asyndgan.intake.findings import NAMED, OF_DATA, Finding, findings
from asyndgan.intake.listing import CaseFiles, Part, listed, part_of
from asyndgan.intake.nnunet import AXES, read_arrays, slices_of
from asyndgan.intake.patients import doubts, patients_of, same_person, shared_patients
from asyndgan.intake.readers import READERS, DataFileError
from asyndgan.recipe import ImageSection, Recipe
from asyndgan.store.case import Source
from asyndgan.store.enrolment import (
    UNNAMED_LABELS,
    UNNAMED_MODALITIES,
    Cases,
    none_left,
    none_shared,
    refusals,
    untaught,
)
from asyndgan.store.fitting import grid_for, planned, shared_modalities
from asyndgan.store.geometry import is_shrunk, resampled, slice_of
from asyndgan.store.info import DatasetInfo
from asyndgan.store.splits import halves_of, held_out_by
from asyndgan.store.survey import Survey
from asyndgan.texts import counted, shown_shape

SHOWN_NAMELESS = 8
"""Most unnamed labels a report lists; a picture mistaken for a mask may hold hundreds."""


@final
@dataclass(frozen=True)
class CheckReport:
    """The result of checking one folder."""

    folder: Path  # as passed by the caller
    rows: tuple[tuple[str, str], ...] = ()  # heading and text of each row of a table
    faults: tuple[DataFileError, ...] = ()  # in the order of the files
    patients: dict[str, Path] = field(default_factory=dict, repr=False)  # to one image file each
    files: dict[str, Path] = field(default_factory=dict, repr=False)  # case to its first image file
    # name to number; empty: the folder cannot be read
    labels: dict[str, int] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()  # likewise
    notes: tuple[str, ...] = ()  # no faults, but a recipe has to deal with them
    # what the recipe makes of the cases in which no fault was found
    survey: Survey = field(default_factory=lambda: Survey(ImageSection()), repr=False)
    findings: tuple[Finding, ...] = ()  # of the survey; `faults` and `notes` hold them too


def check_folder(
    folder: Path,
    *,
    test: Path | None = None,
    image: ImageSection | None = None,
    recipe: Recipe | None = None,
    acquired: bool = False,
) -> CheckReport:
    """Reads a whole data set, and collects its faults.

    Args:
        folder: holds dataset.json, imagesTr and labelsTr.
        test: another data set that must share no patient with it; of that only dataset.json and
            file names are read. imagesTs in the folder is always compared with imagesTr.
        image: how a recipe prepares images; None: which recipe will come is not known, so nothing
            is said of what fits.
        recipe: the whole recipe, with this `image`, of which the folder is to be a site.
        acquired: whether patients' images are wanted, so that painted ones are a fault.

    Raises:
        DataError: the data set's `patient_pattern` is not a regular expression. Other faults of
            the data are returned, not raised.
    """
    try:
        info = describe(folder)
        found = listed(folder, info)
    except DataFileError as error:
        return CheckReport(folder, faults=(error,))  # all else would follow from this
    patients = patients_of((files.name for files in found.cases), info.patient_pattern)
    tally = _Tally(info, patients, image)
    data, kept = DataSet(folder), False
    with suppress(DataError):  # a file is at fault: then each is read, and its faults told
        kept = bool(data.stored)
    for files in found.cases:
        _check_case(files, tally, data if kept else None)
    tally.faults += found.faults
    masks = folder / f"labels{part_of(folder)}"
    notes = []
    if masks.is_dir():
        tally.faults += found.unmasked
    elif not found.faults:
        notes.append(
            "holds no masks: 'train', 'evaluate' and 'audit' need them in "
            f"{masks.name}; 'complete' does not"
        )
    unreal = painted(info)
    if unreal and acquired:
        tally.faults.append(DataFileError(folder, *unreal))
    elif unreal:
        notes.append("holds synthetic cases, so it is refused as a site's data and as test data")
    files_of = {case.name: next(iter(case.images.values())) for case in found.cases}
    own = {patients[name]: file for name, file in reversed(files_of.items())}
    tally.faults += tested_as_well(folder, own, test)
    tally.survey.masked = bool(tally.masks)
    tally.survey.labels |= set(tally.pixels) - {0}  # also of cases in which a fault was found
    shown = findings(tally.survey, OF_DATA if image is None else None)
    for finding in (one for one in shown if one.fault):
        for file in [files_of[name] for name in finding.volumes] or [folder]:
            tally.faults.append(DataFileError(file, finding.reason, finding.remedy))
    report = CheckReport(
        folder=folder,
        rows=tuple(_rows(info, len(found.cases), len(own), tally)),
        faults=tuple(tally.faults),
        patients=own,
        files=files_of,
        labels=info.labels,
        modalities=info.modalities,
        notes=(*notes, *_notes(info, [case.name for case in found.cases], shown)),
        survey=tally.survey,
        findings=tuple(shown),
    )
    unfit = _unready(report, recipe) if recipe and not unreal else ()
    more = (DataFileError(folder, *reason) for reason in unfit)
    return replace(report, faults=(*report.faults, *more))


@final
class _Tally:
    """Counts and faults collected while a folder's files are read.

    `image`: how a recipe prepares images; None: it is not known.
    """

    def __init__(
        self, info: DatasetInfo, patients: dict[str, str], image: ImageSection | None
    ) -> None:
        self.info = info
        self.patients = patients
        self.fits = image is not None
        self.survey = Survey(image or ImageSection())
        self.faults: list[DataFileError] = []
        self.sources: list[Source] = []
        self.pixels: Counter[int] = Counter()
        self.cases_with: Counter[int] = Counter()
        self.lacking: Counter[str] = Counter()
        self.masks = 0
        self.extremes: dict[str, tuple[float, float]] = {}


def _check_case(files: CaseFiles, tally: _Tally, data: DataSet | None) -> None:
    before, info = len(tally.faults), tally.info
    if data:
        source, images, mask = data.arrays(files)
    else:
        source, images, mask = read_arrays(files, info, tally.faults.append)
    whole = next(iter(files.images.values()))
    # A single unreadable file where three modalities are wanted may be an RGB picture that holds
    # them all, so none is reported missing.
    unknown = not images and len(info.modalities) >= 3 and set(files.images) == {0}
    for number, modality in enumerate(info.modalities):
        if modality in images:
            _check_image(files.images.get(number, whole), modality, images[modality], tally)
        elif number not in files.images and not unknown:
            tally.lacking[modality] += 1
            if not info.incomplete:
                tally.faults.append(
                    DataFileError(
                        whole.with_name(f"{files.name}_{number:04d}{info.file_ending}"),
                        f"modality '{modality}' is missing for this case",
                        "Add the file; or remove the case and lower numTraining; or take the "
                        "modality out of dataset.json and its files away; or, if cases may lack "
                        'it, write "incomplete": true there.',
                    )
                )
    if source:
        tally.sources.append(source)
    if mask is not None:
        found, counts = np.unique(mask, return_counts=True)
        tally.masks += 1
        tally.pixels.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        tally.cases_with.update(found.tolist())
    # A synthetic set is on its recipe's grid already, and no site's data.
    if source and not info.synthetic and len(tally.faults) == before:
        _survey(source, whole, images, mask, tally)


def _survey(
    source: Source,
    file: Path,
    images: dict[str, np.ndarray],
    mask: np.ndarray | None,
    tally: _Tally,
) -> None:
    """Prepares a case as training does; what cannot be prepared is a fault."""
    survey = tally.survey
    image = grid_for(tally.info, survey.image)
    wanted = shared_modalities(tally.info, image)
    if not any(name in images for name in wanted):
        return
    patient = tally.patients[source.name]
    shape, spacing = slice_of(source, image)
    if len(shape) == len(image.size) and is_shrunk(shape, resampled(shape, spacing, image)):
        survey.shrunk[source.name] = source
        return
    try:
        for raw in slices_of(source, patient, images, mask, AXES[image.axis], whole=image.whole):
            survey.add(raw.patient, wanted, planned(raw, image, wanted, incomplete=True))
    except DataError as error:
        reason, _, remedy = str(error).partition(". ")
        if tally.fits:
            tally.faults.append(DataFileError(file, reason, remedy))


def _check_image(path: Path, modality: str, values: np.ndarray, tally: _Tally) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        tally.faults.append(
            DataFileError(
                path,
                f"modality '{modality}' has {values.size - finite.sum()} intensities that are "
                "infinite or not numbers",
                "Replace them, for example by the background's intensity.",
            )
        )
        values = values[finite]
    if values.size:
        low, high = float(values.min()), float(values.max())
        lowest, highest = tally.extremes.get(modality, (low, high))
        tally.extremes[modality] = min(low, lowest), max(high, highest)


def tested_as_well(
    folder: Path, own: dict[str, Path], test: Path | None = None
) -> Iterator[DataFileError]:
    """Images of a set's patients, `own`, in its own imagesTs or in a test set."""
    for other in (folder, test) if test else (folder,):
        if other == test:
            yield from _shared_with(folder, own, other, part_of(other))
        if (other / "imagesTs").is_dir() and part_of(other) == "Tr":
            yield from _shared_with(folder, own, other, "Ts")


def _shared_with(
    folder: Path, own: dict[str, Path], test: Path, part: Part
) -> Iterator[DataFileError]:
    try:
        info = describe(test)
        others = listed(test, info, part).cases
    except DataFileError as error:
        # Any other error is a fault of the test set, which has its own report.
        if error.file == test / "imagesTs" and test != folder:
            yield error
        return
    patients = patients_of((files.name for files in others), info.patient_pattern)
    images = {patients[files.name]: files.images for files in reversed(others)}
    known = {same_person(patient): file for patient, file in own.items()}
    for patient in shared_patients(images, own):
        here = known[same_person(patient)].parent
        yield DataFileError(
            next(iter(images[patient].values())),
            f"is of the test set, but its patient is in {here} as well",
            "Keep each patient in one of them, or results will look better than they are; lower "
            "numTraining if these are fewer now.",
        )


def _notes(info: DatasetInfo, names: Sequence[str], found: Iterable[Finding]) -> Iterator[str]:
    empty = [name for name, number in info.labels.items() if number == 0]
    if empty and empty[0].casefold() != BACKGROUND:
        yield (
            f"label 0 is '{empty[0]}': 0 counts as background, whatever its name. If it is tissue, "
            "give it another number"
        )
    if not info.synthetic:
        volumes = READERS[info.file_ending].volumes
        yield from doubts(names, info.patient_pattern, volumes=volumes)
    for finding in (one for one in found if not one.fault):
        few = finding.volumes if len(finding.volumes) <= NAMED else ()
        named = f" ({', '.join(few)})" if few else ""
        yield f"{finding.reason}{named}. {finding.remedy}".rstrip(".")


def _rows(info: DatasetInfo, cases: int, patients: int, tally: _Tally) -> Iterator[tuple[str, str]]:
    """Heading and text of each row of a report."""
    volumes = READERS[info.file_ending].volumes
    noun = "volumes" if volumes else "cases"
    yield noun, f"{cases} ({tally.masks} with a mask)"
    if info.synthetic_cases:
        yield f"synthetic {noun}", f"{len(info.synthetic_cases)} of them; counted among all others"
    yield "patients", str(patients)
    yield "modalities", ", ".join(info.modalities)
    for modality, count in tally.lacking.items() if info.incomplete else ():
        yield f"lack {modality}", f"{count} {noun}; they are judged by what they have"
    yield "size", _range(source.shape for source in tally.sources)
    if READERS[info.file_ending].spaced:
        yield "spacing (mm)", _range(source.spacing for source in tally.sources)
    names = {number: name for name, number in info.labels.items()}
    total = tally.pixels.total()
    nameless = sorted(tally.pixels.keys() - names.keys())[:SHOWN_NAMELESS]
    for number in sorted([*names, *nameless]):
        share = 100 * tally.pixels[number] / total if total else 0
        heading = f"label {number} {names.get(number, '(no name)')}"
        yield heading, f"{share:.2f} % of the pixels, in {tally.cases_with[number]} {noun}"
    trained = tally.fits and tally.survey.volumes
    for modality in info.modalities:
        if modality in tally.extremes:
            low, high = tally.extremes[modality]
            scaled = tally.survey.image.intensity_of(modality)
            kind, of = ("", "") if scaled.kind == "range" else ("percentiles ", " of each case")
            told = f"; scaled from {kind}{scaled.low:g} to {scaled.high:g}{of}" if trained else ""
            yield f"intensity {modality}", f"{low:g} to {high:g}{told}"
    if trained:
        yield "in training", _trained(tally.survey, volumes=volumes)


def _trained(survey: Survey, *, volumes: bool) -> str:
    """What the recipe makes of the cases."""
    counts = [volume.slices for volume in survey.volumes.values()]
    sliced = volumes and not survey.image.whole
    of = f", {_range([(count,) for count in counts])} a volume" if sliced else ""
    kind = "slice" if sliced else "volume" if volumes else "picture"
    what = counted(survey.slices, kind)
    left = ""
    if survey.left_out:
        left = f"; {survey.left_out} without a label are left out"
        left += ", and any whose labels are lost by scaling"
    left += f"; {survey.without} hold no label" if survey.without else ""
    made = f"{what} of {shown_shape(survey.image.size)} pixels{of}"
    cut = f", {100 * survey.cut:.0f} % of what is stored is cut off" if survey.cut > 0.005 else ""
    return f"{made}, {100 * survey.empty:.0f} % of each is padding{cut}{left}"


def _range(found: Iterable[Sequence[int | float]]) -> str:
    """Formats the smallest and largest value along each axis, as in '128 x 96 to 160'."""
    axes = [(f"{min(axis):.4g}", f"{max(axis):.4g}") for axis in zip(*found, strict=False)]
    return " x ".join(low if low == high else f"{low} to {high}" for low, high in axes) or "none"


def _unready(report: CheckReport, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Why a folder without a fault of its own cannot be a site of a recipe, by its data alone."""
    image, roll = recipe.image, report.survey.roll
    wanted = image.modalities or report.modalities
    if report.faults or not report.modalities:
        return
    if image.source == "images" and (reason := none_shared(report.modalities, image)):
        yield reason
        return
    if not roll:
        yield none_left(image, [name for name in report.modalities if name in wanted])
        return
    yield from _unnamed(report, image)
    if image.source == "masks":
        roll = [replace(one, present=(True,)) for one in roll]
    kept, _ = held_out_by(recipe, roll)
    present = [one.present for one in kept]
    halves = halves_of([one.patient for one in kept], present=present)
    every = zip(*(one.present for one in roll), strict=True)
    cases = Cases(
        len({one.patient for one in kept}),
        untaught(report.survey.modalities, present, halves) if image.source == "images" else [],
        any(len(set(has)) > 1 for has in every),
    )
    yield from refusals(cases, recipe)


def _unnamed(report: CheckReport, image: ImageSection) -> Iterator[tuple[str, str]]:
    """More modalities or labels than a run paints, or others than the recipe names."""
    count = len(report.survey.modalities)
    if image.source == "images" and not image.modalities and count > UNNAMED_MODALITIES:
        yield (
            f"has {count} modalities, and a recipe that names none paints {UNNAMED_MODALITIES} at "
            "most",
            "Name what the run is to paint in image.modalities.",
        )
    highest = max(report.labels.values())
    if not image.labels and highest >= UNNAMED_LABELS:
        yield (
            f"has label {highest}, and a recipe that names no labels has none above "
            f"{UNNAMED_LABELS - 1}",
            "Name what the run is to paint in image.labels.",
        )
    strange = report.labels.items() - image.labels.items() if image.labels else ()
    if strange:
        yield (
            f"has {', '.join(f'label {n} {name!r}' for name, n in sorted(strange))}, which "
            "image.labels of the recipe does not name so",
            "Name them there, or remap the masks.",
        )
