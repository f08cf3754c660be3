"""Channels last: quicker, and the same numbers."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from asyndgan.models import Sizes, build_discriminator, build_generator
from asyndgan.models.layout import ImageNorm, channels_last
from asyndgan.recipe import OptimiserSection, Recipe
from asyndgan.runs import load_recipe
from asyndgan.training.objective import adam


def plain(network: nn.Module) -> nn.Module:
    """The same network with torch's own norms and layout, and the same weights."""
    for module in list(network.modules()):
        for name, norm in module.named_children():
            if isinstance(norm, ImageNorm):
                own = nn.InstanceNorm2d(norm.num_features, eps=norm.eps, affine=norm.affine)
                own.weight, own.bias = norm.weight, norm.bias
                setattr(module, name, own)
    network._forward_pre_hooks.clear()
    return network


@pytest.mark.parametrize("kind", ["resnet", "topdown"])
def test_a_generator_with_channels_last_paints_and_learns_the_same(kind: str) -> None:
    parts = [f"generator.kind={kind}", "generator.width=8"]
    recipe = Recipe.from_toml("", parts)
    torch.manual_seed(0)
    generator = build_generator(recipe, Sizes(3, 2)).double()
    assert any(isinstance(module, ImageNorm) for module in generator.modules())
    assert all(weights.is_contiguous() for weights in generator.parameters())
    maps, noise = torch.randn(3, 3, 32, 32), torch.randn(3, recipe.generator.noise, 32, 32)
    inputs = maps.double(), noise.double()
    results = []
    for network in (generator, plain(copy.deepcopy(generator))):
        images = network(*inputs)
        pull = torch.linspace(-1, 1, images.numel()).reshape(images.shape)
        gradients = torch.autograd.grad((images * pull).sum(), list(network.parameters()))
        results.append((images, gradients))
    (images, gradients), (others, expected) = results
    torch.testing.assert_close(images, others)
    for own, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(
            own, other, atol=1e-10 + 1e-7 * float(other.abs().max()), rtol=1e-7
        )


@pytest.mark.parametrize(
    "overrides",
    [
        ["discriminator.kind=patch", "loss.segmentation=0"],
        ["discriminator.kind=patch_segmentation", "loss.segmentation=1"],
    ],
)
def test_a_discriminator_with_channels_last_judges_the_same(overrides: list[str]) -> None:
    recipe = Recipe.from_toml("", overrides)
    network = build_discriminator(recipe, Sizes(3, 2))
    assert any(isinstance(module, ImageNorm) for module in network.modules())
    images, maps = torch.randn(3, 2, 64, 64), torch.rand(3, 3, 64, 64)
    own, other = (one(images, maps) for one in (network, plain(copy.deepcopy(network))))
    for name in ("score", "segmentation"):
        found, expected = getattr(own, name), getattr(other, name)
        assert (found is None) == (expected is None)
        if found is not None:
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_every_norm_has_channels_last_whatever_a_network_does_before_it() -> None:
    recipe = load_recipe("paper", ["generator.blocks=2"])
    generator = build_generator(recipe, Sizes(3, 1))
    seen = []
    for module in generator.modules():
        if isinstance(module, ImageNorm):
            module.register_forward_hook(lambda *given: seen.append(given[-1]))
    generator(torch.rand(2, 3, 32, 32), torch.zeros(2, 0, 32, 32))
    assert seen
    assert all(maps.is_contiguous(memory_format=torch.channels_last) for maps in seen)


def test_a_network_that_norms_slice_by_slice_is_left_to_do_so() -> None:
    class Slices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.InstanceNorm2d(2)

        def forward(self, volume: torch.Tensor) -> torch.Tensor:
            return torch.stack([self.norm(own) for own in volume.unbind(2)], 2)

    volume = torch.randn(1, 2, 3, 8, 8)
    torch.testing.assert_close(channels_last(Slices())(volume), Slices()(volume))


def test_an_image_norm_is_torchs_instance_norm_at_every_image() -> None:
    norm = ImageNorm(5, affine=True)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    images = torch.randn(4, 5, 6, 7) * torch.arange(1, 5).reshape(4, 1, 1, 1)
    expected = nn.functional.instance_norm(images, weight=norm.weight, bias=norm.bias)
    last = norm(images.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, expected)
    torch.testing.assert_close(norm(images), expected)


def test_norms_that_remember_and_networks_without_instance_norms_stay_as_they_are() -> None:
    remembering = nn.Sequential(nn.InstanceNorm2d(2, track_running_stats=True))
    assert type(channels_last(remembering)[0]) is nn.InstanceNorm2d
    grouped = channels_last(nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)))
    assert not grouped._forward_pre_hooks


def test_a_private_discriminator_keeps_the_norms_that_opacus_knows() -> None:
    for kind, quick in (("none", True), ("discriminator", False)):
        sets = [f"privacy.kind={kind}", "discriminator.kind=patch"]
        if kind == "discriminator":
            sets += ["discriminator.cross_fitted=false"]
            sets += ["privacy.patients=4", "privacy.noise=1", "privacy.conditions=unprotected"]
        network = build_discriminator(Recipe.from_toml("", sets), Sizes(3, 1))
        assert any(isinstance(module, ImageNorm) for module in network.modules()) is quick


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_optimiser_pairs_gradients_with_weights_however_they_lie_in_memory(
    layout: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    networks = [nn.Conv2d(3, 4, 3) for _ in range(2)]
    networks[0].to(memory_format=layout)
    networks[1].load_state_dict(networks[0].state_dict())
    own = adam(networks[0], OptimiserSection(), 0.1)
    torchs = torch.optim.Adam(networks[1].parameters(), lr=0.1, betas=own.param_groups[0]["betas"])
    for _ in range(3):
        gradient = torch.randn(4, 3, 3, 3)
        networks[0].weight.grad = gradient.contiguous(memory_format=torch.channels_last)
        networks[1].weight.grad = gradient.clone()
        own.step()
        torchs.step()
    torch.testing.assert_close(networks[0].weight, networks[1].weight)


def test_a_site_trains_without_importing_what_takes_longer_than_torch_itself() -> None:
    code = (
        "import sys, torch, asyndgan.engines.processes; "
        "from asyndgan.models import Sizes, build_discriminator; "
        "from asyndgan.recipe import OptimiserSection, Recipe; "
        "from asyndgan.training.objective import adam, update; "
        "network = build_discriminator(Recipe(name='x'), Sizes(3, 1)); "
        "optimiser = adam(network, OptimiserSection(), 0.1); "
        "verdict = network(torch.rand(1, 1, 32, 32), torch.rand(1, 3, 32, 32)); "
        "update(optimiser, verdict.score.sum()); "
        "optimiser.load_state_dict(optimiser.state_dict()); "
        "sys.exit(str({'monai', 'opacus', 'torch._dynamo'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"
