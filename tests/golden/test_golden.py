"""Losses and weights of three steps, against stored ones.

After a change that is meant to change them: `PYTHONPATH=tests python tests/golden/test_golden.py`,
and say why in the commit.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from asyndgan.engines import InProcess
from asyndgan.protocol import Endpoint, Exchange, message_limit
from asyndgan.recipe import Recipe
from asyndgan.runs import load_recipe
from asyndgan.store import Cohort
from asyndgan.training import Coordinator, Site
from small import SMALL

STORED = Path(__file__).with_name("golden.json")
STEPS = 3
RECIPES = {
    "paper": ["generator.kind=resnet", "loss.paired_l1=100"],
    "topdown": [
        "generator.noise=4", "discriminator.kind=patch_segmentation", "loss.segmentation=1",
        "wire.feedback=int8", "wire.images=uint8",
    ],
    "cross-fitted": [
        "generator.kind=resnet", "discriminator.kind=patch_segmentation", "loss.segmentation=1",
        "discriminator.cross_fitted=true", 'discriminator.augment=["shift"]',
    ],
}  # fmt: skip
SHORT = [*SMALL, "training.steps=6", "training.seed=11"]

WITHOUT_EFFECT = re.compile(r"body\.\d+\.body\.4\.bias")
"""Shifts of a residual block's output, which the next norm takes out again: their gradients are
rounding errors, which Adam makes steps of, so that processors differ in them."""

APART = {"default": 0.03}
"""How far two processors may be apart after an update, in a loss (a tenth of it) and in a tensor's
norm. Most gradients of `default` cancel at first (hinge), and Adam makes whole steps of what
rounding leaves. Before its first update it has to agree as all others."""


def recipe_of(name: str) -> Recipe:
    """A recipe of `RECIPES`, or one that ships."""
    if name in RECIPES:
        return Recipe.from_toml("", [*SHORT, "training.batch=2", *RECIPES[name]])
    return load_recipe(name, [*SHORT, "masks.source=own"])


def cohort(cases: int, modalities: list[str], phase: float, *, move: bool) -> Cohort:
    """Waves and discs by formula, so that no random generator's version matters."""
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    images, masks = [], []
    for case in range(cases):
        disc = (rows - 7 - case % 3).square() + (columns - 8).square() < 9 + 6 * case
        core = (rows - 7 - case % 3).square() + (columns - 8).square() < 4
        masks.append(disc.long() + core.long())
        waves = [
            0.3 * torch.sin((channel + 1) * rows / 3 + columns / 2 + phase + case)
            for channel in range(len(modalities))
        ]
        images.append(torch.stack([wave + 0.5 * masks[-1] - 0.6 for wave in waves]))
    labels = {0: "background", 1: "organ", 2: "lesion"}
    return Cohort(
        torch.stack(images).clamp(-1, 1), torch.stack(masks), modalities=modalities, labels=labels,
        move=move,
    )  # fmt: skip


def run(recipe: Recipe) -> dict[str, Any]:
    """Losses of every step, and norm and sum of every tensor of the generator and its average."""
    torch.set_num_threads(1)
    move = recipe.training.move
    sites = [
        Site("north", cohort(5, ["T1", "T2"], 0.0, move=move), recipe),
        Site("south", cohort(3, ["T2"], 1.0, move=move), recipe),
    ]
    limit = message_limit(recipe)
    exchange = Exchange(InProcess({s.name: Endpoint(s, limit=limit) for s in sites}), recipe)
    coordinator = Coordinator.begin(recipe, exchange, run="0")
    losses = [coordinator.step().losses for _ in range(STEPS)]
    networks = {"generator": coordinator.generator, "average": coordinator.average}
    return {
        "losses": losses,
        "weights": {
            f"{network}/{name}": f"{value.norm().item():.7g} {value.sum().item():.7g}"
            for network, module in networks.items()
            for name, value in module.state_dict().items()
            if not WITHOUT_EFFECT.fullmatch(name)
        },
    }


@pytest.mark.parametrize("name", [*RECIPES, "default"])
def test_losses_and_weights_of_a_small_run_are_what_they_were(name):
    stored, now = json.loads(STORED.read_text("utf-8"))[name], run(recipe_of(name))
    apart = APART.get(name, 0.0)
    for step, (then, losses) in enumerate(zip(stored["losses"], now["losses"], strict=True)):
        for site in then:
            wanted = pytest.approx(then[site], rel=1e-4, abs=0.1 * apart if step else 1e-6)
            assert losses[site] == wanted, f"step {step}, {site}"
    assert list(now["weights"]) == list(stored["weights"])
    for tensor, text in stored["weights"].items():
        norm, total = map(float, text.split())
        # A sum may cancel to nothing, so it is held against the norm.
        wanted = pytest.approx([norm, total], rel=1e-4, abs=max(1e-4, apart) * norm + 1e-6)
        assert [*map(float, now["weights"][tensor].split())] == wanted, tensor


def test_a_small_run_is_the_same_twice():
    assert run(recipe_of("topdown")) == run(recipe_of("topdown"))


if __name__ == "__main__":
    golden = {name: run(recipe_of(name)) for name in (*RECIPES, "default")}
    STORED.write_text(json.dumps(golden, indent=1) + "\n", "utf-8")
    print(f"wrote {STORED}")
