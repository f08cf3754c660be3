import math

import pytest
import torch

from asyndgan.store import Case, Preparation
from lab.consistency import consistency

LABELS = {"background": 0, "organ": 1, "absent": 2}
GRID = Preparation((16, 16), (1.0, 1.0), (16, 16), (0, 0), (1.0, 1.0), (0.0, 0.0))


def cases(count: int, *, sign: float, seed: int = 0, patients: int = 4) -> list[Case]:
    """Two modalities that rise together within the organ, or against each other."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.zeros(16, 16, dtype=torch.int64)
    mask[4:12, 4:12] = 1
    made = []
    for number in range(count):
        first = torch.rand(16, 16, generator=random) - 0.5
        noise = 0.1 * torch.rand(16, 16, generator=random)
        image = torch.stack([first, sign * first + noise])
        patient = f"p{number % patients}"
        made.append(Case(f"c{number}", patient, image, mask, ("T1", "T2"), GRID))
    return made


def test_modalities_that_go_together_as_in_patients_lie_at_the_floor():
    (found,) = consistency(cases(8, sign=1, seed=1), cases(8, sign=1), LABELS)
    assert (found.label, found.pair) == ("organ", "T1 and T2")
    assert found.real == pytest.approx(found.synthetic, abs=0.01)
    assert found.real > 0.95
    assert found.floor / 2 < found.joint < 2 * found.floor


def test_a_set_is_compared_in_as_many_images_as_half_of_the_patients_have():
    """A histogram of more images is less ragged, and would make any set look better."""
    real = cases(8, sign=1)
    (few,) = consistency(cases(4, sign=1, seed=1), real, LABELS)
    (many,) = consistency(cases(400, sign=1, seed=1), real, LABELS)
    assert many.joint == pytest.approx(few.joint, rel=0.2)


def test_the_images_compared_are_drawn_from_the_whole_set():
    """Sets are ordered by mask and site, so the first images would be those of one site."""
    real, wrong, right = (
        cases(8, sign=sign, seed=seed) for sign, seed in ((1, 0), (-1, 1), (1, 2))
    )
    (wrong_first,) = consistency([*wrong, *right], real, LABELS)
    (right_first,) = consistency([*right, *wrong], real, LABELS)
    assert wrong_first.joint == pytest.approx(right_first.joint, rel=0.3)


def test_modalities_that_go_against_each_other_are_seen_although_each_is_right():
    (found,) = consistency(cases(8, sign=-1, seed=1), cases(8, sign=1), LABELS)
    assert found.synthetic < -0.95
    assert found.joint > 3 * found.floor


def test_a_single_patient_has_no_floor():
    (found,) = consistency(cases(4, sign=1, seed=1), cases(4, sign=1, patients=1), LABELS)
    assert math.isnan(found.floor)
