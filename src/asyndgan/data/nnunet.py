"""Reads data sets in nnU-Net's raw convention (version 2).

    dataset.json                channel_names, labels, numTraining, file_ending
    imagesTr/CASE_0000.png      one file per modality; an RGB picture holds three in one file
    labelsTr/CASE.png           label map; may be absent

Volumes are cut into slices as a radiologist views them: rows start at anterior (axial) or superior
(sagittal, coronal), columns at the patient's right (sagittal: at anterior). Every file is treated
as hostile (see `asyndgan.data.readers.Reader`). A data set may hold links, since sets are often
linked to a store.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np

from asyndgan.data.case import Intensities, RawCase
from asyndgan.data.description import DatasetInfo, describe
from asyndgan.data.readers import DataFileError, Stored, reader_of
from asyndgan.data.readers.reader import decoding, plane_of
from asyndgan.errors import DataError
from asyndgan.recipe import shown

DEFAULT_PATIENT_PATTERN = r"(.+?)(?:_[sz]\d+(?:_.*)?)?$"
"""The name up to `_s<number>` or `_z<number>` (how slices are named here), else the whole name."""

Axis = Literal["sagittal", "coronal", "axial"]
Part = Literal["Tr", "Ts"]

AFFINE_TOLERANCE = 1e-3  # for spacings (relative) and directions: tools round header values
ORIGIN_TOLERANCE = 0.1  # voxels

AXES: dict[Axis, int] = {"sagittal": 0, "coronal": 1, "axial": 2}


@final
@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        name: case name, without modality number and file ending.
        images: number in the file name (the modality's index) to file.
        mask: mask file, or None.
    """

    name: str
    images: dict[int, Path]
    mask: Path | None


def patient_of(case_name: str, pattern: str = DEFAULT_PATIENT_PATTERN) -> str:
    """Derives the patient from a case name.

    Args:
        case_name: as in the file names.
        pattern: regular expression, matched from the start of the name. The patient is its first
            group, the whole match if it has no group, or the whole name if it does not match.

    Raises:
        DataError: `pattern` is not a regular expression.
    """
    try:
        match = re.match(pattern, case_name)
    except re.error as error:
        raise DataError(
            f"the patient pattern '{pattern}' is not a regular expression ({error}). "
            r"Write for example '(.+)_s\d+$'."
        ) from error
    found = match and (match[1] if match.re.groups else match[0])
    return found or case_name


def list_cases(folder: Path, info: DatasetInfo, part: Part = "Tr") -> list[CaseFiles]:
    """Lists the cases of `folder`/imagesTr (or imagesTs), sorted by name; opens no file.

    Raises:
        DataError: there is no such folder, or no file in it is named like an image.
    """
    images = folder / f"images{part}"
    if not images.is_dir():
        raise DataFileError(
            images,
            "this folder does not exist",
            f"Put the images there, one file a modality: CASE_0000{info.file_ending}.",
        )
    wanted = image_name_pattern(info.file_ending)
    cases: dict[str, dict[int, Path]] = {}
    with decoding(images, "a folder"):
        for path in sorted(images.iterdir()):
            match = wanted.fullmatch(path.name)
            if match and path.is_file():
                cases.setdefault(match[1], {})[int(match[2])] = path
    if not cases:
        found = next((f" ('{path.name}' is not)" for path in sorted(images.iterdir())), "")
        raise DataFileError(
            images,
            f"no file here is named like CASE_0000{info.file_ending}{found}",
            "Rename the images, or correct file_ending in dataset.json.",
        )
    masks = folder / f"labels{part}"
    named = {name: masks / f"{name}{info.file_ending}" for name in cases}
    return [
        CaseFiles(name, cases[name], named[name] if named[name].is_file() else None)
        for name in sorted(cases)
    ]


def image_name_pattern(file_ending: str) -> re.Pattern[str]:
    """Returns a pattern for names of image files; its groups are the case and modality number.

    Hidden files do not match: macOS leaves a `._CASE_0000.png` beside each file on foreign disks.
    """
    return re.compile(r"(?!\.)(.+)_(\d{4})" + re.escape(file_ending))


