"""Reads data sets in nnU-Net's raw convention (version 2).

    dataset.json                channel_names, labels, numTraining, file_ending
    imagesTr/CASE_0000.png      one file per modality; an RGB picture holds three in one file
    labelsTr/CASE.png           label map; may be absent

Volumes (NIfTI) are reoriented to the closest canonical orientation and cut into slices as a
radiologist views them: rows start at anterior (axial) or superior (sagittal, coronal), columns at
the patient's right (sagittal: at anterior). Every file is treated as hostile: sizes are bounded
before anything is decoded, and whatever a decoder raises becomes a `DataError`. A data set may hold
links, since sets are often linked to a store.
"""

import gzip
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Final, Literal, final

import nibabel as nib
import numpy as np
from PIL import Image as Picture
from pydantic import TypeAdapter, ValidationError

from asyndgan.data.case import MODALITIES_LIMIT, Intensities, RawCase
from asyndgan.errors import DataError
from asyndgan.received import opened
from asyndgan.recipe import shown
from asyndgan.texts import NAME_LENGTH, Name, bounded_text, parsed_json

DEFAULT_PATIENT_PATTERN = r"(.+?)(?:_[sz]\d+(?:_.*)?)?$"
"""The name up to `_s<number>` or `_z<number>` (how slices are named here), else the whole name."""

Axis = Literal["sagittal", "coronal", "axial"]
Part = Literal["Tr", "Ts"]

FILE_ENDINGS = (".png", ".nii.gz", ".nii")
NOT_ACQUIRED: Final = "synthetic: painted by asyndgan, not acquired"
"""Note in the header of a painted file; NIfTI allows 80 bytes."""

NAMED_FOLDERS = 5
"""Most folders that an error names where a folder of data sets was given in place of one."""

MAX_JSON_BYTES = 2**24
MAX_PNG_PIXELS = 2**26  # below PIL's own limit, which only warns
MAX_NIFTI_VOXELS = 2**29  # twice the largest CT volumes; reading takes 18 bytes per voxel
MAX_NIFTI_START = 2**24  # bytes of header and extensions before the voxels
MAX_NIFTI_EXTENSIONS = 64  # nibabel takes 20 us and an object for each
MAX_NIFTI_BYTES = MAX_NIFTI_START + 16 * MAX_NIFTI_VOXELS
MAX_PNG_EXTRA = 2**22  # bytes beyond 8 for each pixel: profiles, notes
MAX_PNG_CHUNKS = 2**16  # PIL takes 2 us and more for each; of pixels a chunk has 8 kB or more
MAX_LABEL = 255  # what an 8-bit mask can hold
AFFINE_TOLERANCE = 1e-3  # for spacings (relative) and directions: tools round header values
ORIGIN_TOLERANCE = 0.1  # voxels

