"""The files of a data set by their names, and those that would drop out of it; opens none."""

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, final

from asyndgan.intake.misnamed import (
    composed,
    dangling,
    ending_of,
    files_below,
    in_folder,
    is_like_image,
    is_litter,
    is_sidecar,
    plain,
    unnamed,
    wrong_ending,
)
from asyndgan.intake.readers import DataFileError
from asyndgan.intake.readers.reader import decoding
from asyndgan.store.info import DatasetInfo
from asyndgan.texts import counted

Part = Literal["Tr", "Ts"]

_NUMBERED: Final = re.compile(r"(.+)_(\d{4})")  # names of images: case, and modality


MOST_FAULTS: Final = 1000
"""Most faults of the files that a description lists."""


@final
@dataclass(frozen=True)
class CaseFiles:
    """The files of one case."""

    name: str  # without modality number and file ending, in composed letters (NFC)
    images: dict[int, Path]  # by the modality's index, the number in the file name
    mask: Path | None


@final
@dataclass(frozen=True)
class Listing:
    """What the names of a data set's files say."""

    cases: list[CaseFiles]  # sorted by name
    # files that would drop out of the cases; no command goes on with them
    faults: list[DataFileError] = field(default_factory=list)
    # missing masks; `train`, `evaluate` and `audit` do not go on without
    unmasked: list[DataFileError] = field(default_factory=list)


def part_of(folder: Path) -> Part:
    """Ending of the names of a data set's folders: imagesTr, or imagesTs if there is that alone."""
    only = (folder / "imagesTs").is_dir() and not (folder / "imagesTr").is_dir()
    return "Ts" if only else "Tr"


def raise_first(faults: Sequence[DataFileError]) -> None:
    """Raises the first of these faults, if there is one, and says how many others there are."""
    if not faults:
        return
    first, others = faults[0], len(faults) - 1
    more = f" 'asyndgan check' names {counted(others, 'other fault')}." if others else ""
    raise DataFileError(first.file, first.reason, first.remedy + more)


def listed(folder: Path, info: DatasetInfo, part: Part | None = None) -> Listing:
    """Lists the cases of a data set, and the faults that names of files show; opens no file.

    `part` is which of its folders; None: as `part_of`. Raises `DataFileError` if there is no folder
    of images, or no file in it is named like one.
    """
    part = part or part_of(folder)
    if info.listed is not None and part == "Tr":
        return _as_listed(folder, info)
    images, masks = folder / f"images{part}", folder / f"labels{part}"
    name = f"CASE_0000{info.file_ending}"
    if not images.is_dir():
        remedy = f"Put the images there, one file a modality: {name}."
        raise DataFileError(images, "this folder does not exist", remedy)
    cases, faults = _images(images, info)
    if not cases:
        reason, remedy = f"no file here is named like {name}", "Put the images there, so named."
        if faults:
            reason = f"no file here can be read as {name}: {faults[0].file.name} {faults[0].reason}"
            remedy = faults[0].remedy
        raise DataFileError(images, reason, remedy)
    _check_numbers(masks, cases, info)
    dropped = len(faults)
    if masks.is_dir():
        lost = {plain(path.name) for f in faults for path in (f.file, *files_below(f.file))}
        named, wrong, unmasked = _matched(masks, cases, info, lost)
        faults += wrong
    else:
        named, unmasked = {}, [_no_masks(masks, "this folder does not exist", info)]
    if part == "Tr" and not dropped and info.training not in (None, len(cases)):
        faults.append(_miscounted(folder, info, "imagesTr holds", len(cases)))
    files = [CaseFiles(name, cases[name], named.get(name)) for name in sorted(cases)]
    return Listing(files, faults, unmasked)


