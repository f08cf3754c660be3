from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from asyndgan.errors import RecipeError
from asyndgan.models import Sizes
from asyndgan.models.generators import within_range
from asyndgan.models.parts import (
    build_discriminator,
    build_generator,
    condition_channels,
    condition_maps,
    draw_noise,
    site_noise,
)
from asyndgan.models.shifts import Disturbance, disturbed
from asyndgan.recipe import Recipe
from asyndgan.training import Site

MakeRecipe = Callable[..., Recipe]
RESNET = ("generator.kind=resnet", "generator.noise=0")
GENERATORS = ["resnet", "topdown"]


def maps_of(kind: str, space: tuple[int, ...], b: int = 2, labels: int = 3) -> torch.Tensor:
    shape = (b, *space) if kind == "mask" else (b,)
    condition = torch.randint(labels, shape, generator=torch.Generator().manual_seed(3))
    return condition_maps(condition, kind=kind, labels=labels, space=space)


def noise_of(space: tuple[int, ...], b: int = 2, channels: int = 2) -> torch.Tensor:
    return draw_noise(b, channels, space, torch.Generator().manual_seed(5))


def generator_of(
    tiny: MakeRecipe, kind: str, space: tuple[int, ...], condition: str = "mask"
) -> nn.Module:
    torch.manual_seed(0)
    noise = 0 if kind == "resnet" else 2
    return build_generator(
        tiny("image.size=32", f"generator.kind={kind}", f"generator.noise={noise}"),
        Sizes(condition_channels(condition, 3), 2, len(space)),
    )


