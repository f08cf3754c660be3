import math
import warnings

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from asyndgan.judging.metrics import (
    bootstrap_interval,
    dice,
    paired_ratio_interval,
    surface_distances,
)

masks = arrays(np.bool_, (8, 6), elements=st.booleans()).map(torch.from_numpy)
spacings = st.tuples(st.floats(0.25, 4), st.floats(0.25, 4))
scores = st.lists(st.floats(0, 1), min_size=2, max_size=30)


@given(masks, masks)
def test_dice_lies_between_zero_and_one_and_does_not_know_which_mask_is_the_truth(first, second):
    value = dice(first, second)
    assert math.isnan(value) == (not first.any() and not second.any())
    if not math.isnan(value):
        assert 0 <= value <= 1
        assert value == dice(second, first)
        assert (value == 1) == torch.equal(first, second)


@given(masks, masks, spacings)
def test_distances_are_symmetric_and_never_beyond_the_diagonal(first, second, spacing):
    ahead = surface_distances(first, second, spacing)
    assert np.allclose(ahead, surface_distances(second, first, spacing), equal_nan=True)
    diagonal = math.hypot(8 * spacing[0], 6 * spacing[1])
    assert all(math.isnan(value) or 0 <= value <= diagonal + 1e-4 for value in ahead)


@given(scores)
def test_an_interval_contains_the_mean_and_stays_in_the_range_of_the_values(values):
    low, high = bootstrap_interval(values, draws=50)
    assert min(values) - 1e-9 <= low <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= high <= max(values) + 1e-9


def coverage(interval, expected, samples):
    """Fraction of the samples whose interval holds the expected value."""
    return np.mean([low <= expected <= high for low, high in map(interval, samples)])


def percentile(values):
    drawn = np.random.default_rng(0).integers(len(values), size=(300, len(values)))
    return np.quantile(np.asarray(values)[drawn].mean(1), [0.025, 0.975])


def test_intervals_of_few_skewed_scores_cover_nearly_as_often_as_they_say():
    scores = np.random.default_rng(7).beta(4, 1, size=(300, 20))  # as Dice: many high, few low
    found = coverage(lambda values: bootstrap_interval(values, draws=300), 0.8, scores)
    assert 0.91 <= found <= 0.97
    assert found >= coverage(percentile, 0.8, scores)
    parts = np.random.default_rng(8).beta(4, 1, size=(300, 20))
    pairs = np.stack([scores * parts, scores], axis=1)
    ratio = coverage(lambda pair: paired_ratio_interval(*pair, draws=300), 0.8, pairs)
    assert 0.91 <= ratio <= 0.97


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, math.nan]), max_size=8), st.data())
def test_an_interval_is_known_wherever_two_patients_count(values, data):
    below = data.draw(st.permutations(values))
    both = [(a, b) for a, b in zip(values, below, strict=True) if not math.isnan(a + b)]
    with warnings.catch_warnings(action="error"):
        low, high = bootstrap_interval(values, draws=50)
        ratio_low, ratio_high = paired_ratio_interval(values, below, draws=50)
    assert math.isnan(low + high) == (sum(not math.isnan(value) for value in values) < 2)
    assert math.isnan(ratio_low + ratio_high) == (len(both) < 2 or not any(b for _, b in both))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.05, 1)), min_size=2, max_size=20))
def test_a_ratio_of_equals_is_one_and_scales_with_its_numerator(pairs):
    above, below = map(list, zip(*pairs, strict=True))
    assert np.allclose(paired_ratio_interval(below, below, draws=50), (1, 1))
    low, high = paired_ratio_interval(above, below, draws=50)
    halved = paired_ratio_interval([value / 2 for value in above], below, draws=50)
    assert np.allclose(halved, (low / 2, high / 2))