def list_masks(folder: Path, info: DatasetInfo) -> dict[str, Path]:
    """Name to mask of `folder`/labelsTr, sorted by name, whether or not there are images.

    Raises `DataError` if there is no mask, or one would drop out.
    """
    if info.listed is not None:
        own = {composed(name): folder / mask for name, (_, mask) in info.listed.items() if mask}
        raise_first([fault for mask in own.values() if (fault := _missing(mask, info.mask_ending))])
        if not own:
            raise _no_masks(folder / "dataset.json", "lists images without masks", info)
        return dict(sorted(own.items()))
    masks = folder / f"labels{part_of(folder)}"
    ending = info.mask_ending
    found, others, faults = _entries(masks, ending)
    ends = [wrong_ending(path, ending, labels=True) for path in others]
    raise_first([*faults, *(fault for fault in ends if fault)])
    if not found:
        raise _no_masks(masks, "holds no mask", info)
    return found


def _as_listed(folder: Path, info: DatasetInfo) -> Listing:
    """The cases that dataset.json itself lists, wherever their files lie in the folder."""
    cases, unmasked = list[CaseFiles](), list[DataFileError]()
    faults: list[DataFileError] = []
    listed = info.listed or {}
    for name, (images, mask) in sorted(listed.items()):
        if len(faults) >= MOST_FAULTS:
            reason = f"lists {MOST_FAULTS} files or more that are not there, and may list others"
            faults.append(DataFileError(folder / "dataset.json", reason, "Mend these first."))
            break
        paths = {number: folder / image for number, image in enumerate(images) if image}
        wanted = [(path, info.file_ending) for path in paths.values()]
        wanted += [(folder / mask, info.mask_ending)] if mask else []
        faults += [fault for path, ending in wanted if (fault := _missing(path, ending))]
        if 1 < len(images) < len(info.modalities):  # one file may hold them all
            reason = f"lists {len(images)} images of {name}, for {len(info.modalities)} modalities"
            remedy = "Write null in the place of each image that the case lacks."
            faults.append(DataFileError(folder / "dataset.json", reason, remedy))
        if not mask:
            unmasked.append(_unmasked(next(iter(paths.values()))))
        cases.append(CaseFiles(composed(name), paths, folder / mask if mask else None))
    if unmasked and len(unmasked) == len(cases):
        reason = "lists images without masks"
        unmasked = [_no_masks(folder / "dataset.json", reason, info)]
    broken = {fault.file for fault in faults}
    whole = [case for case in cases if not broken & {*case.images.values(), case.mask}]
    if info.training not in (None, len(listed)):
        faults.append(_miscounted(folder, info, "it lists", len(listed)))
    return Listing(whole, faults, unmasked)


def _missing(path: Path, ending: str) -> DataFileError | None:
    """What keeps a file that dataset.json lists from being read as one of this ending."""
    if path.name.endswith(ending):
        return dangling(path)
    reason = f"is listed in dataset.json and does not end in {ending}"
    return DataFileError(path, reason, "Store images, and masks, in one format each.")


def _miscounted(folder: Path, info: DatasetInfo, where: str, count: int) -> DataFileError:
    return DataFileError(
        folder / "dataset.json",
        f"numTraining is {info.training}, but {where} {count} cases",
        f"Add what is missing; if nothing is, write {count}.",
    )


def _entries(folder: Path, ending: str) -> tuple[dict[str, Path], list[Path], list[DataFileError]]:
    """Name to file of a folder's files of this ending, others, and faults; no litter, no texts."""
    found: dict[str, Path] = {}
    others, faults = [], []
    with decoding(folder, "a folder"):
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in paths:
        name = composed(path.name)
        if is_litter(path.name) or is_sidecar(path.name):
            continue
        if path.is_dir() and not name.endswith(ending):
            fault = in_folder(path, ending)
        elif not (fault := unnamed(path) or dangling(path)):
            if name in found:  # in the other way to write its letters
                fault = DataFileError(path, f"is {found[name].name} again", "Keep one of the two.")
            elif name.endswith(ending):
                found[name] = path
            else:
                others.append(path)
        if fault:
            faults.append(fault)
    return {name.removesuffix(ending): path for name, path in found.items()}, others, faults


