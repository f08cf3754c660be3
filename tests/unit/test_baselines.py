"""Baselines that average weights instead of sending feedback."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from asyndgan.data.case import Case, Preparation
from asyndgan.evaluation import synthesise
from asyndgan.evaluation.baselines import average_weights, train_fedavg, train_fedgan
from asyndgan.evaluation.metrics import dice
from asyndgan.evaluation.segmentation import SegmentationBudget, predict
from asyndgan.recipe import Recipe
from asyndgan.training.checkpoint import read

MakeRecipe = Callable[..., Recipe]
Sites = dict[str, Path]
STORED = Preparation((32, 32), (1.0, 1.0), (32, 32), (0, 0), (1.0,), (0.0,))


def disc(patient: str, row: int) -> Case:
    """A bright disc on black."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    mask = ((rows - row) ** 2 + (columns - 16) ** 2 < 40).long()
    return Case(patient, patient, mask[None] * 1.6 - 0.8, mask, ("T1",), STORED)


def test_weights_are_averaged_by_shares() -> None:
    first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    wanted = 0.25 * first.weight.detach() + 0.75 * second.weight.detach()
    average_weights([first, second], [0.25, 0.75])
    assert torch.allclose(first.weight, wanted)
    assert torch.equal(first.weight, second.weight)


def test_sites_learn_one_network_by_averaging() -> None:
    sites = {
        "north": [disc(f"n{row}", row) for row in range(7, 11)],
        "south": [disc(f"s{row}", row) for row in range(21, 25)],
    }
    budget = SegmentationBudget(
        steps=60, batch=4, width=4, rate=5e-3, rotation=0, zoom=0, translation=0
    )
    told: list[int] = []
    network = train_fedavg(
        sites, classes=2, budget=budget, seed=0, on_progress=lambda step, _: told.append(step)
    )
    cases = [*sites["north"], *sites["south"]]
    found = predict(network, torch.stack([case.image for case in cases]))
    assert dice(found == 1, torch.stack([case.mask for case in cases]) == 1) > 0.8
    assert told == list(range(1, 61))


@pytest.fixture
def recipe(tiny: MakeRecipe) -> Recipe:
    return tiny("image.size=32", "training.steps=7", "loss.stand_in_l1=1", "stand_in.width=4")


def test_fedgan_leaves_a_run_that_paints(recipe: Recipe, phantoms: Sites, tmp_path: Path) -> None:
    run = train_fedgan(recipe, phantoms, tmp_path / "run", local_steps=2)
    facts = run.facts()
    assert (facts.state, facts.steps, facts.engine) == ("finished", 7, "fedgan")
    rounds = 4  # the last one is short
    assert {bytes_["weights"] % rounds for bytes_ in facts.left_sites.values()} == {0}
    masks = [("m", torch.zeros(32, 32, dtype=torch.int64))]
    (case,) = synthesise(run, masks)
    assert case.image.isfinite().all()


def test_a_fedgan_that_was_cut_short_ends_as_if_it_had_not_been(
    recipe: Recipe, phantoms: Sites, tmp_path: Path
) -> None:
    class CutError(Exception):
        pass

    def cut(step: int, steps: int) -> None:
        if step == 6:
            raise CutError

    whole = train_fedgan(recipe, phantoms, tmp_path / "whole", local_steps=2)
    with pytest.raises(CutError):
        train_fedgan(recipe, phantoms, tmp_path / "cut", local_steps=2, watch=cut)
    resumed = train_fedgan(recipe, phantoms, tmp_path / "cut", local_steps=2)
    first, second = (read(run.generator_file)[0] for run in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [r["step"] for r in resumed.metrics()] == [r["step"] for r in whole.metrics()]


def test_a_finished_fedgan_is_left_as_it_is(
    tiny: MakeRecipe, phantoms: Sites, tmp_path: Path
) -> None:
    """Its newest checkpoint is older than its generator."""
    recipe = tiny("image.size=32", "training.steps=7", "training.checkpoint_every=5")
    run = train_fedgan(recipe, phantoms, tmp_path / "run", local_steps=2)
    before = run.generator_file.read_bytes()
    train_fedgan(recipe, phantoms, tmp_path / "run", local_steps=2)
    assert run.generator_file.read_bytes() == before
