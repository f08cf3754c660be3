"""Checks a data set before training and reports every fault, not only the first.

All files are read; none is changed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import final

import numpy as np

from asyndgan.data.case import MODALITIES_LIMIT
from asyndgan.data.description import DatasetInfo, describe, named_alike
from asyndgan.data.grids import on_grid_of
from asyndgan.data.labelling import check_mask, read_mask
from asyndgan.data.listing import CaseFiles, Part, image_name_pattern, listed
from asyndgan.data.near import is_litter
from asyndgan.data.nnunet import (
    DEFAULT_PATIENT_PATTERN,
    check_acquired,
    check_coloured,
    patient_of,
    read_image,
    twice_there,
)
from asyndgan.data.readers import READERS, DataFileError, Stored

SPACING_APART = 0.05
"""Relative difference of spacings above which a report says something."""

SHOWN_NAMELESS = 8
"""Most unnamed labels in the table; a picture mistaken for a mask may hold hundreds."""


@final
@dataclass(frozen=True)
class Fault:
    """One problem in a data set that has to be corrected.

    Attributes:
        file: the file or folder at fault.
        reason: what is wrong, without a full stop.
        remedy: what to do, as a full sentence.
    """

    file: Path
    reason: str
    remedy: str


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
        labels: name to number; empty if dataset.json is unusable.
        modalities: names; empty if dataset.json is unusable.
        notes: what is no fault, and which a recipe has to deal with.
    """

    folder: Path
    rows: tuple[tuple[str, str], ...]
    faults: tuple[Fault, ...]
    patients: dict[str, Path] = field(default_factory=dict, repr=False)
    labels: dict[str, int] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Tally:
    """Counts and faults collected while the files are read."""

    faults: list[Fault] = field(default_factory=list)
    sizes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    spacings: Counter[tuple[float, ...]] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    cases_with: Counter[int] = field(default_factory=Counter)
    lacking: Counter[str] = field(default_factory=Counter)
    masks: int = 0
    extremes: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def fault(self, file: Path, reason: str, remedy: str) -> None:
        """Records a fault; checking continues."""
        self.faults.append(Fault(file, reason, remedy))

    def error(self, error: DataFileError) -> None:
        """Records an error raised by a reader; checking continues."""
        self.fault(error.file, error.reason, error.remedy)


def check_folder(
    folder: Path, *, test: Path | None = None, patient_pattern: str = DEFAULT_PATIENT_PATTERN
) -> CheckReport:
    """Reads a whole data set and collects its faults.

    Args:
        folder: holds dataset.json, imagesTr and labelsTr.
        test: another data set that must share no patient with this one. Only its dataset.json
            and file names are read, so it needs a check of its own. imagesTs in `folder`, where
            present, is always compared with imagesTr.
        patient_pattern: see `asyndgan.data.nnunet.patient_of`.

    Raises:
        DataError: `patient_pattern` is not a regular expression. Faults of the data are returned,
            not raised.
    """
    tally = _Tally()
    info, described, cases = _check_files(folder, tally)
    patients = {patient_of(files.name, patient_pattern): files for files in reversed(cases)}
    own = {patient: next(iter(files.images.values())) for patient, files in patients.items()}
    for other, part in _test_images(folder, test):
        _compare_with_test(folder, own, other, part, patient_pattern, tally)
    return CheckReport(
        folder=folder,
        rows=tuple(_rows(info, described, cases, len(own), tally)),
        faults=tuple(tally.faults),
        patients=own,
        labels=info.labels if described else {},
        modalities=info.modalities if described else (),
        notes=(*tally.notes, *_notes(info, tally)),
    )


def compare_folders(reports: Sequence[CheckReport]) -> tuple[Fault, ...]:
    """Finds contradictions between data sets that are to be trained on together.

    These are one label number with two names, one label name with two numbers, names of modalities
    that only capitals, spaces, dots or dashes tell apart, and a patient who is at two sites.
    """
    faults: list[Fault] = []
    for place, report in enumerate(reports):
        for other in reports[:place]:
            faults += _contradictions(report, other)
            faults += [
                Fault(
                    report.patients[patient],
                    f"is of a patient who is at {other.folder} as well",
                    "Keep each patient at one site; if two people share the name, rename one.",
                )
                for patient in sorted(report.patients.keys() & other.patients.keys())
            ]
    return tuple(faults)


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


