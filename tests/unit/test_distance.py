"""The distance between moments of features, by which a run selects its generator."""

import pytest
import torch

from asyndgan.models.features import Features


def test_features_are_the_same_on_every_call_and_fit_their_size() -> None:
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    first, second = Features(3), Features(3)
    assert torch.equal(first(images), second(images))
    assert first(images).shape == (2, first.size)
