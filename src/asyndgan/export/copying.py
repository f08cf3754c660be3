"""Copies of a site's data set with painted files beside the acquired ones."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from asyndgan.export.writing import check_new, copy_file, writing_to
from asyndgan.intake import reading
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.grids import on_grid_of
from asyndgan.intake.listing import CaseFiles
from asyndgan.intake.readers import Geometry, Stored, lossless, reader_of
from asyndgan.intake.readers.reader import plane_of
from asyndgan.intake.variants import FILES, in_version_2
from asyndgan.store.case import RawCase
from asyndgan.store.geometry import AXES, Axis, plane
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
    `planes` has, by case and modality, slices (rows, columns) along `axis` on the stored grid, in
    their order. `made_from` says by case what its channels were painted from.

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
        check_new(folder)
        for case in files:
            _copied(case, folder, info)
            for modality, slices in planes.get(case.name, {}).items():
                place = reading.place(next(iter(case.images.values())))
                name = f"imagesTr/{case.name}_{added[modality]:04d}{lossless(info.file_ending)}"
                path = folder / name
                reader_of(path).write_painted(path, slices, place=place, axis=AXES[axis])
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
    cut: Collection[str] = (),
) -> int:
    """Copies a data set and adds synthetic cases, whose files are marked so in their headers.

    Images and masks are copied byte for byte, but cases named in `cut` slice by slice. Each case is
    added with the name of the acquired case, a single slice, whose grids its files take over.

    Returns:
        The number of cases added; `dataset.json` names them under `synthetic_cases`.

    Raises:
        DataError: `folder` exists or cannot be written.
    """
    info = source.info
    added: list[str] = []
    with writing_to(folder):
        check_new(folder)
        files: dict[str, CaseFiles] = {}
        for each in source.files:
            whole = each.name not in cut
            files |= _copied(each, folder, info) if whole else _cut(each, folder, info, AXES[axis])
        for case, like in cases:
            added.append(case.name)
            for name, plane, acquired in _files_like(files[like], case, info):
                path = folder / name
                path.parent.mkdir(exist_ok=True)
                place = reading.place(acquired)
                reader_of(path).write_painted(path, [plane], place=place, axis=AXES[axis])
        about = {
            **_described(source),
            "numTraining": len(files) + len(added),
            "synthetic_cases": added,
        }
        _describe_copy(folder, about, provenance)
    return len(added)


def _named(
    folder: Path, name: str, numbers: Iterable[int], info: DatasetInfo, *, masked: bool
) -> CaseFiles:
    """The files of a case in a copy, by the numbers of its images."""
    ending = lossless(info.file_ending)
    images = {number: folder / f"imagesTr/{name}_{number:04d}{ending}" for number in numbers}
    mask = folder / f"labelsTr/{name}{info.mask_ending}" if masked else None
    for path in (*images.values(), *filter(None, [mask])):
        path.parent.mkdir(parents=True, exist_ok=True)
    return CaseFiles(name, images, mask)


def _copied(case: CaseFiles, folder: Path, info: DatasetInfo) -> dict[str, CaseFiles]:
    """Copies images and mask under the names by which they are found there; returns these."""
    copied = _named(folder, case.name, case.images, info, masked=case.mask is not None)
    for number, path in case.images.items():
        copy = copied.images[number]
        if reader_of(path).lossy:
            planes = [stored.values for stored in reading.image(path, most=3)]
            pixels = planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)
            reader_of(copy).write(copy, pixels, spacing=(1.0, 1.0), note="")
        else:
            copy_file(path, copy)
    if case.mask and copied.mask:
        copy_file(case.mask, copied.mask)
    return {case.name: copied}


def _cut(case: CaseFiles, folder: Path, info: DatasetInfo, axis: int) -> dict[str, CaseFiles]:
    """Writes each slice of a volume as a case that lies where it lay; returns their files."""
    volumes: dict[str, Stored] = {}
    for number, path in sorted(case.images.items()):
        most = len(info.modalities) if number == 0 else 1
        for place, stored in enumerate(reading.image(path, most=most), number):
            volumes[str(place)] = on_grid_of(path, stored, volumes)
    numbers = [*map(int, volumes)]
    if case.mask:
        volumes["mask"] = on_grid_of(case.mask, reading.mask(case.mask), volumes)
    slices = {}
    for index in range(next(iter(volumes.values())).values.shape[axis]):
        name = f"{case.name}_z{index:04d}"
        copied = _named(folder, name, numbers, info, masked=case.mask is not None)
        paths = [*copied.images.values(), *filter(None, [copied.mask])]
        for path, stored in zip(paths, volumes.values(), strict=True):
            reader_of(path).write(
                path, plane_of(stored.values, axis, index), note="",
                spacing=tuple(plane(stored.spacing, axis)[::-1]),
                geometry=Geometry.of(stored, axis, index),
            )  # fmt: skip
        slices[name] = copied
    return slices


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