def _check_files(folder: Path, tally: _Tally) -> tuple[DatasetInfo, bool, list[CaseFiles]]:
    """Reads dataset.json, imagesTr and labelsTr; the bool tells whether dataset.json is usable."""
    info, described = _described(folder, tally)
    if not described and not (folder / "imagesTr").is_dir():
        return info, described, []  # it is no data set, and that is all there is to say
    try:
        found = listed(folder, info)
    except DataFileError as error:
        # All else would follow from this, and its remedies would do harm.
        if described or any(_files(folder / "imagesTr", info.file_ending)):
            tally.error(error)
        return info, described, []
    for files in found.cases:
        _check_case(folder, files, info, described, tally)
    for fault in found.faults:
        tally.error(fault)
    if (folder / "labelsTr").is_dir():
        for fault in found.unmasked:
            tally.error(fault)
    elif not found.faults:
        tally.notes.append(
            "holds no masks: 'train', 'evaluate' and 'audit' need them in labelsTr; 'complete' "
            "does not"
        )
    return info, described, found.cases


def _described(folder: Path, tally: _Tally) -> tuple[DatasetInfo, bool]:
    """Reads dataset.json, or guesses its content from the file names so that checking can go on.

    The bool tells whether dataset.json is usable.
    """
    try:
        return describe(folder), True
    except DataFileError as error:
        tally.error(error)
    names = [path.name for path in _files(folder / "imagesTr", "")]
    found = [ending for ending in READERS if any(name.endswith(ending) for name in names)]
    ending = found[0] if found else next(iter(READERS))
    matches = [image_name_pattern(ending).fullmatch(name) for name in names]
    count = 1 + max((int(match[2]) for match in matches if match), default=0)
    modalities = tuple(f"number {number}" for number in range(min(count, MODALITIES_LIMIT)))
    return DatasetInfo(folder.name, modalities, {}, ending), False


def _check_case(
    folder: Path, files: CaseFiles, info: DatasetInfo, described: bool, tally: _Tally
) -> None:
    images: dict[str, Stored] = {}
    for number, path in sorted(files.images.items()):
        try:
            planes = read_image(path, number, info)
            if described and number == 0:
                check_coloured(files, planes, info)
            if described:
                check_acquired(path, files.name, next(iter(planes)), info)
        except DataFileError as error:
            tally.error(error)
            continue
        for modality, stored in planes.items():
            if modality in images:
                tally.error(twice_there(path, modality))
                continue
            images[modality] = _on_grid(path, stored, images, tally)
            _check_image(path, modality, stored, tally)
    # A single unreadable file where three modalities are wanted may be an RGB picture that holds
    # them all, as a grey one may have to be, so none is reported missing.
    unknown = not images and len(info.modalities) == 3 and set(files.images) == {0}
    for number, modality in enumerate(() if unknown else info.modalities):
        if number not in files.images and modality not in images:
            tally.lacking[modality] += 1
            if info.incomplete:
                continue
            tally.fault(
                folder / "imagesTr" / f"{files.name}_{number:04d}{info.file_ending}",
                f"modality '{modality}' is missing for this case",
                "Add the file, remove the case, or take the modality out of dataset.json; if "
                'cases may lack it, write "incomplete": true there.',
            )
    if images:
        first = next(iter(images.values()))
        tally.sizes[first.values.shape] += 1
        tally.spacings[first.spacing] += 1
    if files.mask:
        _check_mask(files.mask, images, info.labels if described else None, tally)


def _check_image(path: Path, modality: str, stored: Stored, tally: _Tally) -> None:
    low, high = float(stored.values.min()), float(stored.values.max())
    if not np.isfinite((low, high)).all():
        finite = stored.values[np.isfinite(stored.values)]
        tally.fault(
            path,
            f"modality '{modality}' has {stored.values.size - finite.size} intensities that are "
            "infinite or not numbers",
            "Replace them, for example by the background's intensity.",
        )
        if not finite.size:
            return
        low, high = float(finite.min()), float(finite.max())
    elif low == high:
        tally.fault(
            path,
            f"modality '{modality}' is empty: every pixel is {low:g}",
            "Export it again, or remove the case.",
        )
    lowest, highest = tally.extremes.get(modality, (low, high))
    tally.extremes[modality] = min(low, lowest), max(high, highest)


def _check_mask(
    path: Path, images: dict[str, Stored], labels: dict[str, int] | None, tally: _Tally
) -> None:
    try:
        mask = read_mask(path)
    except DataFileError as error:
        tally.error(error)
        return
    mask = _on_grid(path, mask, images, tally)
    found, counts = np.unique(mask.values, return_counts=True)
    tally.masks += 1
    tally.pixels.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    tally.cases_with.update(found.tolist())
    if labels is None:
        return
    try:
        check_mask(path, mask.values, labels)
    except DataFileError as error:
        tally.error(error)


