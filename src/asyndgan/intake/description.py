"""A data set's dataset.json: its modalities and labels, by nnU-Net's raw convention (version 2)."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from asyndgan.intake.layouts import WRITE_IT, without_description
from asyndgan.intake.readers import LOSSLESS, READERS, DataFileError, lossless
from asyndgan.intake.remedies import TO_PNG, in_utf8, kind_of, picture_command, suited
from asyndgan.intake.sniffing import CONVERTED, content_of
from asyndgan.intake.variants import FILES, MAX_DIGITS, checked_files, disjoint, in_version_2
from asyndgan.recipe import shown
from asyndgan.store.case import MODALITIES_LIMIT
from asyndgan.store.info import DatasetInfo
from asyndgan.texts import NAME_LENGTH, Name, bounded_text, parsed_json

FILE_ENDINGS = tuple(READERS)
BACKGROUND = "background"
IGNORED = "ignore"
"""nnU-Net's name for pixels without an annotation."""

SHOWN_ENTRIES = 4
"""Most entries of a map that a remedy writes out."""

MAX_JSON_BYTES = 2**24
MAX_LABEL = 255  # what an 8-bit mask can hold
MAX_REGIONS = 64
OWN_KEYS = ("channel_names", "labels", "numTraining", "file_ending", "mask_ending", "name", FILES)
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def describe(folder: Path, table: Mapping[str, object] | None = None) -> DatasetInfo:
    """Reads a data set's dataset.json.

    Args:
        folder: holds it.
        table: its content, if it was read before.

    Raises:
        DataError: it is missing, is not JSON, or holds something this package does not support
            (`ignore` as a label, file endings other than `FILE_ENDINGS`).
    """
    path = folder / "dataset.json"
    table = in_version_2(path, json_table(path) if table is None else table)
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
            path, f"file_ending is {shown(ending)}", _ending_remedy(path, ending, table)
        )
    training = table.get("numTraining")
    if training is not None and (not isinstance(training, int) or isinstance(training, bool)):
        raise DataFileError(path, f"numTraining is {shown(training)}", "Write the number of cases.")
    masks_end = table.get("mask_ending", lossless(ending))
    if masks_end not in LOSSLESS or READERS[masks_end].volumes != READERS[ending].volumes:
        kind = "volumes" if READERS[ending].volumes else "pictures"
        fitting = [one for one in LOSSLESS if READERS[one].volumes == READERS[ending].volumes]
        raise DataFileError(
            path,
            f"mask_ending is {shown(masks_end)}, and the images are {kind} of {ending}",
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


def _ending_remedy(path: Path, ending: object, table: Mapping[str, object]) -> str:
    """What to do about an ending that is not read."""
    plain = f".{ending.lower().lstrip('.')}" if isinstance(ending, str) else ""
    if plain in FILE_ENDINGS:
        return f'Write "{plain}", and let all files end so.'
    if plain not in CONVERTED:
        return f"Store the images as {' or '.join(FILE_ENDINGS)}."
    names = table.get("channel_names")
    first = min((path.parent / "imagesTr").glob(f"*_0000{plain}"), default=path)
    kind = kind_of(first, labels=False, most=len(names) if isinstance(names, dict) else 1)
    remedy = suited(CONVERTED[plain], kind)
    if CONVERTED[plain] == TO_PNG:
        remedy = f"{remedy} Masks: {picture_command('labels')}."
    return f"That format is not read. {remedy} Then write the new file_ending."


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

    Raises:
        DataFileError: the file is missing or does not hold a JSON object.
    """
    if not path.parent.is_dir():
        what = "is no folder" if path.parent.exists() else "this folder does not exist"
        remedy = "Name the folder of a data set; dataset.json lies in it."
        named, _, rest = str(path.parent).partition("=")
        if rest and Path(rest).expanduser().is_dir():  # as --site takes it
            remedy = f"Leave out '{Path(named).name}=': this argument takes a folder alone."
        raise DataFileError(path.parent, what, remedy)
    if not path.is_file():
        raise DataFileError(path, *without_description(path.parent))
    try:
        table = parsed_json(bounded_text(path, MAX_JSON_BYTES, links=True))
    except UnicodeDecodeError as error:
        encoding = "utf-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        raise DataFileError(
            path, f"is not UTF-8 at byte {error.start}, as JSON has to be", in_utf8(encoding)
        ) from error
    except (OSError, ValueError) as error:
        if found := content_of(path):
            raise DataFileError(path, f"is {found.name}, not JSON", found.remedy) from error
        remedy = "Correct it there: no comma after the last item, names in double quotes."
        raise DataFileError(path, f"cannot be read as JSON ({error})", remedy) from error
    if not isinstance(table, dict):
        raise DataFileError(path, "is not a JSON object", WRITE_IT)
    return table


def checked_modalities(path: Path, names: object) -> tuple[str, ...]:
    """Checks `channel_names` and returns the names in the order of their numbers.

    Raises:
        DataFileError: `names` is not valid; the error names `path`.
    """
    remedy = 'Number them from 0 and name each once: "channel_names": {"0": "T1", "1": "FLAIR"}.'
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        numbered = {str(number): name for number, name in enumerate(names)}
        raise DataFileError(path, *_no_map("channel_names", "a list", numbered))
    if isinstance(names, dict) and names and all(map(_is_number, names.values())):
        if all(name.isdecimal() for name in names):
            raise DataFileError(path, "channel_names holds numbers in place of names", remedy)
        numbered = {str(number): name for name, number in names.items()}
        raise DataFileError(path, *_no_map("channel_names", "a map of name to number", numbered))
    if not isinstance(names, dict) or not names:
        what = "is missing" if names is None else f"is {shown(names)}, and no map"
        raise DataFileError(path, f"channel_names {what}", remedy)
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
    if isinstance(labels, list) and all(isinstance(name, str) for name in labels):
        numbers = {name: number for number, name in enumerate(labels)}
        raise DataFileError(path, *_no_map("labels", "a list", numbers))
    if isinstance(labels, dict) and labels and _is_reversed(labels):
        numbers = {name: int(number) for number, name in labels.items()}
        raise DataFileError(path, *_no_map("labels", "a map of number to name", numbers))
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
        if name.casefold() == IGNORED:
            raise DataFileError(
                path,
                f"label '{name}' marks pixels that nobody annotated, and a generator would paint "
                "them as tissue",
                "Leave out the cases or slices that hold it, or annotate these pixels; then remove "
                "it from labels. If nothing else is 0, renumber it to 0, and train with "
                "--set masks.unlabelled=true.",
            )
        if isinstance(number, list):
            raise DataFileError(
                path,
                f"label '{name}' is a region, a list of labels",
                f"Give regions_class_order too, as nnU-Net wants it; or name each number of the "
                f"masks. {remedy}",
            )
        if not _is_number(number):
            raise DataFileError(path, f"label '{name}' has the number {shown(number)}", remedy)
        if not 0 <= number <= MAX_LABEL:
            raise DataFileError(
                path,
                f"label '{name}' has the number {shown(number)}, outside 0 to {MAX_LABEL}",
                remedy,
            )
        if name.casefold() == BACKGROUND and number != 0:
            raise DataFileError(
                path,
                f"label '{name}' has the number {number}, and 0 means background everywhere",
                f"Exchange 0 and {number} in labels and in the masks.",
            )
    if len(set(labels.values())) < len(labels):
        raise DataFileError(path, "two labels have the same number", remedy)
    return dict(labels)


def _no_map(key: str, found: str, table: Mapping[str, object]) -> tuple[str, str]:
    """Reason and remedy for a key that holds something else than the map `table`."""
    wanted = json.dumps(dict(list(table.items())[:SHOWN_ENTRIES]), ensure_ascii=False)
    more = ", and so on" if len(table) > SHOWN_ENTRIES else ""
    return f"{key} is {found}", f'Write a map: "{key}": {wanted}{more}.'


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_reversed(labels: Mapping[str, object]) -> bool:
    """Whether labels map numbers to names, as in nnU-Net's version 1."""
    return all(
        number.isdecimal()
        and len(number) < MAX_DIGITS
        and isinstance(name, str)
        and not name.isdecimal()
        for number, name in labels.items()
    )


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