def read_image(path: Path, number: int, info: DatasetInfo) -> dict[str, Stored]:
    """Reads one image file.

    Args:
        path: the file.
        number: the modality's index, as in the file name.
        info: the data set's description.

    Returns:
        Modality name to its float32 array: one entry, or three for an RGB picture.

    Raises:
        DataError: the file cannot be read, is too large, or does not fit `channel_names`.
    """
    if number >= len(info.modalities):
        raise DataFileError(
            path,
            f"dataset.json has no modality number {number}",
            "Add it to channel_names there, or remove the file.",
        )
    most = 3 if number == 0 and len(info.modalities) == 3 else 1
    found = reader_of(path).image(path, most=most)
    named = zip(info.modalities[number:], found, strict=False)
    return {name: Stored(each.values.astype(np.float32), each.affine) for name, each in named}


def read_mask(path: Path) -> Stored:
    """Reads one mask as int64.

    Raises:
        DataError: the file cannot be read, is too large, or does not hold whole numbers.
    """
    stored = reader_of(path).mask(path)
    values = stored.values
    if np.issubdtype(values.dtype, np.floating) and not (
        np.isfinite(values).all() and (values == np.round(values)).all()
    ):
        raise DataFileError(
            path,
            "is a mask with values that are not whole numbers",
            "Store labels without scaling or interpolation.",
        )
    return Stored(values.astype(np.int64), stored.affine)


def read_cases(
    folder: Path,
    *,
    axis: Axis = "axial",
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    info: DatasetInfo | None = None,
) -> Iterator[RawCase]:
    """Reads a data set, one case at a time, sorted by name.

    A modality without a file is left out of `RawCase.channels` (`asyndgan.data.prepare` raises if
    it needs one). Volumes are yielded slice by slice under names like `CASE_z0012`; the number
    counts from the left, posterior or inferior end. A single-slice volume keeps its case's name.

    Args:
        folder: holds dataset.json.
        axis: the direction along which volumes are cut.
        patient_pattern: see `patient_of`.
        info: the data set's description, if it was read before.

    Raises:
        DataError: anything is missing, unreadable, too large or contradictory; the error names the
            file.
    """
    info = info or describe(folder)
    for files in list_cases(folder, info):
        yield from read_case(files, info, axis=axis, patient_pattern=patient_pattern)


def read_case(
    files: CaseFiles,
    info: DatasetInfo,
    *,
    axis: Axis = "axial",
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
) -> Iterator[RawCase]:
    """Reads one case, slice by slice if it is a volume; see `read_cases`.

    Args:
        files: the case's files.
        info: the data set's description.
        axis: as in `read_cases`.
        patient_pattern: as in `read_cases`.

    Raises:
        DataError: as `read_cases`.
    """
    channels: dict[str, Stored] = {}
    for number, path in sorted(files.images.items()):
        for modality, stored in read_image(path, number, info).items():
            if modality in channels:
                raise twice_there(path, modality)
            same_grid(path, stored, channels)
            channels[modality] = stored
            check_acquired(path, files.name, modality, info)
    mask = None
    if files.mask:
        mask = read_mask(files.mask)
        same_grid(files.mask, mask, channels)
        check_mask(files.mask, mask.values, info.labels)
    patient = patient_of(files.name, patient_pattern)
    yield from _slices(files.name, patient, channels, mask, AXES[axis])


