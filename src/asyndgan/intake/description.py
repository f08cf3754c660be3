"""A data set's dataset.json: its modalities and labels, by nnU-Net's raw convention (version 2)."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

from pydantic import TypeAdapter, ValidationError

from asyndgan.intake.misnamed import MOST_OPENED, ending_of, files_below, is_dicom
from asyndgan.intake.readers import LOSSLESS, READERS, DataFileError, lossless
from asyndgan.intake.sniffing import FROM_DICOM, content_of
from asyndgan.intake.variants import FILES, checked_files, disjoint, in_version_2
from asyndgan.recipe import shown
from asyndgan.store.case import MODALITIES_LIMIT
from asyndgan.store.info import DatasetInfo
from asyndgan.texts import NAME_LENGTH, Name, bounded_text, parsed_json

BACKGROUND = "background"
IGNORED = "ignore"
"""nnU-Net's name for pixels without an annotation."""

WRITE_IT = (
    "Write it as nnU-Net does: channel_names, labels, numTraining, file_ending (docs/data.md). "
    "Copy images to imagesTr/CASE_0000.nii.gz (a second modality to CASE_0001.nii.gz), and the "
    "label map of each case, all structures in one, to labelsTr/CASE.nii.gz."
)

MAX_JSON_BYTES = 2**24
MAX_LABEL = 255  # what an 8-bit mask can hold
MAX_REGIONS = 64
LONGEST_PATTERN = 1000
OWN_KEYS = ("channel_names", "labels", "numTraining", "file_ending", "mask_ending", "name", FILES)
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def describe(folder: Path, table: Mapping[str, object] | None = None) -> DatasetInfo:
    """Reads a data set's dataset.json; `table` is its content, if it was read before.

    Raises `DataError` if it is missing, is not JSON, or holds something this package does not
    support (`ignore` as a label, file endings other than those of `READERS`).
    """
    path = folder / "dataset.json"
    fault = partial(DataFileError, path)
    table = in_version_2(path, json_table(path) if table is None else table)
    ending = table.get("file_ending")
    if ending is None:
        first = "; with 'modality' it is of nnU-Net's version 1" if "modality" in table else ""
        raise fault(
            f"does not say what files end in{first}",
            'Write version 2: "file_ending" (such as ".nii.gz"), "channel_names" ({"0": "T1"}), '
            '"labels" (name to number) and "numTraining"; images are named CASE_0000.nii.gz.',
        )
    if not isinstance(ending, str) or ending not in READERS:
        remedy = f"Store all images as {' or '.join(READERS)}, and write the new file_ending."
        if (plain := str(ending).lower()) in READERS:
            remedy = f'Write "{plain}", and let all files end so.'
        raise fault(f"file_ending is {shown(ending)}", remedy)
    training: Any = table.get("numTraining")
    if training is not None and not _is_number(training):
        raise fault(f"numTraining is {shown(training)}", "Write the number of cases.")
    pattern = table.get("patient_pattern", "")
    if not isinstance(pattern, str) or len(pattern) > LONGEST_PATTERN:
        reason = f"patient_pattern is {shown(pattern)}"
        raise fault(reason, "Write a regular expression, in double quotes.")
    fitting = [one for one in LOSSLESS if READERS[one].volumes == READERS[ending].volumes]
    masks_end = table.get("mask_ending", lossless(ending))
    if masks_end not in fitting:
        raise fault(
            f"mask_ending is {shown(masks_end)}, and the images are {ending}",
            f"Store masks without loss, as one of {', '.join(fitting)}.",
        )
    return DatasetInfo(
        name=str(table.get("name") or folder.resolve().name),
        modalities=checked_modalities(path, table.get("channel_names", table.get("modality"))),
        labels=checked_labels(path, _without_regions(path, table)),
        file_ending=ending,
        mask_ending=masks_end,
        listed=checked_files(path, table.get(FILES)),
        extra={key: value for key, value in table.items() if key not in OWN_KEYS},
        training=training,
    )


def _without_regions(path: Path, table: Mapping[str, object]) -> object:
    """The labels of a dataset.json, disjoint if some are regions in the order of their classes."""
    labels, order = table.get("labels"), table.get("regions_class_order")
    if not isinstance(labels, dict) or not any(isinstance(one, list) for one in labels.values()):
        return labels
    numbers = [one if isinstance(one, list) else [one] for one in labels.values()]
    if any(not each or not all(map(_is_number, each)) for each in numbers) or not isinstance(
        order, list
    ):
        return labels
    if len(labels) > MAX_REGIONS or len({n for each in numbers for n in each}) > MAX_LABEL + 1:
        reason = f"labels names more than {MAX_REGIONS} regions, or {MAX_LABEL + 1} numbers"
        raise DataFileError(path, reason, "Write labels without regions.")
    return disjoint(labels)


def json_table(path: Path) -> dict[str, object]:
    """Reads a dataset.json without checking its keys.

    Raises `DataFileError` if the file is missing or does not hold a JSON object.
    """
    if not path.parent.is_dir():
        what = "is no folder" if path.parent.exists() else "this folder does not exist"
        remedy = "Name the folder of a data set; dataset.json lies in it."
        raise DataFileError(path.parent, what, remedy)
    if not path.is_file():
        raise _missing(path)
    try:
        table = parsed_json(bounded_text(path, MAX_JSON_BYTES, links=True))
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 at byte {error.start}, as JSON has to be"
        raise DataFileError(path, reason, "Save it as UTF-8.") from error
    except (OSError, ValueError) as error:
        if found := content_of(path):
            raise DataFileError(path, f"is {found.name}, not JSON", WRITE_IT) from error
        remedy = "Correct it there: no comma after the last item, names in double quotes."
        raise DataFileError(path, f"cannot be read as JSON ({error})", remedy) from error
    if not isinstance(table, dict):
        raise DataFileError(path, "is not a JSON object", WRITE_IT)
    return table


