import pytest
import torch

from asyndgan.errors import CohortError
from asyndgan.store import Case, Cohort, derived_seed, drawn_from

LABELS = {0: "background", 1: "lesion"}


def numbered(cases: int, *, flip: bool = False, seed: int = 0) -> Cohort:
    """Image and mask of case k hold k everywhere but in the left column, which holds 0."""
    images = torch.arange(cases).float().reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4) / cases
    images = images.clone()
    masks = torch.arange(cases).reshape(-1, 1, 1).expand(-1, 4, 4).clone()
    images[..., 0], masks[..., 0] = -1, 0
    labels = {number: f"case {number}" for number in range(cases)}
    return Cohort(images, masks, modalities=["T1"], labels=labels, flip=flip, seed=seed)


def drawn(cohort: Cohort, numbers: range, size: int) -> list[int]:
    batches = [cohort.batch(number, size).conditions for number in numbers]
    return torch.cat(batches)[:, 1].max(-1).values.tolist()


def test_every_pass_draws_every_case_once():
    order = drawn(numbered(6), range(9), 2)
    passes = [order[start : start + 6] for start in (0, 6, 12)]
    assert all(sorted(each) == list(range(6)) for each in passes)
    assert len({tuple(each) for each in passes}) > 1


def test_a_batch_is_a_function_of_its_number_alone():
    cohort = numbered(5, flip=True)
    later = cohort.batch(7, 3)
    cohort.batch(0, 3)
    again = numbered(5, flip=True).batch(7, 3)
    assert torch.equal(later.images, again.images)
    assert torch.equal(later.conditions, again.conditions)
    assert sorted(drawn(numbered(2), range(1), 4)) == [0, 0, 1, 1]  # fewer cases than a batch


def test_an_image_and_its_mask_are_mirrored_together():
    batch = numbered(8, flip=True).batch(0, 8)
    left_is_dark = batch.images[:, 0, :, 0].eq(-1).all(-1)
    assert left_is_dark.any()
    assert not left_is_dark.all()
    assert torch.equal(batch.images[:, 0, :, -1].eq(-1).all(-1), ~left_is_dark)
    mask_is_dark = batch.conditions[:, :, 0].eq(0).all(-1)
    chosen = batch.conditions[:, 1].max(-1).values > 0
    assert torch.equal(mask_is_dark[chosen], left_is_dark[chosen])


@pytest.mark.parametrize(
    ("images", "conditions", "modalities", "reason"),
    [
        (torch.zeros(0, 1, 4, 4), torch.zeros(0, 4, 4), ["T1"], "at least one"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(3, 4, 4), ["T1"], "2 images and 3 conditions"),
        (torch.zeros(2, 2, 4, 4), torch.zeros(2, 4, 4), ["T1"], "2 channels came with 1 names"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 5), ["T1"], r"\(4, 4\).*\(4, 5\)"),
        (torch.zeros(2, 1, 4, 4), torch.full((2, 4, 4), -1), ["T1"], r"labels \[-1\]"),
    ],
)
def test_parts_that_do_not_fit_make_no_cohort(images, conditions, modalities, reason):
    with pytest.raises(CohortError, match=reason):
        Cohort(images, conditions.long(), modalities=modalities, labels=LABELS)


def test_a_cohort_of_cases_keeps_their_masks_or_leaves_them_at_the_door():
    cases = [
        Case.drawn(f"c{n}", torch.zeros(1, 4, 4), torch.full((4, 4), n), ("T1",)) for n in (0, 1)
    ]
    labels = {"background": 0, "lesion": 1}
    masks = Cohort.from_cases(cases, labels=labels)
    assert (masks.labels, masks.modalities, masks.space) == (LABELS, ("T1",), (4, 4))
    assert masks.conditions.unique().tolist() == [0, 1]
    assert Cohort.from_cases(cases, labels=labels, condition="none").conditions.tolist() == [0, 0]
    with pytest.raises(CohortError, match="build the cohort in Python"):
        Cohort.from_cases(cases, labels=labels, condition="class")
    with pytest.raises(CohortError, match="no cases"):
        Cohort.from_cases([], labels=labels)