AXES: dict[Axis, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
OWN_KEYS = ("channel_names", "labels", "numTraining", "file_ending", "name")
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class DataFileError(DataError):
    """A `DataError` about one file or folder.

    Attributes:
        file: the file or folder at fault.
        reason: what is wrong, without a full stop.
        remedy: what to do, as a full sentence.
    """

    def __init__(self, file: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{file}: {reason}. {remedy}")
        self.file = file
        self.reason = reason
        self.remedy = remedy


@final
@dataclass(frozen=True)
class DatasetInfo:
    """The content of dataset.json.

    Attributes:
        name: name of the data set; the folder's name if dataset.json gives none.
        modalities: names of the channels, in the order of the numbers in the file names.
        labels: name to number, 0 to 255. An "ignore" label gets no special treatment.
        file_ending: one of `FILE_ENDINGS`.
        extra: all other keys, such as "synthetic" or "provenance".
        training: numTraining; None if absent.
    """

    name: str
    modalities: tuple[str, ...]
    labels: dict[str, int]
    file_ending: str
    extra: dict[str, object] = field(default_factory=dict)
    training: int | None = None

    @property
    def synthetic(self) -> bool:
        """Whether dataset.json declares all images as painted by a generator."""
        return self.extra.get("synthetic") is True

    @cached_property  # asked for each file
    def synthetic_cases(self) -> frozenset[str]:
        """Names of the synthetic cases in a set of acquired ones (see `write_extended`)."""
        named = self.extra.get("synthetic_cases")
        return frozenset(map(str, named)) if isinstance(named, list) else frozenset()

    @cached_property
    def painted(self) -> frozenset[str]:
        """Names of the painted channels in a set of acquired ones (see `write_completed`)."""
        named = self.extra.get("synthetic_modalities")
        return frozenset(map(str, named)) if isinstance(named, list) else frozenset()

    @property
    def incomplete(self) -> bool:
        """Whether cases may lack modalities; otherwise a missing one is an error."""
        return self.extra.get("incomplete") is True


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


@final
@dataclass(frozen=True)
class Stored:
    """The array of one file.

    Attributes:
        values: (rows, columns) of a picture, or (right, anterior, superior) of a volume; float32
            intensities or int64 labels.
        affine: (4, 4), from voxel indices to millimetres; None for pictures.
    """

    values: np.ndarray = field(repr=False)
    affine: np.ndarray | None = field(default=None, repr=False)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres per pixel along each axis; 1.0 for pictures."""
        if self.affine is None:
            return (1.0, 1.0)
        # Taken from the affine, not the header's zooms: 2-D files have no third zoom.
        return tuple(float(mm) for mm in nib.affines.voxel_sizes(self.affine))


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


def describe(folder: Path) -> DatasetInfo:
    """Reads a data set's dataset.json.

    Raises:
        DataError: it is missing, is not JSON, or holds something this package does not support
            (regions as labels, file endings other than `FILE_ENDINGS`).
    """
    path = folder / "dataset.json"
    table = json_table(path)
    ending = table.get("file_ending")
    if ending is None:
        first = "; with 'modality' it is of nnU-Net's version 1" if "modality" in table else ""
        raise DataFileError(
            path,
            f"does not say what files end in{first}",
            'Write version 2: "file_ending" (such as ".nii.gz"), "channel_names" ({"0": "T1"}), '
            '"labels" (name to number) and "numTraining"; images are named CASE_0000.nii.gz.',
        )
    if ending not in FILE_ENDINGS:
        raise DataFileError(
            path,
            f"file_ending is {shown(ending)}",
            f"Store the images as {' or '.join(FILE_ENDINGS)}.",
        )
    training = table.get("numTraining")
    if training is not None and (not isinstance(training, int) or isinstance(training, bool)):
        raise DataFileError(path, f"numTraining is {shown(training)}", "Write the number of cases.")
    return DatasetInfo(
        name=str(table.get("name") or folder.resolve().name),
        modalities=checked_modalities(path, table.get("channel_names")),
        labels=checked_labels(path, table.get("labels")),
        file_ending=ending,
        extra={key: value for key, value in table.items() if key not in OWN_KEYS},
        training=training,
    )


def named_alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different names that only capitals, spaces, dots or dashes tell apart: T1 and t1.

    Names are matched to the letter, so whoever meant one thing by both gets two. Other signs count:
    T2 and T2* are two sequences.
    """
    first: dict[str, str] = {}
    pairs = []
    for name in dict.fromkeys(names):
        plain = re.sub(r"[\s_.-]", "", name).casefold()
        known = first.setdefault(plain, name) if plain else name
        if known != name:
            pairs.append((known, name))
    return pairs


def check_labels(folder: Path, labels: Mapping[str, str]) -> None:
    """Checks that a data set's labels agree with those of a run.

    Args:
        folder: holds dataset.json.
        labels: the run's labels: number, as text, to name.

    Raises:
        DataError: a number has a different name, or a name a different number.
    """
    numbers = {name: int(number) for number, name in labels.items()}
    for name, number in describe(folder).labels.items():
        if labels.get(str(number), name) != name or numbers.get(name, number) != number:
            known = ", ".join(f"{number} {name}" for number, name in labels.items())
            raise DataFileError(
                folder / "dataset.json",
                f"label {number} is '{name}' here; the run has {known}",
                "Give both the same numbers and names, and remap the masks.",
            )


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
    with _decoding(images, "a folder"):
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
    if info.file_ending != ".png":
        values, affine = _nifti(path)
        return {info.modalities[number]: Stored(values.astype(np.float32), affine)}
    pixels, mode = _png(path)
    if mode == "RGB" and number == 0 and len(info.modalities) == 3:
        planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0), dtype=np.float32)
        return {
            modality: Stored(plane) for modality, plane in zip(info.modalities, planes, strict=True)
        }
    if mode not in ("L", "I;16", "I"):
        raise DataFileError(
            path,
            f"is a picture of kind {mode}, where a grey one was expected",
            "Save it as 8-bit grey; or, if it is RGB, as the only file of the case, _0000.png, "
            "with three channel_names in dataset.json.",
        )
    return {info.modalities[number]: Stored(pixels.astype(np.float32))}


