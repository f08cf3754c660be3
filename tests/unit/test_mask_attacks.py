"""Who holds masks tells whose they are, and finds nobody in masks of strangers."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from asyndgan.arrays import Mask
from asyndgan.auditing.masks import mask_scores, overlaps, segmented
from asyndgan.auditing.membership import Attack, attack
from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.intake.dataset import DataSet
from asyndgan.recipe import ImageSection
from asyndgan.store import Case
from asyndgan.store.augmentation import LIKE_PATIENTS, moved


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """Members, others and strangers: twelve phantom patients each, two slices of a patient."""
    folder = tmp_path_factory.mktemp("phantoms")
    site = replace(DEFAULT_SITES[0], patients=36, slices=2)
    write_phantoms(folder, size=32, sites=[site])
    cases = DataSet(folder / site.name).cases(ImageSection(size=(32, 32)))
    names = sorted({case.patient for case in cases})
    one, two, three = (
        [case for case in cases if names.index(case.patient) % 3 == part] for part in range(3)
    )
    return one, two, three


def moved_once(cases: Sequence[Case]) -> list[Mask]:
    masks = torch.stack([case.mask for case in cases])
    random = torch.Generator().manual_seed(1)
    images = torch.zeros(len(masks), 1, *masks.shape[1:])
    return [*moved(images, masks, replace(LIKE_PATIENTS, flips=(-1,)), random)[1]]


def told(
    members: Sequence[Case], others: Sequence[Case], *held: list[Mask]
) -> list[dict[str, Attack]]:
    """The attacks by name, for each set of masks."""
    of = [dict.fromkeys(case.patient for case in group) for group in (members, others)]
    return [
        {
            name: attack(name, *(np.array([own[one] for one in group]) for group in of))
            for name, own in scores.items()
        }
        for scores in mask_scores(members, others, *held)
    ]


def test_members_are_told_by_their_moved_masks_and_not_by_masks_of_strangers(groups):
    members, others, strangers = groups
    by_own, by_strange = told(members, others, moved_once(members), moved_once(strangers))
    assert by_own["mask"].auc > 0.95
    assert by_own["picture"].alarms
    assert not any(one.tells for one in by_strange.values())


def test_a_mask_is_found_again_wherever_it_lies_however_it_was_turned():
    mask = torch.zeros(48, 64, dtype=torch.int64)
    mask[10:30, 20:28], mask[24:30, 28:40] = 1, 2
    disc = torch.zeros_like(mask)
    disc[16:32, 20:36] = 1
    same = [mask.roll((8, -9), (0, 1)), mask.flip(-1), *moved_once([_case("a", mask)])]
    near = overlaps([mask], [*same, disc])[0]
    assert near[:3].min() > 0.85 > 0.6 > near[3]


def _case(patient: str, mask: Mask, image: torch.Tensor | None = None) -> Case:
    shown = mask[None].float() if image is None else image
    return Case.drawn(patient, shown, mask, ("T1",))


def test_no_forest_judges_a_patient_from_whom_it_learned():
    """Each patient's mask has another label, so a label says from whom a forest learned."""
    square = torch.zeros(16, 16, dtype=torch.int64)
    square[4:12, 4:12] = 1
    image = square[None].float()
    others = [_case(f"other {label}", label * square, image) for label in (1, 2)]
    members = [_case(f"member {place}", square, image) for place in (1, 2)]
    found = segmented(members, others)
    assert [int(mask.max()) for mask in found[2:]] == [2, 1]
    assert {int(mask.max()) for mask in found[:2]} == {1, 2}


def test_a_patient_without_a_label_gets_the_lowest_score(groups):
    members, others, _ = groups
    empty = replace(members[0], patient="empty", mask=torch.zeros(32, 32, dtype=torch.int64))
    (scores,) = mask_scores([*members, empty], others, moved_once(members))
    for own in scores.values():
        assert own["empty"] == min(own.values()) and len(own) == 25
