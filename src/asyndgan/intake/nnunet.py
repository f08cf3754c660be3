"""Reads data sets in nnU-Net's raw convention (version 2).

    dataset.json                channel_names, labels, numTraining, file_ending
    imagesTr/CASE_0000.png      one file per modality; an RGB picture holds three in one file
    labelsTr/CASE.png           label map; may be absent

Volumes are cut into slices as a radiologist views them: rows start at anterior (axial) or superior
(sagittal, coronal), columns at the patient's right (sagittal: at anterior). Every file is treated
as hostile (see `asyndgan.intake.reading`). A data set may hold links, since sets are often
linked to a store.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from asyndgan.intake import reading
from asyndgan.intake.description import describe
from asyndgan.intake.grids import on_grid_of
from asyndgan.intake.labelling import check_mask, read_mask
from asyndgan.intake.listing import CaseFiles, list_masks
from asyndgan.intake.readers import DataFileError, Stored, reader_of
from asyndgan.intake.readers.reader import plane_of, viewed
from asyndgan.store.case import Intensities, RawCase, Source
from asyndgan.store.geometry import AXES, Axis
from asyndgan.store.info import DatasetInfo


def read_image(path: Path, number: int, info: DatasetInfo) -> dict[str, Stored]:
    """Reads one image file, of the modality with a `number` as in its name.

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
            "Add it to channel_names there, if every case has one, or remove the file.",
        )
    most = len(info.modalities) if number == 0 else 1
    found = reading.image(path, most=most)
    _check_called(path, [each.called for each in found], info.modalities[number:], info)
    named = zip(info.modalities[number:], found, strict=False)
    return {name: replace(each, values=each.values.astype(np.float32)) for name, each in named}


def _check_called(
    path: Path, called: Sequence[str], names: Sequence[str], info: DatasetInfo
) -> None:
    """Refuses channels of a file that bear the name of another modality than their number has."""
    wanted = {name.casefold(): name for name in info.modalities}
    told = called if len({*called}) == len(called) else ()  # else of the file as a whole
    for own, name in zip(told, names, strict=False):
        if wanted.get(own.casefold(), name) != name:
            raise DataFileError(
                path,
                f"calls its channels {', '.join(called)}, and dataset.json {', '.join(names)}",
                f'Write in dataset.json "channel_names": {json.dumps(dict(enumerate(called)))}.'
                if len(called) == len(info.modalities)
                else "Give each file the number of its own modality.",
            )


def _raise(fault: DataFileError) -> None:
    raise fault


def read_arrays(
    files: CaseFiles,
    info: DatasetInfo,
    tell: Callable[[DataFileError], None] = _raise,
) -> tuple[Source | None, dict[str, np.ndarray], np.ndarray | None]:
    """Reads one case: its grid, modality to float32 array, and its mask as int64 (None: none).

    `tell` is given each fault of a file; what it does not raise is left out, or taken as it is.
    Raises `DataError`, which names the file, if one is missing, unreadable, too large or
    contradictory, unless `tell` raises nothing.
    """
    channels: dict[str, Stored] = {}
    for number, path in sorted(files.images.items()):
        try:
            planes = read_image(path, number, info)
            check_acquired(path, files.name, planes, info)
            _check_coloured(path, files, planes, info)
        except DataFileError as error:
            tell(error)
            continue
        for modality, stored in planes.items():
            if modality in channels:
                reason = f"modality '{modality}' is in another file of the case as well"
                tell(DataFileError(path, reason, "Keep either the RGB picture or the grey ones."))
            else:
                channels[modality] = _on_grid(path, stored, channels, tell)
    mask = None
    if files.mask:
        try:
            mask = _on_grid(files.mask, read_mask(files.mask), channels, tell)
            check_mask(files.mask, mask.values, info.labels)
        except DataFileError as error:
            tell(error)
    values = {modality: stored.values for modality, stored in channels.items()}
    source = source_of(files.name, channels) if channels else None
    return source, values, mask.values if mask else None


def _check_coloured(
    path: Path, files: CaseFiles, planes: Mapping[str, Stored], info: DatasetInfo
) -> None:
    """Refuses a case whose only picture is grey where one in colour is wanted."""
    alone = set(files.images) == {0} and len(planes) == 1
    if alone and len(info.modalities) == 3 and reader_of(path).colour and not info.incomplete:
        raise DataFileError(
            path,
            f"is grey, where one RGB picture holds {', '.join(info.modalities)}",
            "Save it as RGB like the others, add _0001 and _0002 as grey pictures, or leave the "
            "case out and lower numTraining.",
        )


def _on_grid(
    path: Path, stored: Stored, others: Mapping[str, Stored], tell: Callable[[DataFileError], None]
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
    folder: Path, *, axis: Axis = "axial", info: DatasetInfo | None = None, whole: bool = False
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
        shown, values = {"mask": mask.values}, mask.values
        yield from slices_of(source, name, shown, values, AXES[axis], whole=whole)


def check_acquired(path: Path, case: str, planes: Mapping[str, Stored], info: DatasetInfo) -> None:
    """Checks that a file was not painted by a generator, unless its data set declares it.

    Raises `DataError` if the file's header says that it was painted, and dataset.json does not.
    """
    declared = info.synthetic or case in info.synthetic_cases or {*planes} <= {*info.painted}
    if not declared and any(stored.painted for stored in planes.values()):
        raise DataFileError(
            path,
            "was painted, not acquired, and dataset.json does not say so",
            "Remove its case and lower numTraining, or bring its data set as a whole.",
        )


def slices_of(
    source: Source,
    patient: str,
    images: Mapping[str, np.ndarray],
    labels: np.ndarray | None,
    axis: int,
    *,
    whole: bool = False,
) -> Iterator[RawCase]:
    """A picture, or the slices of a volume along an axis (0 to 2), one by one or as a `whole`.

    Slices are named like `CASE_z0012`, counted from the left, posterior or inferior end; the only
    slice of a volume has its case's name.
    """
    name = source.name
    if len(source.shape) == 2:
        rows, columns = source.spacing
        yield RawCase(name, patient, dict(images), labels, (rows, columns), source=source)
        return
    columns, rows = (mm for i, mm in enumerate(source.spacing) if i != axis)
    if whole:
        channels = {modality: viewed(values, axis) for modality, values in images.items()}
        mask = None if labels is None else viewed(labels, axis)
        apart = (source.spacing[axis], rows, columns)
        yield RawCase(name, patient, channels, mask, apart, source=source)
        return
    volume = {modality: Intensities(values) for modality, values in images.items()}
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
