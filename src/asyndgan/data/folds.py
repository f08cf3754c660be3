"""Folds for nnU-Net's cross-validation that keep together what shares a mask or a patient.

nnU-Net draws folds by case (`generate_crossval_split`), so that one of several images of a mask
would be trained on and another one validated on.
"""

import json
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter

from asyndgan.data.readers import DataFileError
from asyndgan.texts import bounded_text, parsed_json

SPLITS_FILE: Final = "splits_final.json"
"""nnU-Net's planner takes it from the folder of the data set."""

FOLDS: Final = 5

MOST_FOLDS: Final = 2**28
"""Largest file of folds in bytes: each fold names every case."""


Fold = dict[Literal["train", "val"], list[str]]
"""The cases of one fold."""

_FOLDS: Final = TypeAdapter(list[Fold])


def folds(groups: Mapping[str, str]) -> list[Fold]:
    """Cases for training and for validation in each of five folds, as nnU-Net wants them.

    Args:
        groups: the group of each case, by the case's name. Cases of a group share a fold.

    Returns:
        As many folds as there are groups, but at most five; none if there is only one group.
    """
    names = sorted(set(groups.values()))
    random.Random(0).shuffle(names)  # noqa: S311  (no secret; neighbours often share a patient)
    if len(names) < 2:
        return []
    found: list[Fold] = []
    for fold in range(min(FOLDS, len(names))):
        own = set(names[fold::FOLDS])
        found.append(
            {
                "train": sorted(case for case, group in groups.items() if group not in own),
                "val": sorted(case for case, group in groups.items() if group in own),
            }
        )
    return found


def write_folds(folder: Path, groups: Mapping[str, str]) -> None:
    """Writes `splits_final.json` into a data set, unless all of its cases are one group."""
    store_folds(folder, folds(groups))


def store_folds(folder: Path, found: Sequence[Fold]) -> None:
    """Writes these folds into a data set as `splits_final.json`; none: no file."""
    if found:
        (folder / SPLITS_FILE).write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def read_folds(folder: Path, cases: Collection[str]) -> list[Fold]:
    """The folds of a data set, which may come from another party; none if it has no file of them.

    Raises:
        DataError: `splits_final.json` holds anything but folds of these cases.
    """
    path, known = folder / SPLITS_FILE, {*cases}
    if not path.exists():
        return []
    try:
        found = _FOLDS.validate_python(parsed_json(bounded_text(path, MOST_FOLDS)))
        if any(not known.issuperset(part) for fold in found for part in fold.values()):
            raise ValueError
    except (OSError, ValueError) as error:
        raise DataFileError(
            path,
            "holds anything but folds of this data set's cases",
            'Write a list of {"train": [CASES], "val": [CASES]}, or remove the file.',
        ) from error
    return found