def _on_grid(path: Path, stored: Stored, others: dict[str, Stored], tally: _Tally) -> Stored:
    """The array in the orientation of the case; as it is, with a fault, where grids differ."""
    try:
        return on_grid_of(path, stored, others)
    except DataFileError as error:
        tally.error(error)
        return stored


def _test_images(folder: Path, test: Path | None) -> Iterator[tuple[Path, Part]]:
    if (folder / "imagesTs").is_dir():
        yield folder, "Ts"
    if test:
        yield test, "Tr"
        if (test / "imagesTs").is_dir():
            yield test, "Ts"


def _compare_with_test(
    folder: Path, own: dict[str, Path], test: Path, part: Part, pattern: str, tally: _Tally
) -> None:
    try:
        info = describe(test)
        others = listed(test, info, part).cases
    except DataFileError as error:
        # Any other error is a fault of the test set, which has its own report.
        if error.file == test / "imagesTs" and test != folder:
            tally.error(error)
        return
    images = {patient_of(files.name, pattern): files.images for files in reversed(others)}
    for patient in sorted(own.keys() & images.keys()):
        tally.fault(
            next(iter(images[patient].values())),
            f"is of the test set, but its patient is in {own[patient].parent} as well",
            "Keep each patient in one of them, or results will look better than they are.",
        )


def _rows(
    info: DatasetInfo, described: bool, cases: Sequence[CaseFiles], patients: int, tally: _Tally
) -> Iterator[tuple[str, str]]:
    yield "cases", f"{len(cases)} ({tally.masks} with a mask)"
    if info.synthetic_cases:
        yield "synthetic cases", f"{len(info.synthetic_cases)} of them; counted among all others"
    yield "patients", str(patients)
    yield "modalities", ", ".join(info.modalities) if described else "not known"
    for modality, count in tally.lacking.items() if info.incomplete else ():
        yield f"lack {modality}", f"{count} cases; they are judged by what they have"
    yield "size", _range(tally.sizes)
    if READERS[info.file_ending].spaced:
        yield "spacing (mm)", _range(tally.spacings)
    names = {number: name for name, number in info.labels.items()}
    total = tally.pixels.total()
    nameless = sorted(tally.pixels.keys() - names.keys())[:SHOWN_NAMELESS]
    for number in sorted([*names, *nameless]):
        share = 100 * tally.pixels[number] / total if total else 0
        heading = f"label {number} {names.get(number, '(no name)')}"
        yield heading, f"{share:.2f} % of the pixels, in {tally.cases_with[number]} cases"
    for modality in info.modalities:
        if modality in tally.extremes:
            low, high = tally.extremes[modality]
            yield f"intensity {modality}", f"{low:g} to {high:g}"


def _notes(info: DatasetInfo, tally: _Tally) -> Iterator[str]:
    if info.synthetic or info.synthetic_cases:
        yield "holds synthetic cases, so it is refused as a site's data and as test data"
    ranges = [(min(axis), max(axis)) for axis in zip(*tally.spacings, strict=False)]
    if any(high > (1 + SPACING_APART) * low for low, high in ranges):
        yield (
            "cases differ in spacing, so anatomy comes in different scales: train with one for "
            f"all, as --set 'image.spacing=[{ranges[0][0]:.4g}, {ranges[1][0]:.4g}]' (millimetres)"
        )
    for modality in info.modalities:
        low, high = tally.extremes.get(modality, (0.0, 255.0))
        if low < 0 or high > 255:
            yield (
                f"{modality} is stored from {low:g} to {high:g}, and recipes take 0 to 255 unless "
                "told otherwise, as --set image.intensity.default.kind=percentiles "
                "--set image.intensity.default.low=0.5 --set image.intensity.default.high=99.5"
            )


def _range(found: Iterable[Sequence[int | float]]) -> str:
    """Formats the smallest and largest value along each axis, as in '128 x 96 to 160'."""
    axes = [(f"{min(axis):.4g}", f"{max(axis):.4g}") for axis in zip(*found, strict=False)]
    return " x ".join(low if low == high else f"{low} to {high}" for low, high in axes) or "none"


def _files(folder: Path, ending: str) -> list[Path]:
    """Lists a folder's entries of this ending, without litter; none if the folder is missing."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if path.name.endswith(ending) and not is_litter(path.name)]