def _images(
    folder: Path, info: DatasetInfo
) -> tuple[dict[str, dict[int, Path]], list[DataFileError]]:
    """Case to number to image, and the faults of other entries."""
    ending = info.file_ending
    found, others, faults = _entries(folder, ending)
    cases: dict[str, dict[int, Path]] = {}
    for name, path in found.items():
        if match := _NUMBERED.fullmatch(name):
            cases.setdefault(match[1], {})[int(match[2])] = path
        else:
            others.append(path)
    for path in (one for one in others if is_like_image(one, ending)):
        fault = DataFileError(
            path,
            f"is not named like CASE_0000{ending}, so it is not read",
            f"Give it its modality's number (0000 for the first): CASE_0000{ending}; or move "
            "its case away and lower numTraining.",
        )
        faults.append(wrong_ending(path, ending, labels=False) or fault)
    return cases, faults


def _check_numbers(masks: Path, cases: Mapping[str, Mapping[int, Path]], info: DatasetInfo) -> None:
    """Checks that the last numbers in names of images are those of modalities.

    Raises:
        DataFileError: they look like numbers of cases, or like modalities that are counted from 1.
    """
    for own in cases.values():
        path = own[max(own)]
        if max(own) < len(info.modalities):
            continue
        if (masks / path.name).is_file() or all(0 not in one for one in cases.values()):
            stem = path.name.removesuffix(info.file_ending)
            raise DataFileError(
                path,
                "ends in a number that no modality has: they are counted from 0000",
                f"If it is the case's, add the modality's: {stem}_0000{info.file_ending}, and "
                "masks keep their names. Otherwise count the modalities from 0000.",
            )


def _matched(
    folder: Path,
    cases: Mapping[str, Mapping[int, Path]],
    info: DatasetInfo,
    dropped: Container[str],
) -> tuple[dict[str, Path], list[DataFileError], list[DataFileError]]:
    """Case to mask, the faults of masks without an image, and of images without a mask.

    Images that have a fault of their own are in `dropped`, by their `plain` names.
    """
    ending = info.mask_ending
    masks, others, faults = _entries(folder, ending)
    if not (masks or faults or any(ending_of(path.name) for path in others)):
        return {}, [], [_no_masks(folder, "holds no mask", info)]
    faults += filter(None, (wrong_ending(path, ending, labels=True) for path in others))
    named = {name: path for name, path in masks.items() if name in cases}
    lacking = {plain(f"{name}{ending}"): name for name in sorted(cases) if name not in named}
    example = ""
    for path in (path for name, path in masks.items() if name not in cases):
        if name := lacking.get(plain(path.name)):
            example = example or f"{path.name} as {name}{ending}"
            reason = "is not named like its image, so its image has no mask"
            remedy = f"Name each mask as its image without the number of the modality: {example}."
            faults.append(DataFileError(path, reason, remedy))
        elif plain(path.name) not in dropped:
            remedy = (
                "Add the image, or move the mask away. If it has another name, name each mask as "
                f"its image without the number of the modality: CASE{ending}."
            )
            faults.append(DataFileError(path, "this mask has no image", remedy))
    known = {plain(fault.file.name) for fault in faults}
    unmasked = [name for near, name in lacking.items() if near not in known]
    return named, faults, [_unmasked(folder / f"{name}{ending}") for name in unmasked]


def _unmasked(path: Path) -> DataFileError:
    return DataFileError(
        path,
        "this image has no mask, though others have",
        "Add the mask, or move the image away and lower numTraining.",
    )


def _no_masks(masks: Path, reason: str, info: DatasetInfo) -> DataFileError:
    return DataFileError(
        masks, reason, f"Put masks there, as CASE{info.mask_ending}; 'complete' alone needs none."
    )
