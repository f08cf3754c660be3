"""The files of a data set by their names, and those that would drop out of it; opens none."""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, final

from asyndgan.intake.near import (
    composed,
    dangling,
    ending_of,
    files_below,
    in_folder,
    is_decodable,
    is_dicom,
    is_litter,
    is_sidecar,
    lonely,
    misnamed_folder,
    nearest,
    of_unknown_ending,
    plain,
    shifted,
    stem_of,
    undecodable,
    unread,
    wrong_ending,
)
from asyndgan.intake.readers import DataFileError
from asyndgan.intake.readers.reader import decoding
from asyndgan.store.info import DatasetInfo
from asyndgan.texts import counted

Part = Literal["Tr", "Ts"]

MOST_COMPARED: Final = 500
"""Most pairs of a mask's and a case's name that are compared, each in up to 20 ms."""

MOST_FAULTS: Final = 1000
"""Faults of files that dataset.json lists after which no further file is looked for."""

_NOT_NAMED: Final = "is not named like"


@final
@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        name: case name, without modality number and file ending, in composed letters (NFC).
        images: number in the file name (the modality's index) to file.
        mask: mask file, or None.
    """

    name: str
    images: dict[int, Path]
    mask: Path | None


@final
@dataclass(frozen=True)
class Listing:
    """What the names of a data set's files say.

    Attributes:
        cases: sorted by name.
        faults: files that would drop out of the cases; no command goes on with them.
        unmasked: missing masks; `train`, `evaluate` and `audit` do not go on without.
    """

    cases: list[CaseFiles]
    faults: list[DataFileError] = field(default_factory=list)
    unmasked: list[DataFileError] = field(default_factory=list)


def part_of(folder: Path) -> Part:
    """Ending of the names of a data set's folders: imagesTr, or imagesTs if there is that alone."""
    only = (folder / "imagesTs").is_dir() and not (folder / "imagesTr").is_dir()
    return "Ts" if only else "Tr"


def list_cases(folder: Path, info: DatasetInfo) -> list[CaseFiles]:
    """Lists the cases of `folder`/imagesTr (or imagesTs), sorted by name; opens no file.

    Raises:
        DataError: there is no such folder, no file in it is named like an image, or a file would
            drop out (see `Listing.faults`).
    """
    found = listed(folder, info)
    raise_first(found.faults)
    return found.cases


def raise_first(faults: Sequence[DataFileError]) -> None:
    """Raises the first of these faults, if there is one, and says how many others there are."""
    if not faults:
        return
    first, others = faults[0], len(faults) - 1
    more = f" 'asyndgan check' names {counted(others, 'other fault')}." if others else ""
    raise DataFileError(first.file, first.reason, first.remedy + more)


def listed(folder: Path, info: DatasetInfo, part: Part | None = None) -> Listing:
    """Lists the cases of a data set, and the faults that names of files show; opens no file.

    Args:
        folder: holds dataset.json.
        info: what that says.
        part: which of its folders; None: as `part_of`.

    Raises:
        DataFileError: there is no folder of images, or no file in it is named like one.
    """
    part = part or part_of(folder)
    if info.listed is not None and part == "Tr":
        return _as_listed(folder, info)
    images, masks = folder / f"images{part}", folder / f"labels{part}"
    if not images.is_dir():
        raise _no_folder(images, info)
    cases, faults = _images(images, info)
    if not cases:
        raise _no_image(images, info, faults)
    _check_numbers(masks, cases, info)
    dropped = len(faults)
    if not masks.is_dir():
        faults += filter(None, [misnamed_folder(masks)])
        named: dict[str, Path] = {}
        unmasked = [_no_masks(masks, "this folder does not exist", info)]
    else:
        lost = {plain(path.name) for f in faults for path in (f.file, *files_below(f.file))}
        named, wrong, unmasked = _matched(masks, cases, info, lost)
        faults += wrong
    if part == "Tr" and not dropped and info.training not in (None, len(cases)):
        faults.append(_miscounted(folder, info, "imagesTr holds", len(cases)))
    files = [CaseFiles(name, cases[name], named.get(name)) for name in sorted(cases)]
    return Listing(files, faults, unmasked)


def list_masks(folder: Path, info: DatasetInfo) -> dict[str, Path]:
    """Name to mask of `folder`/labelsTr, sorted by name, whether or not there are images.

    Raises:
        DataError: there is no mask, or one would drop out.
    """
    if info.listed is not None:
        cases = _as_listed(folder, info).cases
        return {files.name: files.mask for files in cases if files.mask}
    masks = folder / f"labels{part_of(folder)}"
    ending = info.mask_ending
    found, others, faults = _masks(masks, ending)
    faults += of_unknown_ending(others, ending).values()
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
        paths = {number: folder / image for number, image in enumerate(images)}
        wanted = [(path, info.file_ending) for path in paths.values()]
        wanted += [(folder / mask, info.mask_ending)] if mask else []
        for path, ending in wanted:
            if not path.name.endswith(ending):
                reason = f"is listed in dataset.json and does not end in {ending}"
                faults.append(
                    DataFileError(path, reason, "Store images, and masks, in one format each.")
                )
            elif fault := dangling(path):
                faults.append(fault)
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


def _miscounted(folder: Path, info: DatasetInfo, where: str, count: int) -> DataFileError:
    return DataFileError(
        folder / "dataset.json",
        f"numTraining is {info.training}, but {where} {count} cases",
        f"Add what is missing; if nothing is, write {count}.",
    )


def image_name_pattern(file_ending: str) -> re.Pattern[str]:
    """Returns a pattern for names of image files; its groups are the case and modality number.

    Hidden files do not match: macOS leaves a `._CASE_0000.png` beside each file on foreign disks.
    """
    return re.compile(r"(?!\.)(.+)_(\d{4})" + re.escape(file_ending))


def _entries(folder: Path) -> Iterator[Path]:
    """A folder's entries, sorted, without litter and texts."""
    with decoding(folder, "a folder"):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not is_litter(path.name) and not is_sidecar(path.name):
                yield path


def _images(
    folder: Path, info: DatasetInfo
) -> tuple[dict[str, dict[int, Path]], list[DataFileError]]:
    """Case to number to image, and the faults of other entries."""
    ending = info.file_ending
    wanted = image_name_pattern(ending)
    cases: dict[str, dict[int, Path]] = {}
    faults = []
    for path in _entries(folder):
        match = wanted.fullmatch(composed(path.name))
        fault = None
        if not is_decodable(path.name):
            fault = undecodable(path)
        elif not match:
            fault = _stray(path, info)
        elif not (fault := dangling(path)):
            numbered = cases.setdefault(match[1], {})
            if int(match[2]) in numbered:
                fault = _twice(path)
            numbered.setdefault(int(match[2]), path)
        if fault:
            faults.append(fault)
    return cases, faults


def _check_numbers(masks: Path, cases: Mapping[str, Mapping[int, Path]], info: DatasetInfo) -> None:
    """Checks that the last numbers in names of images are those of modalities.

    Raises:
        DataFileError: they look like numbers of cases, or like modalities that are counted from 1.
    """
    wanted, ending = len(info.modalities), info.file_ending
    beyond = [path for own in cases.values() for number, path in own.items() if number >= wanted]
    for path in beyond:
        if (masks / path.name).is_file():
            named = f"{path.name.removesuffix(ending)}_0000{ending}"
            raise DataFileError(
                path,
                "ends in the number of the case, and so does its mask: the number of the modality "
                "is missing",
                f"Add it to all images, 0000 for the first: {named}. Masks keep their names.",
            )
    if beyond and all(0 not in own and max(own) == wanted for own in cases.values()):
        raise DataFileError(
            beyond[0].parent,
            f"holds no modality 0000: they are counted from 0001, as in {beyond[0].name}",
            "Count them from 0000, as channel_names does: rename the images.",
        )


def _stray(path: Path, info: DatasetInfo) -> DataFileError | None:
    """The fault of an entry of imagesTr that is not named like an image."""
    ending, known, stem = info.file_ending, ending_of(path.name), stem_of(path.name)
    if path.is_dir():
        return in_folder(path, ending)
    if fault := dangling(path) or unread(path, ending):
        return fault
    number = re.search(r"_(\d{4})$", stem)
    if not known and (path.suffix or not re.search(r"\d", path.name)):
        return None  # a README, a licence, a table, the copy of an image: no image has such a name
    reason = f"{_NOT_NAMED} CASE_0000{ending}, so it is not read"
    masks = path.parent.with_name(path.parent.name.replace("images", "labels"))
    of_case = number or (masks / f"{stem}{info.mask_ending}").exists() or is_dicom(path)
    if known not in ("", ending) and not of_case:
        remedy = f"Move it out of {path.parent.name}, where only images of cases belong."
        return DataFileError(path, reason, remedy)
    most = len(info.modalities) if number and number[1] == "0000" else 1
    return wrong_ending(path, ending, labels=False, most=most) or DataFileError(
        path,
        reason,
        f"Give it its modality's number (0000 for the first): CASE_0000{ending}; or move it away.",
    )


def _twice(path: Path) -> DataFileError:
    return DataFileError(
        path,
        "has the name of another file here, written with other letters (NFC and NFD of Unicode)",
        "Keep one of the two.",
    )


def _masks(folder: Path, ending: str) -> tuple[dict[str, Path], list[Path], list[DataFileError]]:
    """Name to mask, files with other endings, and the faults of all other entries."""
    found: dict[str, Path] = {}
    others, faults = [], []
    for path in _entries(folder):
        name = composed(path.name)
        if not is_decodable(name):
            faults.append(undecodable(path))
        elif path.is_dir() and not name.endswith(ending):
            faults += filter(None, [in_folder(path, ending)])
        elif not name.endswith(ending) and path.exists():
            others.append(path)
        elif fault := dangling(path) or (found.get(name.removesuffix(ending)) and _twice(path)):
            faults.append(fault)
        else:
            found[name.removesuffix(ending)] = path
    return found, others, faults


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
    masks, others, faults = _masks(folder, ending)
    broken = {composed(fault.file.name).removesuffix(ending) for fault in faults}
    named = {name: path for name, path in masks.items() if name in cases}
    lacking = [name for name in sorted(cases) if name not in named and name not in broken]
    alone = [
        *(path for name, path in masks.items() if name not in cases),
        *(o for o in others if ending_of(o.name)),
    ]
    unmatched = []
    if lacking and (pair := shifted([name for name in masks if name not in cases], masks, cases)):
        reason = (
            f"numbers masks from {pair[0]} on, and imagesTr images from {pair[1]} on: each mask "
        )
        remedy = (
            "Compare a mask with its image. If they belong together by order, number both alike."
        )
        return {}, [DataFileError(folder, f"{reason}may be another image's", remedy)], []
    near = nearest(alone, lacking, ending)
    lost = of_unknown_ending(others, ending, lacking, dropped)
    faults += lost.values()
    lacking = [name for name in lacking if name not in near.values() and name not in lost]
    examples: dict[str, str] = {}
    for path in alone:
        if fault := wrong_ending(path, ending, labels=True):
            faults.append(fault)
        elif path in near:
            number = re.search(r"_\d{4}$", path.name.removesuffix(ending))
            what = "has the number of a modality" if number else "is not named like its image"
            example = f"{path.name} as {near[path]}{ending}"
            faults.append(
                DataFileError(
                    path,
                    f"{what}, so its image has no mask",
                    "Name each mask as its image without the number of the modality: "
                    f"{examples.setdefault(what, example)}.",
                )
            )
        elif plain(path.name) not in dropped:
            unmatched.append(path)
    if not named and not near and unmatched and lacking:
        image = next(iter(cases[lacking[0]].values())).name
        faults.append(
            DataFileError(
                folder,
                f"no mask here is named like an image, as {unmatched[0].name} and {image}",
                "Name each mask as its image without the number of the modality: "
                f"{lacking[0]}{ending}.",
            )
        )
        return named, faults, []
    for place, path in enumerate(unmatched, 1):
        few = lacking if place * len(lacking) <= MOST_COMPARED else ()
        faults.append(lonely(path, few, ending))
    if not (named or near or alone or faults):
        return named, faults, [_no_masks(folder, "holds no mask", info)]
    return named, faults, [_unmasked(folder / f"{name}{ending}") for name in lacking]


def _unmasked(path: Path) -> DataFileError:
    return DataFileError(
        path, "this image has no mask, though others have", "Add the mask, or move the image away."
    )


def _no_masks(masks: Path, reason: str, info: DatasetInfo) -> DataFileError:
    return DataFileError(
        masks, reason, f"Put masks there, as CASE{info.mask_ending}; 'complete' alone needs none."
    )


def _no_folder(images: Path, info: DatasetInfo) -> DataFileError:
    if near := misnamed_folder(images):
        return near
    link = images.is_symlink()
    return DataFileError(
        images,
        "is a link to a folder that does not exist" if link else "this folder does not exist",
        f"Put the images there, one file a modality: CASE_0000{info.file_ending}.",
    )


def _no_image(images: Path, info: DatasetInfo, faults: Sequence[DataFileError]) -> DataFileError:
    """One fault for a folder in which no entry is an image of a case: its first entry's."""
    wanted = f"CASE_0000{info.file_ending}"
    if not faults:
        remedy = "Put the images there, one file a modality."
        return DataFileError(images, f"no file here is named like {wanted}", remedy)
    first = faults[0]
    if first.reason.startswith(_NOT_NAMED):
        reason = f"no file here is named like {wanted} ('{first.file.name}' is not)"
    else:
        reason = f"no file here can be read as {wanted}: {first.file.name} {first.reason}"
    return DataFileError(images, reason, first.remedy)