def read_mask(path: Path) -> Stored:
    """Reads one mask as int64.

    Raises:
        DataError: the file cannot be read, is too large, or does not hold whole numbers.
    """
    affine: np.ndarray | None = None
    if path.name.endswith(".png"):
        values, mode = _png(path)
        if mode not in ("L", "P", "1", "I;16", "I"):
            raise DataFileError(
                path,
                f"is a picture of kind {mode}, where a mask was expected",
                "Save it as 8-bit grey, each pixel the number of its label.",
            )
    else:
        values, affine = _nifti(path)
    if not np.issubdtype(values.dtype, np.floating):
        return Stored(values.astype(np.int64), affine)
    if not (np.isfinite(values).all() and (values == np.round(values)).all()):
        raise DataFileError(
            path,
            "is a mask with values that are not whole numbers",
            "Store labels without scaling or interpolation.",
        )
    return Stored(values.astype(np.int64), affine)


def read_cases(
    folder: Path, *, axis: Axis = "axial", patient_pattern: str = DEFAULT_PATIENT_PATTERN
) -> Iterator[RawCase]:
    """Reads a data set, one case at a time, sorted by name.

    A modality without a file is left out of `RawCase.channels` (`asyndgan.data.prepare` raises if
    it needs one). Volumes are yielded slice by slice under names like `CASE_z0012`; the number
    counts from the left, posterior or inferior end. A single-slice volume keeps its case's name.

    Args:
        folder: holds dataset.json.
        axis: the direction along which volumes are cut.
        patient_pattern: see `patient_of`.

    Raises:
        DataError: anything is missing, unreadable, too large or contradictory; the error names the
            file.
    """
    info = describe(folder)
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


def twice_there(path: Path, modality: str) -> DataFileError:
    """The fault of a case that has a modality in two files."""
    return DataFileError(
        path,
        f"modality '{modality}' is in another file of the case as well",
        "Keep either the RGB picture or the grey ones.",
    )


def json_table(path: Path) -> dict[str, object]:
    """Reads a dataset.json without checking its keys.

    Raises:
        DataFileError: the file is missing or does not hold a JSON object.
    """
    remedy = "Write it as nnU-Net wants it: channel_names, labels, numTraining, file_ending."
    if not path.parent.is_dir():
        what = "is no folder" if path.parent.exists() else "this folder does not exist"
        remedy = "Name the folder of a data set; dataset.json lies in it."
        raise DataFileError(path.parent, what, remedy)
    if not path.is_file():
        if inside := sorted(found.parent.name for found in path.parent.glob("*/dataset.json")):
            remedy = f"Name the folder of one data set: {', '.join(inside[:NAMED_FOLDERS])}."
        raise DataFileError(path, "this file does not exist", remedy)
    try:
        table = parsed_json(bounded_text(path, MAX_JSON_BYTES))
    except (OSError, ValueError) as error:
        raise DataFileError(path, f"cannot be read as JSON ({error})", remedy) from error
    if not isinstance(table, dict):
        raise DataFileError(path, "is not a JSON object", remedy)
    return table


