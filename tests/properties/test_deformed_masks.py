"""Masks that a generator paints from may be deformed; those that label its images never are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asyndgan.store.augmentation import deformed

SPACES = [(8, 8), (16, 12), (48, 64), (8, 12, 16)]


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.sampled_from(SPACES), st.integers(0, 99), st.floats(0.1, 10))
def test_deformed_masks_hold_no_other_labels_and_depend_on_the_seed_alone(space, seed, by):
    masks = torch.randint(0, 1024, (2, *space), generator=random(seed))
    before = masks.clone()
    found = deformed(masks, by, random(seed))
    assert found.shape == masks.shape
    assert found.dtype == masks.dtype
    assert torch.equal(masks, before)
    for mask, own in zip(found, masks, strict=True):
        assert set(mask.unique().tolist()) <= set(own.unique().tolist())
    assert torch.equal(found, deformed(masks, by, random(seed)))


@pytest.mark.parametrize("space", SPACES)
def test_borders_move_by_about_the_wanted_pixels_along_each_axis(space):
    """Each pixel holds its own place along an axis, so the mask shows where it came from."""
    for axis, side in enumerate(space):
        shape = [side if each == axis else 1 for each in range(len(space))]
        places = torch.arange(side).reshape(1, *shape).expand(256, *space)
        still = deformed(places, 1e-4, random(0))
        assert torch.equal(still, places)
        inside = torch.zeros(256, *space, dtype=torch.bool)
        inside.narrow(axis + 1, 2, side - 4).fill_(True)  # at the edge it lies beyond
        far = (deformed(places, 1.0, random(1)) - places)[inside].float()
        assert abs(float(far.mean())) < 0.2
        assert 0.4 < float(far.std()) < 1.2


@pytest.mark.parametrize("space", [(16, 16), (8, 16, 16)])
def test_a_label_is_deformed_smoothly(space):
    masks = torch.zeros(8, *space, dtype=torch.long)
    masks[..., 4:12, 4:12] = 1
    found = deformed(masks, 1.5, random(0))
    assert not torch.equal(found, masks)
    middle = found[..., 7:9, 7:9]
    assert float(middle.float().mean()) > 0.95
    assert not torch.equal(found[0], found[1])
