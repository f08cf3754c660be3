"""Lists that go with a synthetic set: folds, and what other tools load it by."""

import json

import numpy as np
import pytest
from monai.data import load_decathlon_datalist
from monai.transforms import LoadImaged
from PIL import Image

from asyndgan.export.lists import SPLITS_FILE, TABLE_FILE, folds, write_lists
from asyndgan.export.writing import write_dataset
from asyndgan.store.case import RawCase


@pytest.mark.parametrize("groups", [2, 3, 5, 23])
def test_folds_validate_every_case_once_and_never_share_a_group(groups):
    group_of = {f"m{number}_d{draw}": f"m{number}" for number in range(groups) for draw in range(3)}
    found = folds(group_of)
    assert len(found) == min(5, groups)
    assert sorted(case for fold in found for case in fold["val"]) == sorted(group_of)
    for fold in found:
        assert sorted([*fold["train"], *fold["val"]]) == sorted(group_of)
        train, val = ({group_of[case] for case in fold[part]} for part in ("train", "val"))
        assert train
        assert val
        assert not train & val
    sizes = [len(fold["val"]) for fold in found]
    assert max(sizes) - min(sizes) <= 3


def a_set(folder, modalities, *names, ending=".png"):
    rows = np.arange(20.0, dtype=np.float32).reshape(4, 5)
    images = {name: rows + 30 * place for place, name in enumerate(modalities)}
    cases = (RawCase(name, name, images, (rows > 9).astype(int), (1.0, 1.0)) for name in names)
    write_dataset(
        folder, cases, modalities=modalities, labels={"background": 0, "lesion": 1}, name="set",
        file_ending=ending,
    )  # fmt: skip
    return folder


def test_a_single_group_has_no_folds(tmp_path):
    write_lists(a_set(tmp_path / "one", ["T1"], "a_d0", "a_d1"), {"a_d0": "a", "a_d1": "a"})
    assert not (tmp_path / "one" / SPLITS_FILE).exists()
    write_lists(a_set(tmp_path / "two", ["T1"], "a", "b"), {"a": "a", "b": "b"})
    assert len(json.loads((tmp_path / "two" / SPLITS_FILE).read_text())) == 2


@pytest.mark.parametrize(
    ("modalities", "ending", "columns"),
    [
        (["T1"], ".png", {"image": "0000"}),
        (["R", "G", "B"], ".png", {"image": "0000"}),
        (["T1", "T2 (fat)"], ".png", {"image_T1": "0000", "image_T2 (fat)": "0001"}),
        (["T1", "T2"], ".nii.gz", None),
    ],
)
def test_monai_and_a_table_of_pictures_find_every_image_with_its_mask(
    modalities, ending, columns, tmp_path
):
    folder = a_set(tmp_path / "set", modalities, "b.2", "a_1", ending=ending)
    write_lists(folder, {"b.2": "b", "a_1": "a"})
    listed = load_decathlon_datalist(folder / "datalist.json", True, "training")
    assert {(case["fold"], case["label"].rsplit("/")[-1]) for case in listed} in (
        {(0, f"a_1{ending}"), (1, f"b.2{ending}")}, {(1, f"a_1{ending}"), (0, f"b.2{ending}")},
    )  # fmt: skip
    for case in listed:
        loaded = LoadImaged(["image", "label"], ensure_channel_first=True)(case)
        assert loaded["image"].shape[0] == len(modalities)
        assert loaded["image"].shape[1:3] == loaded["label"].shape[1:3]
        assert float(loaded["label"].max()) == 1
    assert (folder / TABLE_FILE).exists() == (columns is not None)
    if columns:
        rows = [json.loads(line) for line in (folder / TABLE_FILE).read_text().splitlines()]
        assert rows[0] == {
            "case": "a_1", "mask_file_name": f"labelsTr/a_1{ending}",
            **{f"{name}_file_name": f"imagesTr/a_1_{n}{ending}" for name, n in columns.items()},
        }  # fmt: skip
        assert len(rows) == 2


def test_masks_of_another_ending_than_the_images_are_found(tmp_path):
    folder = a_set(tmp_path / "set", ["T1"], "a", "b", ending=".tif")
    for path in (folder / "labelsTr").iterdir():
        with Image.open(path) as mask:
            mask.save(path.with_suffix(".png"))
        path.unlink()
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(about | {"mask_ending": ".png"}))
    write_lists(folder, {"a": "a", "b": "b"})
    listed = json.loads((folder / "datalist.json").read_text())["training"]
    assert [case["label"] for case in listed] == ["labelsTr/a.png", "labelsTr/b.png"]
    rows = [json.loads(line) for line in (folder / TABLE_FILE).read_text().splitlines()]
    assert [row["mask_file_name"] for row in rows] == ["labelsTr/a.png", "labelsTr/b.png"]
