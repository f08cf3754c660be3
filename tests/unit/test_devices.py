"""Without a GPU too: torch's device `meta` computes nothing, but refuses to mix with the CPU."""

from contextlib import nullcontext

import pytest
import torch

from asyndgan.engines import SiteSetup, set_up
from asyndgan.errors import RunError
from asyndgan.models import Sizes
from asyndgan.models.parts import build_generator, draw_noise, usable_device
from asyndgan.recipe import Recipe
from asyndgan.runs.train import train
from asyndgan.store import Batch
from asyndgan.training import objective, painting

META = torch.device("meta")


@pytest.fixture
def no_autocast(monkeypatch):
    """Which `meta` does not have."""
    for module in (objective, painting):
        monkeypatch.setattr(module, "arithmetic", lambda precision, device: nullcontext())


SEGMENTS = ("discriminator.kind=patch_segmentation", "loss.segmentation=1")


def on_meta(recipe: Recipe) -> Batch:
    images = torch.rand(2, 1, *recipe.image.size)
    masks = torch.zeros(2, *recipe.image.size, dtype=torch.int64)
    return Batch(images, masks, torch.tensor([0, 1])).to(META)


@pytest.mark.usefixtures("no_autocast")
@pytest.mark.parametrize(
    "overrides",
    [
        ["condition.kind=none", "masks.release=false", "loss.paired_l1=1"],
        [*SEGMENTS, 'discriminator.augment=["shift"]'],
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_sites_arithmetic_stays_on_its_device(tiny, overrides):
    recipe = tiny(*overrides)
    networks = objective.Objective(
        recipe, modalities=1, labels=3, space=recipe.image.size, seed=1, device=META
    )
    synthetic = on_meta(recipe)
    networks.learn(on_meta(recipe), synthetic)
    synthetic.images.requires_grad_()
    loss, _ = networks.ask(synthetic, on_meta(recipe))
    (feedback,) = torch.autograd.grad(loss, synthetic.images)
    assert feedback.device == META
    assert all(tensor.device == META for tensor in networks.discriminator.state_dict().values())


@pytest.mark.usefixtures("no_autocast")
def test_the_generators_arithmetic_stays_on_its_device(tiny):
    recipe = tiny("generator.noise=2")
    generator = build_generator(recipe, Sizes(3, 1)).to(META)
    maps = torch.zeros(5, 3, *recipe.image.size, device=META)
    noise = draw_noise(5, 2, recipe.image.size, torch.Generator()).to(META)
    for chunk in (2, 8):
        painted = painting.Painting(generator, maps, noise, chunk=chunk, precision="float32")
        painted.backward(torch.zeros_like(painted.images))
        assert painted.images.device == META


def test_a_device_that_is_not_there_is_named_with_those_that_are(tiny, phantoms, tmp_path):
    setup = SiteSetup("north", phantoms["north"], tmp_path, device="cuda:99")
    with pytest.raises(RunError, match="'cuda:99' cannot be used on this machine; there is cpu"):
        set_up(setup, tiny("image.size=32"))
    with pytest.raises(RunError, match="'abacus' cannot be used"):
        usable_device("abacus")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
@pytest.mark.parametrize("judges", [(), (*SEGMENTS, 'discriminator.augment=["shift"]')])
@pytest.mark.parametrize("engine", ["inprocess", "processes"])
def test_a_run_on_a_gpu_learns_what_one_on_the_cpu_does(tiny, phantoms, tmp_path, engine, judges):
    recipe = tiny("image.size=32", *judges)
    weights = []
    for device in ("cpu", "cuda"):
        run = train(recipe, phantoms, tmp_path / device, engine=engine, device=device)
        parts = run.generator().state_dict().values()
        weights.append(torch.cat([part.flatten() for part in parts]))
    assert torch.allclose(*weights, atol=1e-2)