def _missing(path: Path) -> DataFileError:
    """The fault of a folder without a dataset.json, by what else is there."""
    folder, reason, remedy = path.parent, "this file does not exist", WRITE_IT
    files = files_below(folder)
    sets = [found.parent for deep in ("*", "*/*") for found in folder.glob(f"{deep}/dataset.json")]
    if sets:
        names = ", ".join(found.relative_to(folder).as_posix() for found in sorted(sets)[:5])
        remedy = f"Name the folder of one data set: {names}."
    elif (folder.parent / "dataset.json").is_file():
        remedy = f"Name the folder above, which holds it: {folder.parent}."
    elif dicom := [found for found in files[:MOST_OPENED] if is_dicom(found)]:
        reason += f"; the folder holds DICOM files, as {dicom[0].relative_to(folder).as_posix()}"
        remedy = FROM_DICOM.replace("FOLDER", quote(str(folder)))
    elif endings := Counter(ending_of(found.name).lower() for found in files):
        known = next((ending for ending, _ in endings.most_common() if ending in READERS), "")
        if known:
            first = next(found for found in files if ending_of(found.name).lower() == known)
            reason += f"; the folder holds {known} files, as {first.relative_to(folder).as_posix()}"
            masks = WRITE_IT.replace("CASE.nii.gz", f"CASE{lossless(known)}")
            remedy = re.sub(r"(000[01])\.nii\.gz", rf"\g<1>{known}", masks)
        else:
            reason += f"; the folder holds {endings.most_common(1)[0][0]} files, which are not read"
            remedy = (
                f"Save images and label maps as .png, or in .nii.gz as volumes. {WRITE_IT} With "
                ".png, end these names in .png. Nothing trains without label maps."
            )
    return DataFileError(path, reason, remedy)


def checked_modalities(path: Path, names: object) -> tuple[str, ...]:
    """Checks `channel_names` and returns the names in the order of their numbers.

    Raises `DataFileError`, which names `path`, if `names` is not valid.
    """
    listed = names if isinstance(names, list) and names else ["T1", "FLAIR"]
    example = json.dumps(dict(enumerate(map(str, listed[:MODALITIES_LIMIT]))), ensure_ascii=False)
    remedy = f'Number them from 0 and name each once: "channel_names": {example}.'
    if not isinstance(names, dict) or not names:
        what = "is missing" if names is None else f"is {shown(names)}, where a map is wanted"
        raise DataFileError(path, f"channel_names {what}", remedy)
    if len(names) > MODALITIES_LIMIT:
        reason = f"channel_names holds {len(names)} names, and {MODALITIES_LIMIT} are the most"
        raise DataFileError(path, reason, "Leave out channels that no model is trained on.")
    found = (names.get(str(number)) for number in range(len(names)))
    ordered = [name for name in found if isinstance(name, str)]
    if len({*ordered}) < len(names):
        raise DataFileError(path, f"channel_names is {shown(names)}", remedy)
    _check_names(path, "modality", ordered)
    return tuple(ordered)


def checked_labels(path: Path, labels: object) -> dict[str, int]:
    """Checks `labels` and returns name to number.

    Raises `DataFileError`, which names `path`, if `labels` is not valid.
    """
    remedy = 'Give each label one number: "labels": {"background": 0, "lesion": 1}.'
    fault = partial(DataFileError, path)
    if not isinstance(labels, dict) or not labels:
        what = "is missing" if labels is None else f"is {shown(labels)}, where a map is wanted"
        raise fault(f"labels {what}", remedy)
    if len(labels) > MAX_LABEL + 1:
        reason = f"labels holds {len(labels)} names, and {MAX_LABEL + 1} are the most"
        raise fault(reason, "Merge some of them, and remap the masks.")
    _check_names(path, "label", labels)
    for name, number in labels.items():
        if name.casefold() == IGNORED:
            raise fault(
                f"label '{name}' marks pixels that nobody annotated, and a generator would paint "
                "them as tissue",
                "Annotate these pixels, crop images and masks to what is annotated, or leave out "
                "the cases that hold it and lower numTraining; then remove it from labels. If no "
                "pixel is background: name 0 'unlabelled' in labels, write 0 for it in the masks, "
                "and train with --set masks.unlabelled=true.",
            )
        if isinstance(number, list):
            said = f"label '{name}' is a region, a list of labels"
            raise fault(
                said,
                "Give regions_class_order too, as nnU-Net wants it; or name each number of the "
                f"masks. {remedy}",
            )
        if not _is_number(number) or not 0 <= number <= MAX_LABEL:
            reason = f"label '{name}' has the number {shown(number)}, none of 0 to {MAX_LABEL}"
            raise fault(reason, f"{remedy} Numbers in the masks have to be the same.")
        if name.casefold() == BACKGROUND and number != 0:
            reason = f"label '{name}' has the number {number}, and 0 means background everywhere"
            raise fault(reason, f"Exchange 0 and {number} in labels and in the masks.")
    if len(set(labels.values())) < len(labels):
        raise fault("two labels have the same number", remedy)
    return dict(labels)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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
