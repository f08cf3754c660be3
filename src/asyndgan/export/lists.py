"""Lists of a data set's cases, by which other tools load it."""

import json
import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from asyndgan.intake.readers import READERS, lossless

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
    about = json.loads((folder / "dataset.json").read_text("utf-8"))
    ending, channels = about["file_ending"], about["channel_names"]
    masks_end = about.get("mask_ending", lossless(ending))
    images: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for path in sorted((folder / "imagesTr").iterdir()):
        case, _, number = path.name.removesuffix(ending).rpartition("_")
        images[case][channels[str(int(number))]] = f"imagesTr/{path.name}"
    masks = {
        path.name.removesuffix(masks_end): f"labelsTr/{path.name}"
        for path in (folder / "labelsTr").glob("*")
    }
    alone = all(len(each) == 1 for each in images.values())
    parts = folds(groups)
    fold_of = {case: {"fold": number} for number, part in enumerate(parts) for case in part["val"]}
    listed, rows = [], []
    for case in sorted(groups):
        paths = [*images[case].values()]
        entry = {"image": paths[0] if alone else paths, "label": masks.get(case)}
        listed.append({key: value for key, value in entry.items() if value} | fold_of.get(case, {}))
        columns = (
            {"image": paths[0]}
            if alone
            else {f"image_{name}": images[case].get(name) for name in channels.values()}
        )
        files = columns | {"mask": masks.get(case)}
        rows.append({"case": case, **{f"{name}_file_name": file for name, file in files.items()}})
    texts = {MONAI_FILE: json.dumps({"training": listed}, indent=1)}
    if parts:
        texts[SPLITS_FILE] = json.dumps(parts, indent=1)
    if not READERS[ending].volumes:
        texts[TABLE_FILE] = "\n".join(map(json.dumps, rows))
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", "utf-8")