def test_derived_seeds_differ_by_purpose_and_are_the_same_on_every_machine():
    assert len({derived_seed(0, "a"), derived_seed(0, "b"), derived_seed(1, "a")}) == 3
    assert derived_seed(0, "noise", 1) == 3136146697272329583


def test_cases_are_drawn_by_their_weights_and_come_again_by_their_number():
    masks = torch.zeros(20, 8, 8, dtype=torch.int64)
    masks[0] = 1
    weights = torch.ones(20)
    weights[0] = 4
    images = torch.zeros(20, 1, 8, 8)
    cohort = Cohort(images, masks, modalities=["T1"], labels=LABELS, weights=weights)
    drawn, again = (
        torch.cat([cohort.batch(number, 20).conditions for number in range(20)]) for _ in range(2)
    )
    assert 0.1 < (drawn == 1).any((1, 2)).float().mean() < 0.25  # 4 of 23; usual would be 0.05
    assert torch.equal(drawn, again)


def test_the_same_cases_of_other_patients_are_other_members():
    images, masks = torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    alone, together = (
        Cohort(images, masks, modalities=["T1"], labels={0: "background"}, patients=patients)
        for patients in (["a", "b"], ["a", "a"])
    )
    assert alone.digest == together.digest
    assert alone.members != together.members


def test_moved_cases_keep_their_masks_and_come_again_by_their_number():
    masks = torch.zeros(4, 32, 32, dtype=torch.int64)
    masks[:, 8:24, 10:22] = 1
    images = masks[:, None] * 1.6 - 0.8  # a label's pixels are bright

    def cohort(images=images, masks=masks, move=True):
        return Cohort(images, masks, modalities=["T1"], labels=LABELS, move=move)

    moving, again = cohort(), cohort()
    assert cohort(move=False).digest == moving.digest
    seen = []
    for number in range(6):
        batch = moving.batch(number, 2)
        inner = (batch.images[:, 0] > 0) == (batch.conditions == 1)
        assert inner.float().mean() > 0.97  # but for the rim, which is interpolated
        assert batch.images.min() >= -1
        assert torch.equal(batch.images, again.batch(number, 2).images)
        seen += list(batch.conditions)
    assert len({mask.numpy().tobytes() for mask in seen}) == len(seen)
    drawn = drawn_from(masks, 5, torch.Generator().manual_seed(0), flip=False, move=True)
    assert drawn.shape == (5, 32, 32)
    assert len({mask.numpy().tobytes() for mask in drawn}) == 5
    full = cohort(images + 0.3).batch(0, 4).images
    assert full.min() >= -0.5 - 1e-5  # no wedges of black at the rims
    classes = cohort(masks=torch.tensor([0, 1, 0, 1])).batch(0, 4)
    assert sorted(classes.conditions.tolist()) == [0, 0, 1, 1]


def test_label_maps_are_moved_as_whole_labels_and_shown_by_their_shares():
    random = torch.Generator().manual_seed(0)
    maps = torch.randint(3, (6, 1, 16, 16), generator=random)
    images = torch.full((6, 3, 16, 16), -1.0).scatter_(1, maps, 1.0)
    cohort = Cohort(
        images, torch.zeros(6, dtype=torch.int64), modalities=["background", "a", "b"],
        labels={0: "background"}, move=True, maps=True,
    )  # fmt: skip
    shown = cohort.batch(0, 6).images
    assert set((2 * shown).unique().tolist()) == {-2, -1, 0, 1, 2}  # a pixel has four places
    assert shown.shape == (6, 3, 8, 8) and (shown.sum(1) == -1).all()
    assert not torch.equal(shown.sort(0).values, cohort.images.sort(0).values)
