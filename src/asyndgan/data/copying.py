"""Copies of a site's data set with painted files beside the acquired ones."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from asyndgan.data.case import RawCase
from asyndgan.data.dataset import DataSet
from asyndgan.data.description import DatasetInfo
from asyndgan.data.listing import CaseFiles
from asyndgan.data.nnunet import AXES, Axis
from asyndgan.data.readers import DataFileError, reader_of
from asyndgan.data.writing import check_case, writing_to

PAINTED: Final = "synthetic "
"""Prefix to the name of a modality that was painted, not acquired."""


def write_completed(
    source: DataSet,
    folder: Path,
    planes: Mapping[str, Mapping[str, Sequence[np.ndarray]]],
    *,
    axis: Axis,
    made_from: Mapping[str, str],
    provenance: Mapping[str, object],
) -> int:
    """Copies a data set and adds painted channels, named as such.

    Acquired files are copied byte for byte. A painted channel is a modality of its own, such as
    `synthetic T1c`, so that nothing mistakes it for T1c. Each of its files is marked as synthetic
    in its header, `dataset.json` names these modalities, and `provenance.json` lists every file.

    Args:
        source: the data set.
        folder: must not exist.
        planes: case name to modality to its slices (rows, columns) on the stored grid, in the
            order in which `read_case` yields them.
        axis: axis along which volumes were cut.
        made_from: case name to a description of what its channels were painted from.
        provenance: provenance of the painted channels, serialisable as JSON.

    Returns:
        The number of files added.

    Raises:
        DataError: `folder` exists or cannot be written.
    """
    info = source.info
    names = dict.fromkeys(modality for of_case in planes.values() for modality in of_case)
    added = {modality: len(info.modalities) + place for place, modality in enumerate(names)}
    files = source.files
    written: dict[str, dict[str, object]] = {}
    with writing_to(folder):
        _copy_acquired(files, folder)
        for case in files:
            for modality, slices in planes.get(case.name, {}).items():
                like = next(iter(case.images.values()))
                name = f"imagesTr/{case.name}_{added[modality]:04d}{info.file_ending}"
                reader_of(like).write_painted(folder / name, slices, like=like, axis=AXES[axis])
                written[name] = {
                    "modality": modality,
                    "acquired": False,
                    "made_from": made_from.get(case.name, ""),
                }
        channels = {str(number): name for number, name in enumerate(info.modalities)}
        channels |= {str(number): PAINTED + name for name, number in added.items()}
        complete = all(set(planes.get(case.name, {})) == set(names) for case in files)
        about = {
            **source.table,
            "channel_names": channels,
            "synthetic_modalities": [PAINTED + name for name in added],
            **({} if complete and not info.incomplete else {"incomplete": True}),
        }
        _describe_copy(folder, about, {**provenance, "files": written})
    return len(written)


def write_extended(
    source: DataSet,
    folder: Path,
    cases: Iterable[tuple[RawCase, str]],
    *,
    axis: Axis,
    provenance: Mapping[str, object],
) -> int:
    """Copies a data set and adds synthetic cases, whose files are marked so in their headers.

    Args:
        source: the data set; its images and masks are copied byte for byte.
        folder: must not exist.
        cases: the cases to add, with all modalities of the set and a mask, each with the name of
            the acquired case, a single slice with all modalities, that it is stored like: in
            NIfTI its files take over the grids of that case's files.
        axis: axis along which the set is cut.
        provenance: provenance of the added cases, serialisable as JSON.

    Returns:
        The number of cases added; `dataset.json` names them under `synthetic_cases`.

    Raises:
        DataError: `folder` exists or cannot be written, or a case does not fit the set.
    """
    info = source.info
    files = {case.name: case for case in source.files}
    names = set(files)
    added: list[str] = []
    with writing_to(folder):
        _copy_acquired(list(files.values()), folder)
        for case, like in cases:
            check_case(folder, case, info.modalities, info.labels, names)
            names.add(case.name)
            added.append(case.name)
            for name, plane, acquired in _files_like(files[like], case, info):
                (folder / name).parent.mkdir(exist_ok=True)
                reader_of(acquired).write_painted(
                    folder / name, [plane], like=acquired, axis=AXES[axis]
                )
        about = {**source.table, "numTraining": len(names), "synthetic_cases": added}
        _describe_copy(folder, about, provenance)
    return len(added)


def _copy_acquired(files: Sequence[CaseFiles], folder: Path) -> None:
    """Copies images and masks byte for byte into a new folder."""
    if folder.exists():
        raise DataFileError(folder, "is there already", "Name a folder that does not exist.")
    paths = [
        path
        for case in files
        for path in (*case.images.values(), *([case.mask] if case.mask else []))
    ]
    for path in paths:
        copy = folder / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _describe_copy(
    folder: Path, about: Mapping[str, object], provenance: Mapping[str, object]
) -> None:
    for name, content in (("dataset.json", about), ("provenance.json", provenance)):
        text = json.dumps(dict(content), indent=2, ensure_ascii=False)
        (folder / name).write_text(text + "\n", "utf-8")


def _files_like(
    like: CaseFiles, case: RawCase, info: DatasetInfo
) -> Iterator[tuple[str, np.ndarray, Path]]:
    """Yields name and slice of each file of a synthetic case, and the acquired file it is like."""
    images = [case.channels[modality] for modality in info.modalities]
    if len(like.images) < len(images):  # an RGB picture
        images = [np.stack(images, axis=-1)]
    for (number, path), image in zip(sorted(like.images.items()), images, strict=True):
        yield f"imagesTr/{case.name}_{number:04d}{info.file_ending}", image, path
    if case.mask is not None:
        mask = case.mask.astype(np.uint8)
        yield f"labelsTr/{case.name}{info.file_ending}", mask, like.mask or like.images[0]
