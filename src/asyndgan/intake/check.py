"""Checks a data set before training and reports every fault, not only the first.

All files are read; none is changed.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

import numpy as np

from asyndgan.errors import DataError
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.description import BACKGROUND, describe, json_table
from asyndgan.intake.findings import NAMED, OF_DATA, Finding, findings
from asyndgan.intake.listing import CaseFiles, Part, image_name_pattern, listed, part_of
from asyndgan.intake.near import is_litter
from asyndgan.intake.nnunet import (
    AXES,
    DEFAULT_PATIENT_PATTERN,
    patients_of,
    read_arrays,
    same_person,
    slices_of,
)
from asyndgan.intake.patients import joined, joined_in, shared_patients, unfitting
from asyndgan.intake.readers import READERS, DataFileError, lossless
from asyndgan.intake.tally import Fault, Tally, rows
from asyndgan.intake.units import units_of
from asyndgan.recipe import ImageSection, Recipe
from asyndgan.store.case import MODALITIES_LIMIT, Source
from asyndgan.store.enrolment import (
    UNNAMED_LABELS,
    UNNAMED_MODALITIES,
    Cases,
    none_shared,
    refusals,
    untaught,
)
from asyndgan.store.geometry import is_shrunk, resampled, slice_of
from asyndgan.store.info import DatasetInfo
from asyndgan.store.plan import grid_for, planned, shared_modalities
from asyndgan.store.splits import halves_of, held_out_by
from asyndgan.store.survey import Survey


@final
@dataclass(frozen=True)
class CheckReport:
    """The result of checking one folder.

    Attributes:
        folder: the folder, as passed by the caller.
        rows: heading and text of each table row: cases, patients, modalities, sizes, spacing,
            labels, intensities.
        faults: in the order of the files.
        patients: patient to one of the patient's image files.
        files: case to its first image file.
        labels: name to number; empty if dataset.json is unusable.
        modalities: names; empty if dataset.json is unusable.
        notes: what is no fault, and which a recipe has to deal with.
        survey: what the recipe makes of the cases in which no fault was found.
        findings: what the survey shows, of which faults and notes are told as well.
    """

    folder: Path
    rows: tuple[tuple[str, str], ...]
    faults: tuple[Fault, ...]
    patients: dict[str, Path] = field(default_factory=dict, repr=False)
    files: dict[str, Path] = field(default_factory=dict, repr=False)
    labels: dict[str, int] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    survey: Survey = field(default_factory=lambda: Survey(ImageSection()), repr=False)
    findings: tuple[Finding, ...] = ()


def check_folder(
    folder: Path,
    *,
    test: Path | None = None,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    image: ImageSection | None = None,
    recipe: Recipe | None = None,
    planned: bool = False,
    slices: str | None = None,
) -> CheckReport:
    """Reads a whole data set and collects its faults.

    Args:
        folder: holds dataset.json, imagesTr and labelsTr.
        test: another data set that must share no patient with this one. Only its dataset.json
            and file names are read, so it needs a check of its own. imagesTs in `folder`, where
            present, is always compared with imagesTr.
        patient_pattern: see `asyndgan.intake.nnunet.patient_of`.
        image: how a recipe prepares images; None: which recipe will come is not known, so nothing
            is said of what fits.
        recipe: the whole recipe, with this `image`, of which the folder is to be a site.
        planned: whether a plan chose the intensities of `image`.
        slices: its text in `slices_in` of all folders that are checked by one patient pattern;
            None: there is no other.

    Raises:
        DataError: `patient_pattern` is not a regular expression. Faults of the data are returned,
            not raised.
    """
    tally = Tally(Survey(image or ImageSection()), patient_pattern, fits=image is not None)
    tally.survey.planned = planned
    info, described, cases = _check_files(folder, tally)
    files = {case.name: next(iter(case.images.values())) for case in cases}
    own = {tally.patients[name]: file for name, file in reversed(files.items())}
    for other, part in _test_images(folder, test):
        _compare_with_test(folder, own, other, part, patient_pattern, tally)
    tally.survey.masked = bool(tally.masks)
    tally.survey.labels |= set(tally.pixels) - {0}  # also of cases in which a fault was found
    found = findings(tally.survey, None if image else OF_DATA)
    for finding in (one for one in found if one.fault):
        for file in [files[name] for name in finding.volumes] or [folder]:
            tally.fault(file, finding.reason, finding.remedy)
    report = CheckReport(
        folder=folder,
        rows=tuple(rows(info, described, cases, len(own), tally)),
        faults=tuple(tally.faults),
        patients=own,
        files=files,
        labels=info.labels if described else {},
        modalities=info.modalities if described else (),
        notes=(*tally.notes, *_notes(info, cases, found, patient_pattern, slices)),
        survey=tally.survey,
        findings=tuple(found),
    )
    unfit = [Fault(folder, *why) for why in _unready(report, recipe)] if recipe else []
    return replace(report, faults=(*report.faults, *unfit))


def _check_files(folder: Path, tally: Tally) -> tuple[DatasetInfo, bool, list[CaseFiles]]:
    """Reads dataset.json, imagesTr and labelsTr; the bool tells whether dataset.json is usable."""
    info, described = _described(folder, tally)
    tally.survey.units = units_of(info.extra)
    part = part_of(folder)
    if not described and not (folder / f"images{part}").is_dir():
        return info, described, []  # it is no data set, and that is all there is to say
    try:
        found = listed(folder, info)
    except DataFileError as error:
        # All else would follow from this, and its remedies would do harm.
        if described or any(_files(folder / f"images{part}", info.file_ending)):
            tally.error(error)
        return info, described, []
    tally.patients = patients_of((files.name for files in found.cases), tally.pattern)
    data = DataSet(folder)
    stored = False
    with suppress(DataError):  # a file is at fault: then each is read, and its faults told
        stored = described and bool(data.stored)
    for files in found.cases:
        _check_case(folder, files, info, described, tally, data if stored else None)
    for fault in found.faults:
        tally.error(fault)
    if (folder / f"labels{part}").is_dir():
        for fault in found.unmasked:
            tally.error(fault)
    elif not found.faults:
        tally.notes.append(
            "holds no masks: 'train', 'evaluate' and 'audit' need them in "
            f"labels{part}; 'complete' does not"
        )
    return info, described, found.cases


def _described(folder: Path, tally: Tally) -> tuple[DatasetInfo, bool]:
    """Reads dataset.json, or guesses its content from the file names so that checking can go on.

    The bool tells whether dataset.json is usable.
    """
    try:
        return describe(folder), True
    except DataFileError as error:
        tally.error(error)
    with suppress(DataFileError):  # where the labels alone are at fault, all else is known
        table = json_table(folder / "dataset.json")
        return replace(describe(folder, {**table, "labels": {"background": 0}}), labels={}), False
    names = [path.name for path in _files(folder / f"images{part_of(folder)}", "")]
    found = [ending for ending in READERS if any(name.endswith(ending) for name in names)]
    ending = found[0] if found else next(iter(READERS))
    matches = [image_name_pattern(ending).fullmatch(name) for name in names]
    count = 1 + max((int(match[2]) for match in matches if match), default=0)
    modalities = tuple(f"number {number}" for number in range(min(count, MODALITIES_LIMIT)))
    return DatasetInfo(folder.name, modalities, {}, ending, lossless(ending)), False


def _check_case(
    folder: Path,
    files: CaseFiles,
    info: DatasetInfo,
    described: bool,
    tally: Tally,
    data: DataSet | None,
) -> None:
    before = len(tally.faults)
    if data:
        source, images, mask = data.arrays(files)
    else:
        source, images, mask = read_arrays(files, info, tally.error, described=described)
    whole = next(iter(files.images.values()))
    for number, modality in enumerate(info.modalities):
        if modality in images:
            _check_image(files.images.get(number, whole), modality, images[modality], tally)
    # A single unreadable file where three modalities are wanted may be an RGB picture that holds
    # them all, as a grey one may have to be, so none is reported missing.
    unknown = not images and len(info.modalities) >= 3 and set(files.images) == {0}
    for number, modality in enumerate(() if unknown else info.modalities):
        if number not in files.images and modality not in images:
            tally.lacking[modality] += 1
            if info.incomplete:
                continue
            tally.fault(
                folder
                / f"images{part_of(folder)}"
                / f"{files.name}_{number:04d}{info.file_ending}",
                f"modality '{modality}' is missing for this case",
                "Add the file, remove the case, or take the modality out of dataset.json; if "
                'cases may lack it, write "incomplete": true there.',
            )
    if source:
        tally.sizes[source.shape] += 1
        tally.spacings[source.spacing] += 1
    if mask is not None:
        found, counts = np.unique(mask, return_counts=True)
        tally.masks += 1
        tally.pixels.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        tally.cases_with.update(found.tolist())
    # A synthetic set is on its recipe's grid already, and no site's data.
    if source and described and not info.synthetic and len(tally.faults) == before:
        _survey(source, files, images, mask, info, tally)


def _survey(
    source: Source,
    files: CaseFiles,
    images: dict[str, np.ndarray],
    mask: np.ndarray | None,
    info: DatasetInfo,
    tally: Tally,
) -> None:
    """Prepares a case as training does; what cannot be prepared is a fault."""
    survey = tally.survey
    image = grid_for(info, survey.image)
    wanted = shared_modalities(info, image)
    if not any(name in images for name in wanted):
        return
    patient = tally.patients[files.name]
    shape, spacing = slice_of(source, image)
    if is_shrunk(shape, resampled(shape, spacing, image)):
        survey.shrunk[files.name] = source
        return
    try:
        for raw in slices_of(source, patient, images, mask, AXES[image.axis]):
            survey.add(raw.patient, wanted, planned(raw, image, wanted, incomplete=True))
    except DataError as error:
        reason, _, remedy = str(error).partition(". ")
        if tally.fits:
            tally.fault(next(iter(files.images.values())), reason, remedy)


def _check_image(path: Path, modality: str, values: np.ndarray, tally: Tally) -> None:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():
        finite = values[np.isfinite(values)]
        tally.fault(
            path,
            f"modality '{modality}' has {values.size - finite.size} intensities that are "
            "infinite or not numbers",
            "Replace them, for example by the background's intensity.",
        )
        if not finite.size:
            return
        low, high = float(finite.min()), float(finite.max())
    lowest, highest = tally.extremes.get(modality, (low, high))
    tally.extremes[modality] = min(low, lowest), max(high, highest)


def _test_images(folder: Path, test: Path | None) -> Iterator[tuple[Path, Part]]:
    if (folder / "imagesTs").is_dir() and part_of(folder) == "Tr":
        yield folder, "Ts"
    if test:
        yield test, part_of(test)
        if (test / "imagesTs").is_dir() and part_of(test) == "Tr":
            yield test, "Ts"


def _compare_with_test(
    folder: Path, own: dict[str, Path], test: Path, part: Part, pattern: str, tally: Tally
) -> None:
    try:
        info = describe(test)
        others = listed(test, info, part).cases
    except DataFileError as error:
        # Any other error is a fault of the test set, which has its own report.
        if error.file == test / "imagesTs" and test != folder:
            tally.error(error)
        return
    patients = patients_of((files.name for files in others), pattern)
    images = {patients[files.name]: files.images for files in reversed(others)}
    known = {same_person(patient): file for patient, file in own.items()}
    for patient in shared_patients(images, own):
        here = known[same_person(patient)].parent
        tally.fault(
            next(iter(images[patient].values())),
            f"is of the test set, but its patient is in {here} as well",
            "Keep each patient in one of them, or results will look better than they are.",
        )


def slices_in(folders: Sequence[Path], pattern: str) -> list[str]:
    """What is to be said of each folder whose cases may be slices of fewer patients; see `joined`.

    Nothing is said of a folder that cannot be listed: it has faults.
    """
    found: list[tuple[list[str], bool]] = [([], False)] * len(folders)
    for place, folder in enumerate(folders):
        with suppress(DataFileError):
            info = describe(folder)
            names = [] if info.synthetic else [one.name for one in listed(folder, info).cases]
            found[place] = names, READERS[info.file_ending].volumes
    return [str(one or "") for one in joined_in(found, pattern)]


def _notes(
    info: DatasetInfo,
    cases: Sequence[CaseFiles],
    found: Iterable[Finding],
    pattern: str,
    slices: str | None,
) -> Iterator[str]:
    if info.synthetic or info.synthetic_cases:
        yield "holds synthetic cases, so it is refused as a site's data and as test data"
    names = [files.name for files in cases]
    empty = [name for name, number in info.labels.items() if number == 0]
    if empty and empty[0].casefold() != BACKGROUND:
        yield (
            f"label 0 is '{empty[0]}': 0 counts as background, whatever its name. If it is tissue, "
            "give it another number"
        )
    if unfit := unfitting(names, pattern):
        yield unfit
    if slices is None and not info.synthetic:
        found_here = joined(names, pattern, volumes=READERS[info.file_ending].volumes)
        slices = str(found_here or "")
    if slices:
        yield slices
    for finding in (one for one in found if not one.fault):
        few = finding.volumes if len(finding.volumes) <= NAMED else ()
        named = f" ({', '.join(few)})" if few else ""
        yield f"{finding.reason}{named}. {finding.remedy}".rstrip(".")


def _files(folder: Path, ending: str) -> list[Path]:
    """Lists a folder's entries of this ending, without litter; none if the folder is missing."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if path.name.endswith(ending) and not is_litter(path.name)]


def _unready(report: CheckReport, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Why a folder without a fault of its own cannot be a site of a recipe, by its data alone."""
    image, roll = recipe.image, report.survey.roll
    if report.faults or not report.modalities:
        return
    if image.source == "images" and (reason := none_shared(report.modalities, image)):
        yield reason
    if not roll:
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
    if image.source == "masks" and len(report.labels) > MODALITIES_LIMIT:
        yield (
            f"has {len(report.labels)} labels; a generator of masks paints {MODALITIES_LIMIT}",
            "Merge some of them.",
        )
    elif image.source == "images" and not image.modalities:
        count = len(report.survey.modalities)
        if count > UNNAMED_MODALITIES:
            yield (
                f"has {count} modalities, and a recipe that names none paints "
                f"{UNNAMED_MODALITIES} at most",
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
