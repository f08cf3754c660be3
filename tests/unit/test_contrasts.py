"""Training images of random contrasts, which no generator paints."""

import pytest
import torch

from asyndgan.painting.sets import MOVED
from asyndgan.painting.synthesise import shown
from asyndgan.store import Case
from lab.contrasts import contrast_set, contrasted

LABELS = {"background": 0, "head": 1, "lesion": 2}
MODALITIES = ("T1", "T2", "FLAIR")


@pytest.fixture
def mask():
    mask = torch.zeros(32, 32, dtype=torch.int64)
    mask[6:26, 8:24] = 1
    mask[10:16, 10:16] = 2
    return mask


def same(one: list[Case], other: list[Case]) -> bool:
    return all(torch.equal(a.image, b.image) for a, b in zip(one, other, strict=True))


def test_equal_seeds_paint_equal_images_of_masks_that_are_moved_as_others_are(mask, tiny):
    recipe, masks = tiny("image.size=32"), [("a", mask), ("b", mask.flip(0))]
    first, again, other = (list(contrasted(masks, recipe, MODALITIES, n)) for n in (3, 3, 4))
    assert same(first, again) and not same(first, other)
    assert [case.name for case in first] == ["a", "b", "a_d0", "b_d0", "a_d1", "b_d1"]
    painted = [
        one
        for about in ({}, {"draws": MOVED, "move": True, "seed": 1})
        for _, _, conditions in shown(masks, recipe, **about)
        for one in conditions
    ]
    for own in (first, other):
        assert all(torch.equal(c.mask, m) for c, m in zip(own, painted, strict=True))


def test_a_set_is_painted_once_from_masks_alone_and_anew_from_others(mask, tiny, tmp_path):
    recipe, masks = tiny("image.size=32"), [("a", mask), ("b", mask.flip(0))]

    def paint(seed=0, of=masks):
        return contrast_set(
            of, recipe, tmp_path, modalities=MODALITIES, labels=LABELS, seed=seed
        ).folder

    folder = paint()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert paint() == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert len({folder, paint(seed=1), paint(of=masks[::-1])}) == 3
    data = contrast_set(masks, recipe, tmp_path, modalities=MODALITIES, labels=LABELS, seed=0)
    assert data.info.synthetic
    read = {case.name: case for case in data.cases(recipe.image, MODALITIES, synthetic=True)}
    drawn = {case.name: case for case in contrasted(masks, recipe, MODALITIES, 0)}
    assert read.keys() == drawn.keys()
    for name, case in drawn.items():
        assert torch.equal(read[name].mask, case.mask)
        torch.testing.assert_close(read[name].image, case.image, atol=1 / 255, rtol=0)
