"""Synthetic sets beyond their masks: regions exchanged, contradicting cases left out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asyndgan.arrays import Mask
from asyndgan.data import Case, Preparation
from asyndgan.errors import DataError
from asyndgan.judging.agreement import agreeing
from asyndgan.judging.segmentation import SegmentationBudget
from asyndgan.painting.recombine import recombined

LABELS = {"background": 0, "head": 1, "lesion": 2}


def head(top: int, left: int, side: int, lesion: tuple[int, int, int] | None) -> Mask:
    mask = torch.zeros(32, 32, dtype=torch.int64)
    mask[top : top + side, left : left + side] = 1
    if lesion:
        row, column, size = lesion
        mask[row : row + size, column : column + size] = 2
    return mask


def test_a_lesion_comes_to_the_same_place_of_another_head_in_proportion() -> None:
    large, small = head(0, 0, 32, (16, 16, 8)), head(8, 8, 16, None)
    for seed in range(20):
        (_, first), (name, second) = recombined([("a", large), ("b", small)], 2, seed=seed)
        assert name == "b"
        assert torch.equal(first == 0, large == 0)  # a lesion that left is filled with head
        assert torch.equal(second == 0, small == 0)
        if (second == 2).any():
            rows, columns = torch.where(second == 2)
            assert 15 <= rows.min() <= 17
            assert 15 <= columns.min() <= 17
            assert (rows.max() - rows.min() + 1) in (4, 5)
            return
    pytest.fail("no lesion was transplanted in twenty tries")


def test_a_region_that_would_lie_outside_stays_away() -> None:
    notched = head(0, 0, 32, None)
    notched[10:22, 10:22] = 0  # where the donor has its lesion there is no head
    for seed in range(10):
        _, (_, mask) = recombined(
            [("a", head(0, 0, 32, (14, 14, 4))), ("b", notched)], 2, seed=seed
        )
        assert torch.equal(mask, notched)


def test_masks_of_one_label_exchange_its_regions_without_merging_them() -> None:
    random = torch.Generator().manual_seed(0)
    masks: list[tuple[str, Mask]] = []
    for number in range(6):
        mask = torch.zeros(32, 32, dtype=torch.int64)
        for _ in range(4):
            row, column = torch.randint(0, 28, (2,), generator=random).tolist()
            mask[row : row + 4, column : column + 4] = 1
        masks.append((str(number), mask))
    mixed = recombined(masks, 1, seed=3)
    assert sum(not torch.equal(a, b) for (_, a), (_, b) in zip(masks, mixed, strict=True)) >= 4
    assert all(set(mask.unique().tolist()) <= {0, 1} for _, mask in mixed)
    assert recombined(masks, 1, seed=3)[0][1].equal(mixed[0][1])


def test_a_mask_that_is_all_one_label_is_no_trouble() -> None:
    full = torch.full((32, 32), 2)
    (_, mask), _ = recombined([("full", full), ("head", head(0, 0, 32, None))], 2)
    assert set(mask.unique().tolist()) <= {0, 2}


def case(number: int, *, honest: bool) -> Case:
    mask = head(2, 2, 28, (6 + number % 12, 8 + number % 9, 7))
    image = torch.full((1, 32, 32), -1.0)
    image[0, mask == 1] = -0.2
    image[0, (mask if honest else mask.flip(0).flip(1)) == 2] = 0.8
    preparation = Preparation((32, 32), (1.0, 1.0), (32, 32), (0, 0), (1.0,), (0.0,))
    return Case(f"north_s-c{number:05d}_d0", "everybody", image, mask, ("T1",), preparation)


def test_cases_whose_image_contradicts_the_mask_are_left_out(tmp_path: Path) -> None:
    cases = [case(number, honest=number % 8 != 0) for number in range(32)]
    healthy = [replace(c, name=f"{c.name[:-3]}9_d0", mask=c.mask.clamp(max=1)) for c in cases[:4]]
    kept = agreeing(
        [*cases, *healthy], 0.125, label="lesion", labels=LABELS, cache=tmp_path,
        budget=SegmentationBudget(steps=120, rotation=5.0),
    )  # fmt: skip
    # Healthy cases are not ranked: a speck of false alarm would count as much as a lost lesion.
    wanted = [c.name for n, c in enumerate(cases) if n % 8] + [c.name for c in healthy]
    assert [c.name for c in kept] == wanted


def test_nothing_is_trained_when_nothing_is_to_be_left_out(tmp_path: Path) -> None:
    cases = [case(0, honest=True)]
    budget = SegmentationBudget(steps=1)
    assert agreeing(cases, 0.0, label="lesion", labels=LABELS, budget=budget, cache=tmp_path) == (
        cases
    )
    with pytest.raises(DataError, match="two masks"):
        agreeing(cases, 0.5, label="lesion", labels=LABELS, budget=budget, cache=tmp_path)
