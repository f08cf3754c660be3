import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from asyndgan.judging.metrics import (
    prepared_spacing,
    score_patients,
    surface_distances,
)
from asyndgan.store.case import Preparation
from asyndgan.store.prepared import Case
from lab.views import ratio_over_trainings

STORED = Preparation((32, 32), (1.0, 1.0), (32, 32), (0, 0), (1.0,), (0.0,))
VOLUME = Preparation((3, 32, 32), (9.0, 1.0, 1.0), (3, 32, 32), (0, 0, 0), (1.0,), (0.0,))
DIAGONAL = math.hypot(32, 32)


def square(row, column, side, size=32):
    mask = torch.zeros(size, size, dtype=torch.int64)
    mask[row : row + side, column : column + side] = 1
    return mask


def case(mask, patient="p", preparation=STORED):
    image = torch.zeros(1, *mask.shape)
    return Case(f"{patient}_0", patient, image, mask, ("T1",), preparation)


EMPTY = square(0, 0, 0)


def test_distances_of_concentric_squares_match_a_hand_count():
    # The inner contour is one pixel inside the outer one. Every inner pixel lies 1 from the outer
    # contour; of the outer contour's 16 pixels the 4 corners lie sqrt(2) from the inner one.
    outer, inner = square(4, 4, 5) == 1, square(5, 5, 3) == 1
    hd95, assd = surface_distances(outer, inner, (1.0, 1.0))
    assert hd95 == pytest.approx(math.sqrt(2))
    assert assd == pytest.approx((12 + 4 * math.sqrt(2) + 8) / 24)


def test_slices_of_a_patient_are_pooled_before_dice_is_taken():
    truth = [case(square(0, 0, 8)), case(square(0, 0, 2))]
    predicted = torch.stack([square(0, 0, 8), EMPTY])
    score = score_patients(truth, predicted, 1)["p"]
    assert score.dice == pytest.approx(2 * 64 / (68 + 64))


def test_distances_are_averaged_over_slices_where_a_mask_is_not_empty():
    truth = [case(square(4, 4, 1)), case(EMPTY), case(square(0, 0, 2))]
    predicted = torch.stack([square(4, 6, 1), EMPTY, EMPTY])
    score = score_patients(truth, predicted, 1)["p"]
    assert score.hd95 == pytest.approx((2 + DIAGONAL) / 2)
    assert score.assd == pytest.approx((2 + DIAGONAL) / 2)


@pytest.mark.parametrize(("predicted", "alarm"), [(EMPTY, 0), (square(3, 3, 4), 1)])
def test_a_patient_without_the_label_has_no_dice_whatever_is_predicted(predicted, alarm):
    score = score_patients([case(EMPTY)], predicted[None], 1)["p"]
    assert all(math.isnan(value) for value in (score.dice, score.hd95, score.assd))
    assert score.false_alarm == alarm


def test_a_label_that_is_not_found_counts_as_a_miss_whatever_else_is_found():
    for found in (EMPTY, square(3, 3, 4)):
        score = score_patients([case(2 * square(3, 3, 4))], found[None], 2)["p"]
        assert score.dice == 0 and math.isnan(score.false_alarm)
        assert score.hd95 == score.assd == pytest.approx(DIAGONAL)


def test_spacing_follows_the_image_to_its_prepared_size():
    halved = Preparation((64, 32), (0.5, 2.0), (32, 32), (0, 0), (1.0,), (0.0,))
    assert prepared_spacing(halved) == (1.0, 2.0)
    truth = [case(square(4, 4, 1), preparation=halved)]
    score = score_patients(truth, square(4, 7, 1)[None], 1)["p"]
    assert score.hd95 == pytest.approx(6.0)


def test_a_volume_is_scored_whole():
    slices = [square(4, 4, 6), square(4, 4, 2), EMPTY]
    found = [square(4, 5, 6), EMPTY, EMPTY]
    of_slices = score_patients([case(mask) for mask in slices], torch.stack(found), 1)
    volume = replace(case(torch.stack(slices)), preparation=VOLUME)
    of_volume = score_patients([volume], torch.stack(found)[None], 1)
    assert of_slices["p"].dice == of_volume["p"].dice
    # The square that was not found is a slice away from the surface that was.
    assert of_volume["p"].hd95 == pytest.approx(9.0, abs=0.5)


def test_an_interval_over_trainings_is_wider_the_more_generators_differ():
    random = np.random.default_rng(0)
    real = np.tile(random.uniform(0.6, 0.9, 30), (2, 1))
    alike = np.tile(0.9 * real, (3, 1, 1))
    low, high = ratio_over_trainings(alike, real)
    assert (low, high) == pytest.approx((0.9, 0.9))  # each patient is drawn with its real Dice
    differing = alike * np.array([0.9, 1.0, 1.1])[:, None, None]
    low, high = ratio_over_trainings(differing, real)
    # The mean of three draws: the least and the greatest of the three have 1/27 each. They are
    # moved apart as far as three generators lie nearer to their mean than to the true one.
    far = 0.09 * math.sqrt(3 / 2)
    assert (low, high) == pytest.approx((0.9 - far, 0.9 + far), abs=0.001)
    assert (low, high) == ratio_over_trainings(differing, real)
