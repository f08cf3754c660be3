"""Copies of a site's data set with painted files beside the acquired ones."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from asyndgan.export.writing import check_case, copy_file, writing_to
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.listing import CaseFiles
from asyndgan.intake.readers import DataFileError, lossless, reader_of
from asyndgan.intake.variants import FILES, in_version_2
from asyndgan.store.case import RawCase
from asyndgan.store.geometry import AXES, Axis
from asyndgan.store.info import DatasetInfo

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

    Acquired files are copied byte for byte; JPEG, to which nothing could be added, becomes PNG with
    the same pixels. A painted channel is a modality of its own, such as
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
        _copy_acquired(files, folder, info)
        for case in files:
            for modality, slices in planes.get(case.name, {}).items():
                like = next(iter(case.images.values()))
                name = f"imagesTr/{case.name}_{added[modality]:04d}{lossless(info.file_ending)}"
                path = folder / name
                reader_of(path).write_painted(path, slices, like=like, axis=AXES[axis])
                written[name] = {
                    "modality": modality,
                    "acquired": False,
                    "made_from": made_from.get(case.name, ""),
                }
        channels = {str(number): name for number, name in enumerate(info.modalities)}
        channels |= {str(number): PAINTED + name for name, number in added.items()}
        complete = all(set(planes.get(case.name, {})) == set(names) for case in files)
        about = {
            **_described(source),
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
        _copy_acquired(list(files.values()), folder, info)
        for case, like in cases:
            check_case(folder, case, info.modalities, info.labels, names)
            names.add(case.name)
            added.append(case.name)
            for name, plane, acquired in _files_like(files[like], case, info):
                (folder / name).parent.mkdir(exist_ok=True)
                path = folder / name
                reader_of(path).write_painted(path, [plane], like=acquired, axis=AXES[axis])
        about = {**_described(source), "numTraining": len(names), "synthetic_cases": added}
        _describe_copy(folder, about, provenance)
    return len(added)


def _copy_acquired(files: Sequence[CaseFiles], folder: Path, info: DatasetInfo) -> None:
    """Copies images and masks into a new folder, under the names by which they are found there."""
    if folder.exists():
        raise DataFileError(folder, "is there already", "Name a folder that does not exist.")
    copies = {
        f"imagesTr/{case.name}_{number:04d}{lossless(info.file_ending)}": path
        for case in files
        for number, path in case.images.items()
    }
    copies |= {f"labelsTr/{case.name}{info.mask_ending}": case.mask for case in files if case.mask}
    for name, path in copies.items():
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if reader_of(path).lossy:
            planes = [stored.values for stored in reader_of(path).image(path, most=3)]
            pixels = planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)
            reader_of(copy).write(copy, pixels, spacing=(1.0, 1.0), note="")
        else:
            copy_file(path, copy)


def _described(source: DataSet) -> dict[str, object]:
    """The dataset.json of a copy, whose files are found by their names."""
    table = in_version_2(source.folder / "dataset.json", source.table)
    table.pop(FILES, None)
    ends = {"file_ending": lossless(source.info.file_ending)}
    if source.info.mask_ending != ends["file_ending"]:
        ends["mask_ending"] = source.info.mask_ending
    return {**table, **ends}


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
    ending, first = lossless(info.file_ending), next(iter(like.images.values()))
    if len(like.images) < len(images) and reader_of(first).colour:  # an RGB picture
        images = [np.stack(images, axis=-1)]
    for number, image in enumerate(images):
        yield f"imagesTr/{case.name}_{number:04d}{ending}", image, like.images.get(number, first)
    if case.mask is not None:
        mask = case.mask.astype(np.uint8)
        yield f"labelsTr/{case.name}{info.mask_ending}", mask, like.mask or first