def read_masks(
    folder: Path, *, axis: Axis = "axial", info: DatasetInfo | None = None
) -> Iterator[RawCase]:
    """Reads the masks of a data set; images are not needed.

    Args:
        folder: holds dataset.json and labelsTr.
        axis: the direction along which volumes are cut.
        info: the data set's description, if it was read before.

    Returns:
        Cases whose only channel, "mask", is the mask itself, and whose patient is the file's name;
        sorted by name, slice by slice.

    Raises:
        DataError: there is no mask, or one cannot be read or holds a label that is not named.
    """
    info = info or describe(folder)
    paths = sorted((folder / "labelsTr").glob(f"[!.]*{info.file_ending}"))
    if not paths:
        raise DataFileError(
            folder / "labelsTr", "holds no mask", f"Put masks there, as CASE{info.file_ending}."
        )
    for path in paths:
        mask = read_mask(path)
        check_mask(path, mask.values, info.labels)
        name = path.name.removesuffix(info.file_ending)
        yield from _slices(name, name, {"mask": mask}, mask, AXES[axis])


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


def same_grid(path: Path, stored: Stored, others: Mapping[str, Stored]) -> None:
    """Checks that a file lies on the grid of its case: same shape, same voxel positions.

    Args:
        path: the file.
        stored: its array.
        others: modality to array, for the files of the case read so far; the first defines the
            grid.

    Raises:
        DataError: the grids differ.
    """
    if not others:
        return
    modality, first = next(iter(others.items()))
    difference = _difference(stored, first, f"modality '{modality}' of the case")
    if difference:
        raise DataFileError(
            path, difference, "Resample them to one grid; image, mask and modalities must agree."
        )


def _difference(stored: Stored, first: Stored, named: str) -> str:
    """Describes how the grid of `stored` differs from that of `first`, called `named`, or ""."""
    if stored.values.shape != first.values.shape:
        shape, wanted_shape = shown_shape(stored.values.shape), shown_shape(first.values.shape)
        return f"is {shape}, but {named} is {wanted_shape}"
    if stored.affine is None or first.affine is None:
        return ""
    spacing, wanted = stored.spacing, first.spacing
    if not np.allclose(spacing, wanted, rtol=AFFINE_TOLERANCE, atol=0):
        mm, wanted_mm = (shown_shape(f"{side:g}" for side in each) for each in (spacing, wanted))
        return f"has voxels of {mm} mm, but {named} has {wanted_mm} mm"
    directions = first.affine[:3, :3] / wanted  # a column of length 1 for each axis
    if not np.allclose(stored.affine[:3, :3] / spacing, directions, rtol=0, atol=AFFINE_TOLERANCE):
        return f"is turned against {named}"
    voxels = float(np.abs((stored.affine - first.affine)[:3, 3] @ directions / wanted).max())
    return f"lies {voxels:.3g} voxels off {named}" if voxels > ORIGIN_TOLERANCE else ""


def shown_shape(shape: Iterable[object]) -> str:
    """Formats a shape for display: (128, 96) becomes '128 x 96'."""
    return " x ".join(map(str, shape))


def check_mask(path: Path, mask: np.ndarray, labels: Mapping[str, int]) -> None:
    """Checks that a mask holds no labels other than those given.

    Raises:
        DataFileError: it holds others; the error names `path` and those labels.
    """
    unknown = sorted(set(np.unique(mask).tolist()) - set(labels.values()))
    if unknown:
        raise DataFileError(
            path,
            f"has the labels {shown(unknown)}, which dataset.json does not name",
            "Name them under labels there, or remap the mask.",
        )


def _slices(
    name: str, patient: str, channels: Mapping[str, Stored], mask: Stored | None, axis: int
) -> Iterator[RawCase]:
    first = next(iter(channels.values()))
    images = {modality: stored.values for modality, stored in channels.items()}
    labels = mask.values if mask else None
    if first.values.ndim == 2:
        rows, columns = first.spacing
        yield RawCase(name, patient, images, labels, (rows, columns))
        return
    volume = {modality: Intensities(values) for modality, values in images.items()}
    columns, rows = (mm for i, mm in enumerate(first.spacing) if i != axis)
    count = first.values.shape[axis]
    for index in range(count):
        yield RawCase(
            name=f"{name}_z{index:04d}" if count > 1 else name,
            patient=patient,
            channels={m: plane_of(values, axis, index) for m, values in images.items()},
            mask=None if labels is None else plane_of(labels, axis, index),
            spacing=(rows, columns),
            volume=volume,
        )