def checked_modalities(path: Path, names: object) -> tuple[str, ...]:
    """Checks `channel_names` and returns the names in the order of their numbers.

    Raises:
        DataFileError: `names` is not valid; the error names `path`.
    """
    remedy = 'Number them from 0 and name each once: "channel_names": {"0": "T1", "1": "FLAIR"}.'
    if not isinstance(names, dict) or not names:
        raise DataFileError(path, "channel_names is missing", remedy)
    if len(names) > MODALITIES_LIMIT:
        raise DataFileError(
            path,
            f"channel_names holds {len(names)} names, and {MODALITIES_LIMIT} are the most",
            "Leave out channels that no model is trained on.",
        )
    numbers = [str(number) for number in range(len(names))]
    if sorted(names, key=str) != sorted(numbers):
        keys = ", ".join(key[:NAME_LENGTH] for key in sorted(names))
        raise DataFileError(path, f"channel_names has the keys {keys}", remedy)
    ordered = [names[number] for number in numbers]
    if not all(isinstance(name, str) and name for name in ordered):
        raise DataFileError(path, "channel_names holds something that is not a name", remedy)
    if len(set(ordered)) < len(ordered):
        raise DataFileError(path, "channel_names holds one name twice", remedy)
    _check_names(path, "modality", ordered)
    return tuple(ordered)


def checked_labels(path: Path, labels: object) -> dict[str, int]:
    """Checks `labels` and returns name to number.

    Raises:
        DataFileError: `labels` is not valid; the error names `path`.
    """
    remedy = 'Give each label one number: "labels": {"background": 0, "lesion": 1}.'
    if not isinstance(labels, dict) or not labels:
        raise DataFileError(path, "labels is missing", remedy)
    if len(labels) > MAX_LABEL + 1:
        raise DataFileError(
            path,
            f"labels holds {len(labels)} names, and {MAX_LABEL + 1} are the most",
            "Merge some of them, and remap the masks.",
        )
    _check_names(path, "label", labels)
    for name, number in labels.items():
        if isinstance(number, list):
            raise DataFileError(
                path,
                f"label '{name}' is a region, a list of labels",
                f"Regions overlap, and a mask has one label a pixel. {remedy}",
            )
        if not isinstance(number, int) or isinstance(number, bool):
            raise DataFileError(path, f"label '{name}' has the number {shown(number)}", remedy)
        if not 0 <= number <= MAX_LABEL:
            raise DataFileError(
                path,
                f"label '{name}' has the number {shown(number)}, outside 0 to {MAX_LABEL}",
                remedy,
            )
    if len(set(labels.values())) < len(labels):
        raise DataFileError(path, "two labels have the same number", remedy)
    return dict(labels)


def _check_names(path: Path, kind: str, names: Iterable[str]) -> None:
    for name in names:
        try:
            _NAME.validate_python(name)
        except ValidationError as error:
            raise DataFileError(
                path,
                f"the name of {kind} {name[:NAME_LENGTH]!r} is empty, too long or cannot be shown",
                f"Take 1 to {NAME_LENGTH} characters, none of them a control character.",
            ) from error