def discriminator_of(tiny: MakeRecipe, kind: str, space: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    recipe = tiny(f"discriminator.kind={kind}", "loss.segmentation=1")
    return build_discriminator(recipe, Sizes(3, 2, len(space)))


def test_a_pixel_that_became_white_in_bfloat16_can_become_dark_again():
    painted = torch.full((1, 1, 2, 2), 5.0, dtype=torch.bfloat16, requires_grad=True)
    (slope,) = torch.autograd.grad(within_range(painted).sum(), painted)
    assert (slope > 0).all()


@pytest.mark.parametrize("space", [(32, 48), (32, 32, 32)])
@pytest.mark.parametrize(
    ("kind", "condition"),
    [("resnet", "mask"), ("topdown", "mask"), ("topdown", "class"), ("topdown", "none")],
)
def test_a_generator_paints_every_modality_within_range(tiny, kind, condition, space):
    images = generator_of(tiny, kind, space, condition)(
        maps_of(condition, space), 30 * noise_of(space)
    )
    assert images.shape == (2, 2, *space)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert images.std() > 0


@pytest.mark.parametrize("kind", GENERATORS)
def test_an_image_depends_on_its_condition_and_noise_and_not_on_its_batch_mates(tiny, kind):
    space = (32, 48)
    generator = generator_of(tiny, kind, space)
    maps, noise = maps_of("mask", space), noise_of(space)
    together = generator(maps, noise)
    alone = torch.cat([generator(maps[i : i + 1], noise[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    alike = torch.allclose(together, generator(maps, noise.flip(-1)), atol=1e-2)
    assert alike == (kind == "resnet")
    assert not torch.allclose(together, generator(maps.flip(-1), noise), atol=1e-2)


def test_the_topdown_generator_paints_in_each_sites_style(tiny):
    torch.manual_seed(0)
    recipe = tiny("image.size=32", "generator.style=4", "generator.noise=2")
    generator = build_generator(recipe, Sizes(3, 2, 2))
    maps, random = maps_of("mask", (32, 32), b=1), torch.Generator()
    looks = [site_noise(recipe, [site], (32, 32), random.manual_seed(0)) for site in "ab"]
    assert not torch.allclose(generator(maps, looks[0]), generator(maps, looks[1]), atol=1e-2)
    together = site_noise(recipe, ["a", "b", "a"], (32, 32), random)[:, -4:]
    assert torch.equal(together[1], looks[1][0, -4:]) and torch.equal(together[0], together[2])
    assert together[0].flatten(1).std(1).max() == 0  # the same at every pixel


def test_a_generator_of_masks_paints_shares_of_labels_that_add_up_to_a_whole(tiny):
    recipe = tiny(
        "image.source=masks", "condition.kind=none", "masks.release=false", "generator.kind=masks",
        "generator.noise=0", "generator.latent=4", "discriminator.kind=dcgan",
    )  # fmt: skip
    generator = build_generator(recipe, Sizes(0, 3))
    noise = torch.randn(2, recipe.generator.code, 8, 8)
    with torch.no_grad():
        for weight in generator.body.paint.parameters():
            weight *= 50  # as sure as after a long training
    nothing, bound = torch.zeros(2, 0, 8, 8), generator.BOUND
    logits = bound * (generator.body.logits(nothing, noise) / bound).tanh()
    likely = F.interpolate(logits, scale_factor=2.0, mode="bilinear").softmax(1)
    assert likely.max() < 0.99  # never so sure that no feedback would change it
    painted, soft = generator(nothing, noise), 2 * F.avg_pool2d(likely, 2) - 1
    shares = (painted + 1) / 2
    assert set((4 * shares).unique().tolist()) <= {0, 1, 2, 3, 4}  # a pixel has four places
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 8, 8))
    # It learns as if it had not rounded.
    feedback, weights = torch.randn_like(painted), list(generator.parameters())
    through, direct = (
        torch.autograd.grad((shown * feedback).sum(), weights) for shown in (painted, soft)
    )
    for one, other in zip(through, direct, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        assert one.any()


@pytest.mark.parametrize("space", [(16, 32), (16, 16, 16)])
def test_a_verdicts_gradient_reaches_every_pixel(tiny, space):
    discriminator = discriminator_of(tiny, "patch_segmentation", space)
    images = torch.randn(2, 2, *space, generator=torch.Generator().manual_seed(1))
    verdict = discriminator(images.requires_grad_(), maps_of("mask", space))
    for part in (verdict.score, verdict.segmentation):
        assert part.shape[0] == 2
        (gradient,) = torch.autograd.grad(part.square().sum(), images, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient.abs().sum((0, 1)) > 0).all()


def test_a_discriminator_judges_given_the_mask_finds_it_without_and_looks_at_no_batch_mates(tiny):
    space = (16, 16)
    network = discriminator_of(tiny, "patch_segmentation", space)
    images, maps = torch.rand(2, 2, *space), maps_of("mask", space)
    own, other = network(images, maps), network(images, maps.flip(1))
    assert not torch.allclose(own.score, other.score)
    torch.testing.assert_close(own.segmentation, other.segmentation)
    alone = network(images[:1], maps[:1])
    torch.testing.assert_close(own.score[:1], alone.score, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own.segmentation[:1], alone.segmentation, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", GENERATORS)
def test_no_bias_stands_before_an_instance_norm(tiny, kind):
    """It would have no effect, and its optimiser would let it drift without end."""
    generator = generator_of(tiny, kind, (32, 32))
    made: dict[int, nn.Module] = {}
    readers: dict[int, list[nn.Module]] = defaultdict(list)
    kept: list[torch.Tensor] = []  # or its id would be given to another tensor

    def note(module, args, out):
        readers[id(args[0])].append(module)
        made[id(out)] = module
        kept.append(out)

    for module in generator.modules():
        if not list(module.children()):
            module.register_forward_hook(note)
    generator(maps_of("mask", (32, 32)), noise_of((32, 32)))
    normalised = [
        made[place]
        for place, modules in readers.items()
        if place in made and all(isinstance(module, nn.InstanceNorm2d) for module in modules)
    ]
    convolutions = [layer for layer in normalised if isinstance(layer, nn.Conv2d)]
    assert convolutions
    assert all(layer.bias is None for layer in convolutions)


def test_networks_that_no_machine_holds_are_refused_before_they_are_built(tiny, make_cohort):
    recipe = tiny("image.size=256", "discriminator.width=512", "discriminator.layers=6")
    with pytest.raises(RecipeError, match=r"kind 'patch' would have 11,4\d\d,\d{3},\d{3} weights"):
        Site("north", make_cohort(recipe, cases=2), recipe)
    recipe = tiny(*RESNET, "generator.width=512", "generator.blocks=32")
    with pytest.raises(RecipeError, match="generator of kind 'resnet' would have"):
        build_generator(recipe, Sizes(3, 1))
    sizes = ("image.size=64", "discriminator.width=128", "discriminator.layers=4")
    private = ("privacy.kind=discriminator", "privacy.conditions=unprotected")
    with torch.device("meta"):
        build_discriminator(tiny(*sizes), Sizes(3, 1))
        with pytest.raises(RecipeError, match="a private discriminator of kind 'patch' would have"):
            build_discriminator(tiny(*sizes, *private, "masks.release=false"), Sizes(3, 1))


ANOTHER_PACKAGE = """
import torch
from torch import nn
from asyndgan.models import Verdict

class Flat(nn.Module):
    def __init__(self, sizes, section):
        super().__init__()
        self.register_buffer('painted', torch.zeros((), dtype=torch.int64))
        self.grey = nn.Parameter(torch.full((sizes.modalities,), section.options["grey"]))
    def forward(self, condition, noise):
        self.painted += len(condition)
        shape = (1, -1, *[1] * (condition.ndim - 2))
        space = condition.shape[2:]
        return self.grey.reshape(shape).expand(len(condition), -1, *space).tanh()

class Brightness(nn.Module):
    def __init__(self, sizes, section):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
    def forward(self, images, condition):
        return Verdict(score=self.scale * images.mean((1, 2, 3)).reshape(-1, 1, 1, 1))

class Wasserstein:
    def real(self, logits):
        return -logits.mean()
    def synthetic(self, logits):
        return logits.mean()
    def generator(self, logits):
        return -logits.mean()
"""
ENTRY_POINTS = """
[asyndgan.generators]
flat = another_package:Flat
[asyndgan.discriminators]
brightness = another_package:Brightness
[asyndgan.adversarial_losses]
wasserstein = another_package:Wasserstein
"""


def test_parts_of_another_package_train_by_the_same_door(tiny, another_package, make_sites):
    another_package(ANOTHER_PACKAGE, ENTRY_POINTS)
    recipe = tiny(
        "generator.kind=flat", "generator.options={grey = 0.25}", "discriminator.kind=brightness",
        "loss.adversarial=wasserstein", "optimiser.generator_rate=0.1",
    )  # fmt: skip
    coordinator = make_sites(recipe).begin()
    assert type(coordinator.generator).__module__ == "another_package"
    assert coordinator.generator.grey.item() == 0.25
    coordinator.step()
    assert coordinator.generator.grey.item() > 0.25  # brighter scores higher here
    assert coordinator.generator.painted == coordinator.average.painted == 4  # a counter


def test_shifted_conditions_stay_with_their_images():
    maps = maps_of("mask", (8, 16, 16), b=6)
    images = 2 * maps[:, 1:] - 1  # images that show nothing but their conditions
    moved, with_them = disturbed(images, maps, ["shift"], torch.Generator().manual_seed(1))
    assert torch.equal(moved, 2 * with_them[:, 1:] - 1)
    assert not torch.equal(moved, images)
    nothing = with_them.sum(1) == 0
    assert 0.02 < nothing.float().mean() < 0.5
    assert (moved.movedim(1, -1)[nothing] == -1).all()


@pytest.mark.parametrize("space", [(16, 24), (8, 16, 16)])
def test_windows_are_parts_of_an_image_or_all_of_it_at_half_the_size(space):
    maps = maps_of("mask", space, b=24)
    images = (2 * maps[:, 1:] - 1).requires_grad_()
    seen, lying = disturbed(images, maps, ["window"], torch.Generator().manual_seed(1))
    half = [side // 2 for side in space]
    assert seen.shape == (24, images.shape[1], *half)
    assert lying.shape == (24, maps.shape[1], *half)
    assert (lying.sum(1) == 1).all()
    windows = [
        number for number in range(24) if torch.equal(seen[number], 2 * lying[number, 1:] - 1)
    ]
    assert 4 < len(windows) < 20
    small = next(number for number in range(24) if number not in windows)
    assert torch.allclose(seen[small].mean(), images[small].mean(), atol=1e-5)
    (slope,) = torch.autograd.grad(seen.sum(), images)
    share = (slope != 0).flatten(1).float().mean(1)
    assert {round(float(each), 3) for each in share} == {1.0, 0.5 ** len(space)}


def test_a_quarter_of_the_windows_lie_at_each_end_of_an_image():
    images = torch.zeros(2000, 1, 16, 16, requires_grad=True)
    random = torch.Generator().manual_seed(1)
    (seen, _) = disturbed(images, torch.zeros(2000, 1, 16, 16), ["window"], random)
    (slope,) = torch.autograd.grad(seen.sum(), images)
    windows = slope[(slope != 0).flatten(1).float().mean(1) < 1][:, 0] != 0
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert 0.04 < windows[(..., *corner)].float().mean() < 0.09
    assert windows[:, 8, 8].float().mean() > 0.4


def test_disturbed_images_are_drawn_one_by_one_and_alike_for_equal_seeds():
    images = torch.rand(1, 2, 16, 16).expand(4, -1, -1, -1).requires_grad_()
    maps = maps_of("mask", (16, 16), b=4)
    kinds: list[Disturbance] = ["dropout", "shift"]
    once, again = (disturbed(images, maps, kinds, torch.Generator().manual_seed(1)) for _ in "ab")
    assert torch.equal(once[0], again[0])
    assert torch.equal(once[1], again[1])
    assert not torch.equal(once[0][0], once[0][1])
    (gradient,) = torch.autograd.grad(once[0].sum(), images)
    assert gradient.abs().sum() > 0
    assert disturbed(images, maps, [], torch.Generator()) == (images, maps)
