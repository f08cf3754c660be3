"""Tests of the folds that go with a synthetic set."""

import json

import pytest

from asyndgan.export.writing import SPLITS_FILE, folds, write_folds


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


def test_a_single_group_has_no_folds(tmp_path):
    write_folds(tmp_path, {"a_d0": "a", "a_d1": "a"})
    assert not list(tmp_path.iterdir())
    write_folds(tmp_path, {"a": "a", "b": "b"})
    assert len(json.loads((tmp_path / SPLITS_FILE).read_text())) == 2
