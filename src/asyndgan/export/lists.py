"""Lists of a data set's cases, by which other tools load it."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from asyndgan.intake.dataset import DataSet

SPLITS_FILE: Final = "splits_final.json"
"""nnU-Net's planner takes it from the folder of the data set."""

MONAI_FILE: Final = "datalist.json"
"""What `monai.data.load_decathlon_datalist` reads, with the fold of each case."""

TABLE_FILE: Final = "metadata.jsonl"
"""What `datasets.load_dataset` of Hugging Face reads of a folder of pictures."""

FOLDS: Final = 5

Fold = dict[Literal["train", "val"], list[str]]
"""The cases of one fold."""


def folds(groups: Mapping[str, str]) -> list[Fold]:
    """Cases for training and for validation in each of five folds, as nnU-Net wants them.

    Cases of a group share a fold; nnU-Net itself would part images of one mask. There are as many
    folds as groups, but at most five; none of one group.
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


def write_lists(folder: Path, groups: Mapping[str, str]) -> None:
    """Writes the lists of a data set into its folder.

    `groups` has the group of each case that is listed. A single group gets no folds. Volumes get no
    table: Hugging Face would read each as one picture.
    """
    data, parts = DataSet(folder), folds(groups)
    modalities, cases = data.info.modalities, [case for case in data.files if case.name in groups]
    alone = all(len(case.images) == 1 for case in cases)
    fold_of = {case: {"fold": number} for number, part in enumerate(parts) for case in part["val"]}
    listed, rows = [], []
    for case in cases:
        images = {number: str(path.relative_to(folder)) for number, path in case.images.items()}
        mask = str(case.mask.relative_to(folder)) if case.mask else None
        paths = [*images.values()]
        entry = {"image": paths[0] if alone else paths, "label": mask}
        told = {key: value for key, value in entry.items() if value}
        listed.append(told | fold_of.get(case.name, {}))
        columns = {f"image_{name}": images.get(place) for place, name in enumerate(modalities)}
        files = ({"image": paths[0]} if alone else columns) | {"mask": mask}
        named = {f"{name}_file_name": file for name, file in files.items()}
        rows.append({"case": case.name, **named})
    texts = {MONAI_FILE: json.dumps({"training": listed}, indent=1)}
    if parts:
        texts[SPLITS_FILE] = json.dumps(parts, indent=1)
    if not data.of_volumes:
        texts[TABLE_FILE] = "\n".join(map(json.dumps, rows))
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", "utf-8")
