"""Reads data sets in nnU-Net's raw convention (version 2).

    dataset.json                channel_names, labels, numTraining, file_ending
    imagesTr/CASE_0000.png      one file per modality; an RGB picture holds three in one file
    labelsTr/CASE.png           label map; may be absent

Volumes are cut into slices as a radiologist views them: rows start at anterior (axial) or superior
(sagittal, coronal), columns at the patient's right (sagittal: at anterior). Every file is treated
as hostile (see `asyndgan.intake.readers.Reader`). A data set may hold links, since sets are often
linked to a store.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from asyndgan.intake.description import describe
from asyndgan.intake.grids import on_grid_of
from asyndgan.intake.labelling import check_mask, read_mask
from asyndgan.intake.listing import CaseFiles, list_masks
from asyndgan.intake.near import composed
from asyndgan.intake.patterns import found_in
from asyndgan.intake.readers import DataFileError, Stored, reader_of
from asyndgan.intake.readers.reader import plane_of
from asyndgan.store.case import Intensities, RawCase, Source
from asyndgan.store.geometry import AXES, Axis
from asyndgan.store.info import DatasetInfo

DEFAULT_PATIENT_PATTERN = r"(.+?)(?:_[sz]\d+(?:_.*)?)?$"
"""The name up to `_s<number>` or `_z<number>` (how slices are named here), else the whole name."""


def patient_of(case_name: str, pattern: str = DEFAULT_PATIENT_PATTERN) -> str:
    """Derives the patient from a case name.

    Args:
        case_name: as in the file names.
        pattern: regular expression, matched from the start of the name. The patient is its first
            group, the whole match if it has no group, or the whole name if it does not match.

    Raises:
        DataError: `pattern` is not a regular expression, or takes too long.
    """
    return patients_of([case_name], pattern)[case_name]


def same_person(patient: str) -> str:
    """What all spellings of a patient's name have in common: capitals tell nobody apart."""
    return composed(patient).casefold()


def patients_of(
    case_names: Iterable[str], pattern: str = DEFAULT_PATIENT_PATTERN
) -> dict[str, str]:
    """The patient of each case of a data set, by the case's name, as `patient_of` derives it.

    Raises:
        DataError: `pattern` is not a regular expression, or takes too long.
    """
    names = tuple(case_names)
    if pattern == DEFAULT_PATIENT_PATTERN:
        return patients_by(pattern, names)
    return _spelled(dict(zip(names, found_in(pattern, names), strict=True)))


def patients_by(pattern: str, case_names: Iterable[str]) -> dict[str, str]:
    """As `patients_of`, in this process: for patterns of our own, which take no time."""
    found = {name: re.match(pattern, name) for name in case_names}
    return _spelled({name: match and match[1] for name, match in found.items()})


def _spelled(groups: Mapping[str, str | None]) -> dict[str, str]:
    """Case to patient, each of whom is spelled in one way; what no pattern found is the case."""
    found = {name: group or name for name, group in groups.items()}
    # One of the set's own spellings, and not a folded one: a hash of the name chooses who is held
    # out, so that folding would choose others in every run recorded from a set with one spelling.
    spelled: dict[str, str] = {}
    for patient in sorted(set(found.values())):
        spelled.setdefault(same_person(patient), patient)
    return {name: spelled[same_person(patient)] for name, patient in found.items()}


def read_image(path: Path, number: int, info: DatasetInfo) -> dict[str, Stored]:
    """Reads one image file.

    Args:
        path: the file.
        number: the modality's index, as in the file name.
        info: the data set's description.

    Returns:
        Modality name to its float32 array: one entry, or three for an RGB picture, or one for each
        modality of a volume of four axes.

    Raises:
        DataError: the file cannot be read, is too large, or does not fit `channel_names`.
    """
    if number >= len(info.modalities):
        raise DataFileError(
            path,
            f"dataset.json has no modality number {number}",
            "Add it to channel_names there, or remove the file.",
        )
    most = len(info.modalities) if number == 0 else 1
    found = reader_of(path).image(path, most=most)
    named = zip(info.modalities[number:], found, strict=False)
    return {name: replace(each, values=each.values.astype(np.float32)) for name, each in named}


def read_case(
    files: CaseFiles, info: DatasetInfo, *, axis: Axis = "axial", patient: str = ""
) -> Iterator[RawCase]:
    """Reads one case, slice by slice if it is a volume.

    A modality without a file is left out of `RawCase.channels`. Slices are named like `CASE_z0012`;
    the number counts from the left, posterior or inferior end. A single-slice volume keeps its
    case's name.

    Args:
        files: the case's files.
        info: the data set's description.
        axis: the direction along which volumes are cut.
        patient: whose case it is; see `patients_of`.

    Raises:
        DataError: a file is missing, unreadable, too large or contradictory; the error names it.
    """
    source, channels, mask = read_arrays(files, info)
    assert source
    yield from slices_of(source, patient, channels, mask, AXES[axis])


def _raise(fault: DataFileError) -> None:
    raise fault


