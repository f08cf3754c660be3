"""The Frechet radiomic distance: its definition, and what it sees."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from lab.frd import LEVELS, frechet, radiomics


def waves(count: int, seed: int, *, contrast: float = 0.3, grain: float = 0.1) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    phase, slope = torch.rand(2, count, 2, 1, 1, generator=random)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    images = contrast * torch.sin(rows * (0.2 + slope) + columns / 4 + 6 * phase) - 0.2
    return images + grain * torch.randn(images.shape, generator=random)


def test_the_distance_is_that_of_two_normal_distributions():
    random = torch.Generator().manual_seed(0)
    one = torch.randn(40, 6, generator=random).double()
    other = torch.randn(50, 6, generator=random).double() * 3 + 1
    own, reference = (((f - other.mean(0)) / other.std(0)).numpy() for f in (one, other))
    covered, wanted = np.cov(own.T), np.cov(reference.T)
    root = sqrtm(covered @ wanted).real
    far = np.square(own.mean(0)).sum() + np.trace(covered + wanted - 2 * root)
    assert frechet(one, other) == pytest.approx(far)
    assert frechet(other, other) == pytest.approx(0, abs=1e-9)


def test_features_are_finite_of_any_image_and_count_pairs_in_either_order():
    flat = torch.full((2, 3, 17, 20), -1.0)
    found = radiomics(flat)
    assert found.shape == (2, 300) and found.isfinite().all()
    stripes = torch.ones(1, 1, 8, 8)
    stripes[..., ::2] = -1  # neighbours along a row differ by all levels, those below do not
    contrast = radiomics(stripes)[0, 12]
    assert contrast == pytest.approx(0.75 * (LEVELS - 1) ** 2, rel=0.01)


def test_an_image_has_its_features_whatever_lies_beside_it():
    images = waves(40, 0)
    torch.testing.assert_close(radiomics(images)[33:35], radiomics(images[33:35]))


@pytest.mark.parametrize("change", [{"contrast": 0.4}, {"grain": 0.2}])
def test_other_images_of_the_same_kind_are_nearer_than_brighter_or_grainier_ones(change):
    real, other, changed = (
        radiomics(images) for images in (waves(80, 0), waves(80, 1), waves(80, 2, **change))
    )
    assert 2 * frechet(other, real) < frechet(changed, real)


def test_a_single_image_has_no_distance():
    with pytest.raises(ValueError, match="two images"):
        frechet(radiomics(waves(1, 0)), radiomics(waves(4, 1)))
