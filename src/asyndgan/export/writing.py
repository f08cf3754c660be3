"""Writes data sets in nnU-Net's raw convention; every synthetic image is marked as such."""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from asyndgan.errors import is_full
from asyndgan.intake.description import checked_labels, checked_modalities
from asyndgan.intake.labelling import check_mask
from asyndgan.intake.readers import AXIAL, NOT_ACQUIRED, READERS, DataFileError, Geometry
from asyndgan.locks import written_alone
from asyndgan.received import UnreadableError, opened
from asyndgan.store.case import RawCase

MOST_COPIED: Final = 2**36
"""Largest file that is copied, in bytes."""

_RGB = (("r", "g", "b"), ("red", "green", "blue"))


def write_dataset(
    folder: Path,
    cases: Iterable[RawCase],
    *,
    modalities: Sequence[str],
    labels: Mapping[str, int],
    file_ending: str = ".png",
    name: str,
    extra: Mapping[str, object] | None = None,
    geometry: Callable[[RawCase], Geometry] = lambda _: AXIAL,
) -> int:
    """Writes a data set into a new folder, case by case; equal cases give equal bytes.

    PNG stores intensities rounded and clipped to 0..255 (PNG uint16, and a synthetic set's
    grey pictures where they exceed 255, to 0..65535) and no spacing; modalities named R, G, B go
    into one RGB picture, also of TIFF. The other formats store whole numbers in their type, other
    images in float32, masks in uint8, and the spacing, a slice or (NIfTI, NRRD, MHA) volume a file.
    `extra` are further keys of dataset.json, and `geometry` says how a case lies in files of
    volumes.

    Returns:
        The number of cases.

    Raises:
        DataError: the folder cannot be written, there is no case, or a case's name or labels do
            not fit.
    """
    path, written = folder / "dataset.json", 0
    channel_names = {str(number): modality for number, modality in enumerate(modalities)}
    checked_modalities(path, channel_names)
    head = {
        "name": name,
        "channel_names": channel_names,
        "labels": checked_labels(path, dict(labels)),
        "file_ending": file_ending,
        **(extra or {}),
    }
    note = NOT_ACQUIRED if head.get("synthetic") else ""
    for case in cases:
        if not re.fullmatch(r"\w[\w.+-]*", case.name):
            raise DataFileError(
                folder,
                f"case '{case.name}' cannot be a file name",
                "Use letters, digits, '_', '-', '+' and '.' only.",
            )
        if case.mask is not None:
            check_mask(folder / "labelsTr" / case.name, case.mask, labels)
        with writing_to(folder):
            _write_case(folder, case, modalities, file_ending, note, geometry(case))
        written += 1
    if not written:
        raise DataFileError(folder, "there is no case to write", "Ask for at least one.")
    text = json.dumps({**head, "numTraining": written}, indent=2, ensure_ascii=False)
    with writing_to(folder):
        path.write_text(text + "\n", encoding="utf-8")
    return written


def in_colour(modalities: Sequence[str]) -> bool:
    """Whether these modalities are the colours of a picture, which is stored in 8 bits each."""
    return tuple(map(str.lower, modalities)) in _RGB


def check_new(folder: Path) -> None:
    """Raises `DataError` if a folder is a file, or holds something."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataFileError(folder, "is there already", "Name a folder that does not exist.")


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to `folder` on success and removed on failure.

    Raises:
        DataError: `folder` exists and is not an empty folder, or cannot be written (raised on entry
            as far as can be known).
        BusyError: another process writes it.
    """
    folder = folder.resolve()
    check_new(folder)
    half = folder.with_name(f".{folder.name}.half")
    with ExitStack() as ends:
        with writing_to(folder):
            ends.enter_context(written_alone(folder))
        shutil.rmtree(half, ignore_errors=True)
        try:
            yield half
            with writing_to(folder):
                half.replace(folder)
        except BaseException as error:
            shutil.rmtree(half, ignore_errors=True)  # it may hold patients' images
            if isinstance(error, DataFileError) and error.file.is_relative_to(half):
                file = folder / error.file.relative_to(half)
                raise DataFileError(file, error.reason, error.remedy) from error
            if isinstance(error, OSError) and is_full(error):
                with writing_to(folder):
                    raise
            raise


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turns what the system says of a folder that cannot be written into a `DataError`."""
    try:
        yield
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        what = "no space left on its disk" if is_full(error) else what
        raise DataFileError(folder, what, "Free space, or name another folder.") from error


def _write_case(
    folder: Path,
    case: RawCase,
    modalities: Sequence[str],
    file_ending: str,
    note: str,
    geometry: Geometry,
) -> None:
    (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
    reader = READERS[file_ending]
    planes = [case.channels[modality] for modality in modalities]
    if planes[0].ndim == 3 and not reader.volumes:
        raise DataFileError(folder, f"would hold volumes as {file_ending}", "Write .nii.gz.")
    if reader.colour and in_colour(modalities):
        planes = [np.stack(planes, axis=-1)]
    for number, plane in enumerate(planes):
        path = folder / "imagesTr" / f"{case.name}_{number:04d}{file_ending}"
        reader.write(path, plane, spacing=case.spacing, note=note, geometry=geometry)
    if case.mask is not None:
        (folder / "labelsTr").mkdir(exist_ok=True)
        path = folder / "labelsTr" / f"{case.name}{file_ending}"
        mask = case.mask.astype(np.uint8)
        reader.write(path, mask, spacing=case.spacing, note=note, geometry=geometry)


def copy_folder(source: Path, folder: Path, ignore: Callable[..., set[str]] | None = None) -> None:
    """Copies a folder to a new one by `copy_file`, without what `ignore` names."""
    shutil.copytree(
        source, folder, ignore=ignore, copy_function=lambda *each: copy_file(*map(Path, each))
    )


def copy_file(path: Path, copy: Path) -> None:
    """Copies a regular file of at most `MOST_COPIED` to a path that does not exist."""
    try:
        with (
            writing_to(copy),
            opened(path, MOST_COPIED, links=True) as file,
            copy.open("xb") as into,
        ):
            shutil.copyfileobj(file, into)
    except UnreadableError as error:
        raise DataFileError(path, f"{error}", "Put a file of the data there.") from error