def read_arrays(
    files: CaseFiles,
    info: DatasetInfo,
    tell: Callable[[DataFileError], None] = _raise,
    *,
    described: bool = True,
) -> tuple[Source | None, dict[str, np.ndarray], np.ndarray | None]:
    """Reads the files of one case.

    Args:
        files: the case's files.
        info: the data set's description.
        tell: is given each fault of a file; what it does not raise is left out, or taken as it is.
        described: whether dataset.json could be read; otherwise `info` is guessed.

    Returns:
        The case's grid, modality to float32 array, and the mask as int64; None where there is none.

    Raises:
        DataError: as `read_case`, unless `tell` raises nothing.
    """
    channels: dict[str, Stored] = {}
    for number, path in sorted(files.images.items()):
        try:
            planes = read_image(path, number, info)
            if described:
                check_coloured(files, planes, info)
                for modality in planes:
                    check_acquired(path, files.name, modality, info)
        except DataFileError as error:
            tell(error)
            continue
        for modality, stored in planes.items():
            if modality in channels:
                tell(twice_there(path, modality))
            else:
                channels[modality] = _on_grid(path, stored, channels, tell)
    mask = None
    if files.mask:
        try:
            mask = _on_grid(files.mask, read_mask(files.mask), channels, tell)
            if described:
                check_mask(files.mask, mask.values, info.labels)
        except DataFileError as error:
            tell(error)
    values = {modality: stored.values for modality, stored in channels.items()}
    source = source_of(files.name, channels) if channels else None
    return source, values, mask.values if mask else None


def _on_grid(
    path: Path,
    stored: Stored,
    others: Mapping[str, Stored],
    tell: Callable[[DataFileError], None],
) -> Stored:
    """The array in the orientation of the case; as it is, with a fault, where grids differ."""
    try:
        return on_grid_of(path, stored, others)
    except DataFileError as error:
        tell(error)
        return stored


def source_of(name: str, channels: Mapping[str, Stored]) -> Source:
    """The grid of a case, whose first file defines it."""
    first = next(iter(channels.values()))
    return Source(name, first.values.shape, first.spacing, first.orientation)


def read_masks(
    folder: Path, *, axis: Axis = "axial", info: DatasetInfo | None = None
) -> Iterator[RawCase]:
    """Reads the masks of a data set; images are not needed.

    Returns:
        Cases whose only channel, "mask", is the mask itself, and whose patient is the file's name;
        sorted by name, slice by slice.

    Raises:
        DataError: there is no mask, or one cannot be read or holds a label that is not named.
    """
    info = info or describe(folder)
    for name, path in list_masks(folder, info).items():
        mask = read_mask(path)
        check_mask(path, mask.values, info.labels)
        source = source_of(name, {"mask": mask})
        yield from slices_of(source, name, {"mask": mask.values}, mask.values, AXES[axis])


def check_coloured(files: CaseFiles, planes: Mapping[str, Stored], info: DatasetInfo) -> None:
    """Checks that the only picture of a case is not grey where one in colour is wanted.

    Raises:
        DataError: it is, and dataset.json does not say that cases may lack modalities.
    """
    path = next(iter(files.images.values()))
    alone = set(files.images) == {0} and len(planes) == 1
    if alone and len(info.modalities) == 3 and reader_of(path).colour and not info.incomplete:
        raise DataFileError(
            path,
            f"is grey, where one RGB picture holds {', '.join(info.modalities)}",
            "Save it as RGB like the others, add _0001 and _0002 as grey pictures, or leave the "
            "case out.",
        )


def twice_there(path: Path, modality: str) -> DataFileError:
    """The fault of a case that has a modality in two files."""
    return DataFileError(
        path,
        f"modality '{modality}' is in another file of the case as well",
        "Keep either the RGB picture or the grey ones.",
    )


def check_acquired(path: Path, case: str, modality: str, info: DatasetInfo) -> None:
    """Checks that a file was not painted by a generator, unless its data set declares it.

    Raises:
        DataError: the file's header says that it was painted, and dataset.json does not.
    """
    if info.synthetic or case in info.synthetic_cases or modality in info.painted:
        return
    if reader_of(path).painted(path):
        raise DataFileError(
            path,
            "was painted, not acquired, and dataset.json does not say so",
            "Remove it, or bring its data set as a whole.",
        )


def slices_of(
    source: Source,
    patient: str,
    images: Mapping[str, np.ndarray],
    labels: np.ndarray | None,
    axis: int,
) -> Iterator[RawCase]:
    """A picture, or the slices of a volume along an axis (0 to 2)."""
    name = source.name
    if len(source.shape) == 2:
        rows, columns = source.spacing
        yield RawCase(name, patient, dict(images), labels, (rows, columns), source=source)
        return
    volume = {modality: Intensities(values) for modality, values in images.items()}
    columns, rows = (mm for i, mm in enumerate(source.spacing) if i != axis)
    count = source.shape[axis]
    for index in range(count):
        yield RawCase(
            name=f"{name}_z{index:04d}" if count > 1 else name,
            patient=patient,
            channels={m: plane_of(values, axis, index) for m, values in images.items()},
            mask=None if labels is None else plane_of(labels, axis, index),
            spacing=(rows, columns),
            volume=volume,
            source=source,
        )