def check_acquired(path: Path, case: str, modality: str, info: DatasetInfo) -> None:
    """Checks that a file was not painted by a generator, unless its data set declares it.

    Raises:
        DataError: the file's header says that it was painted, and dataset.json does not.
    """
    if info.synthetic or case in info.synthetic_cases or modality in info.painted:
        return
    with _decoding(path, "an image"):
        if path.name.endswith(".png"):
            with _picture(path) as picture:
                painted = "synthetic" in picture.info
        else:
            with opened_nifti(path) as stored:
                header: Any = stored.header
            painted = bytes(header["descrip"]).startswith(NOT_ACQUIRED.encode())
    if painted:
        raise DataFileError(
            path,
            "was painted, not acquired, and dataset.json does not say so",
            "Remove it, or bring its data set as a whole.",
        )


@contextmanager
def _decoding(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever a decoder raises into a `DataFileError`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = str(error).replace(str(path), path.name).rstrip(".") or type(error).__name__
        remedy = "It may be truncated or damaged: copy it again from where it came."
        if isinstance(error, PermissionError):
            remedy = "Give yourself the right to read it."
        raise DataFileError(path, f"cannot be read as {kind} ({reason})", remedy) from error


def _png(path: Path) -> tuple[np.ndarray, str]:
    """Reads pixels (rows, columns) or (rows, columns, bands), and PIL's name for their mode."""
    with _decoding(path, "PNG"), _picture(path) as picture:
        return np.array(picture), picture.mode


@contextmanager
def _picture(path: Path) -> Iterator[Picture.Image]:
    """Opens a PNG of bounded size."""
    with opened(path, 8 * MAX_PNG_PIXELS + MAX_PNG_EXTRA) as file:
        # The size is at a fixed offset; PIL itself would only warn, and only at a larger size.
        head = file.read(24)
        if not head.startswith(b"\x89PNG\r\n\x1a\n") or len(head) < 24:
            raise ValueError("it does not start like one")
        columns, rows = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
        _bounded_png(path, columns, rows)
        if os.fstat(file.fileno()).st_size > 8 * columns * rows + MAX_PNG_EXTRA:
            raise ValueError("it is far longer than its pixels take")
        _check_chunks(file)
        file.seek(0)
        with Picture.open(file, formats=["PNG"]) as picture:
            _bounded_png(path, *picture.size)  # a hostile file may hold a second header
            yield picture


def _check_chunks(file: BufferedIOBase) -> None:
    """Counts a PNG's chunks: PIL takes its time for each, and a file may hold nothing but those."""
    place = 8
    for _ in range(MAX_PNG_CHUNKS):
        file.seek(place)
        if len(head := file.read(8)) < 8:
            return
        place += 12 + int.from_bytes(head[:4], "big")
    raise ValueError(f"it holds {MAX_PNG_CHUNKS} chunks or more")


def _bounded_png(path: Path, columns: int, rows: int) -> None:
    if not 0 < columns * rows <= MAX_PNG_PIXELS:
        raise DataFileError(
            path,
            f"claims {rows} x {columns} pixels, outside 1 to {MAX_PNG_PIXELS}",
            "Cut it into smaller pictures.",
        )


@contextmanager
def opened_nifti(path: Path) -> Iterator[Any]:
    """Opens a NIfTI of one file, of bounded size before its voxels; they are read while it is open.

    Yields:
        A nibabel image.

    Raises:
        OSError, ValueError: it is none; nibabel may raise others.
        DataFileError: it has too many or too long extensions.
    """
    with opened(path, MAX_NIFTI_BYTES) as stored, ExitStack() as unpacked:
        file: Any = stored
        if path.name.endswith(".gz"):
            file = unpacked.enter_context(gzip.GzipFile(fileobj=stored))
        kind = _bounded_nifti(path, file)
        file.seek(0)
        yield kind.from_file_map({"image": nib.FileHolder(path.name, file)})


def _bounded_nifti(path: Path, file: BufferedIOBase) -> Any:
    """Returns nibabel's class of a NIfTI, whose extensions it would read before anything else.

    Version and byte order must be the same wherever the header tells them, since nibabel may go by
    another place than this function.
    """
    head = file.read(544)
    for order in "<>":
        (size,) = struct.unpack_from(f"{order}i", head)
        kind: Any = nib.Nifti1Image
        if size == 348 and head[344:348] == b"n+1\0":
            (sides,), (start,) = (
                struct.unpack_from(f"{order}{code}", head, place)
                for code, place in (("h", 40), ("f", 108))
            )
        elif size == 540 and head[4:12] == b"n+2\0\r\n\x1a\n":
            kind = nib.Nifti2Image
            sides, start = (struct.unpack_from(f"{order}q", head, place)[0] for place in (16, 168))
        else:
            continue
        if not 1 <= sides <= 7:
            break
        extended = head[size : size + 1] not in (b"", b"\0")
        if 0 <= start <= MAX_NIFTI_START and not extended:
            return kind
        place, count = size + 4, 0
        while extended and place < start <= MAX_NIFTI_START and count < MAX_NIFTI_EXTENSIONS:
            file.seek(place)
            (length,) = struct.unpack(f"{order}i", file.read(4))
            if not 8 <= length <= start - place:
                break
            place, count = place + length, count + 1
        if extended and place >= start >= size + 4:
            return kind
        raise DataFileError(
            path,
            f"has extensions or a header of more than {MAX_NIFTI_START} bytes before its "
            f"voxels, more than {MAX_NIFTI_EXTENSIONS} extensions, or one of no sensible length",
            "Store it without extensions.",
        )
    raise ValueError("it does not start like one")


def _nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads voxels (right, anterior, superior), scaled as the header says, and their affine."""
    with _decoding(path, "NIfTI"), opened_nifti(path) as stored:
        if not np.isfinite(stored.affine).all():
            raise ValueError("its affine is not finite")
        shape = tuple(int(side) for side in stored.shape)
        if min(shape, default=0) < 1 or int(np.prod(shape, dtype=object)) > MAX_NIFTI_VOXELS:
            raise DataFileError(
                path,
                f"claims the shape {shape}, outside 1 to {MAX_NIFTI_VOXELS} voxels",
                "Cut it into smaller volumes.",
            )
        if len(shape) < 2 or any(side > 1 for side in shape[3:]):
            raise DataFileError(
                path,
                f"has the shape {shape}, where a volume was expected",
                "Store one file a modality and time point.",
            )
        if stored.get_data_dtype().kind not in "iuf":
            raise DataFileError(
                path,
                f"holds values of kind {stored.get_data_dtype()}",
                "Store one whole or floating-point number a voxel.",
            )
        values = np.asanyarray(stored.dataobj).reshape((*shape, 1)[:3])
        # Without its type named, nibabel refuses 64-bit integers.
        volume = nib.Nifti1Image(values, stored.affine, dtype=values.dtype)
        turned = nib.as_closest_canonical(volume)
        if not nib.affines.voxel_sizes(turned.affine).min() > 0:
            raise ValueError("its affine is singular")
        return np.array(turned.dataobj), turned.affine


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
            channels={m: _plane(values, axis, index) for m, values in images.items()},
            mask=None if labels is None else _plane(labels, axis, index),
            spacing=(rows, columns),
            volume=volume,
        )


def _plane(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """One slice as a radiologist views it: both in-plane axes reversed, then transposed."""
    return np.ascontiguousarray(np.flip(volume.take(index, axis)).T)


def read_masks(folder: Path, *, axis: Axis = "axial") -> Iterator[RawCase]:
    """Reads the masks of a data set; images are not needed.

    Args:
        folder: holds dataset.json and labelsTr.
        axis: the direction along which volumes are cut.

    Returns:
        Cases whose only channel, "mask", is the mask itself, and whose patient is the file's name;
        sorted by name, slice by slice.

    Raises:
        DataError: there is no mask, or one cannot be read or holds a label that is not named.
    """
    info = describe(folder)
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
