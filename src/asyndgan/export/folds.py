"""Folds for nnU-Net's cross-validation that keep together what shares a mask or a patient.

nnU-Net draws folds by case (`generate_crossval_split`), so that one of several images of a mask
would be trained on and another one validated on.
"""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

SPLITS_FILE: Final = "splits_final.json"
"""nnU-Net's planner takes it from the folder of the data set."""

FOLDS: Final = 5

Fold = dict[Literal["train", "val"], list[str]]
"""The cases of one fold."""


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
    if found := folds(groups):
        (folder / SPLITS_FILE).write_text(json.dumps(found, indent=1) + "\n", "utf-8")
