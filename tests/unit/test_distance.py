"""The distance between moments of features, by which a run selects its generator."""

import pytest
import torch

from asyndgan.models.features import Features, Moments, distance


def test_moments_of_parts_add_up_to_those_of_the_whole() -> None:
    features = Features(2)
    random = torch.Generator().manual_seed(0)
    values, others = (features(torch.rand(30, 2, 32, 32, generator=random)) for _ in range(2))
    reference = Moments.of(others)
    parts = [Moments.of(part) for part in values.split([7, 20, 3])]
    together = sum(parts[1:], parts[0])
    whole = distance(Moments.of(values), reference)
    assert distance(together, reference) == pytest.approx(whole, rel=1e-9)
    shares = [part.weighing(part.count / 30) for part in parts]
    assert distance(sum(shares[1:], shares[0]), reference) == pytest.approx(whole, rel=1e-9)


def test_clipping_bounds_what_one_image_adds() -> None:
    features = Features(1)(torch.rand(3, 1, 32, 32))
    clipped = Moments.of(torch.cat([features, 1e6 * features[:1]]), clip=2.0)
    assert float(clipped.total.norm()) <= 4 * 2.0
    assert clipped.count == 4


def test_features_are_the_same_on_every_call_and_fit_their_size() -> None:
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    first, second = Features(3), Features(3)
    assert torch.equal(first(images), second(images))
    assert first(images).shape == (2, first.size)
