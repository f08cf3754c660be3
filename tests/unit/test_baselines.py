"""Baselines that average weights instead of sending feedback."""

from pathlib import Path

import pytest
import torch

from asyndgan.arrays import CPU
from asyndgan.errors import CohortError, RecipeError
from asyndgan.judging.metrics import dice
from asyndgan.models.budgets import SegmentationBudget
from asyndgan.painting.synthesise import synthesise
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.store import Cohort
from asyndgan.store.prepared import Case
from asyndgan.training.checkpoint import read
from asyndgan.training.optimiser import average_decay
from asyndgan.training.segmentation import predict
from lab.fedavg import average_weights, train_fedavg
from lab.fedgan import _common_scope, _FedGan, train_fedgan

Sites = dict[str, Path]


def disc(patient: str, row: int) -> Case:
    """A bright disc on black."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    mask = ((rows - row) ** 2 + (columns - 16) ** 2 < 40).long()
    return Case.drawn(patient, mask[None] * 1.6 - 0.8, mask, ("T1",))


def test_sites_learn_one_network_by_averaging_by_their_numbers_of_cases(monkeypatch):
    sites = {
        "north": [disc(f"n{row}", row) for row in (7, 8, 9)],
        "south": [disc(f"s{row}", row) for row in range(20, 29)],
    }
    shares: list[list[float]] = []

    def averaged(networks, own):
        shares.append(list(own))
        average_weights(networks, own)

    monkeypatch.setattr("lab.fedavg.average_weights", averaged)
    budget = SegmentationBudget(
        steps=60, batch=4, width=4, rate=5e-3, rotation=0, zoom=0, translation=0
    )
    network = train_fedavg(sites, classes=2, budget=budget, seed=0)
    assert shares and all(own == [0.25, 0.75] for own in shares)
    cases = [*sites["north"], *sites["south"]]
    found = predict(network, torch.stack([case.image for case in cases]))
    assert dice(found == 1, torch.stack([case.mask for case in cases]) == 1) > 0.8


@pytest.fixture
def recipe(tiny):
    return tiny("image.size=32", "training.steps=7")


def test_a_fedgan_that_was_cut_short_ends_as_if_it_had_not_been(recipe, phantoms, tmp_path):
    class CutError(Exception):
        pass

    def cut(step, steps):
        if step == 6:
            raise CutError

    whole = train_fedgan(recipe, phantoms, tmp_path / "whole", local_steps=2)
    facts = whole.facts()
    assert (facts.state, facts.steps, facts.engine) == ("finished", 7, "fedgan")
    rounds = 4  # the last one is short
    assert {bytes_["weights"] % rounds for bytes_ in facts.left_sites.values()} == {0}
    (case,) = synthesise(whole, [("m", torch.zeros(32, 32, dtype=torch.int64))])
    assert case.image.isfinite().all()
    with pytest.raises(CutError):
        train_fedgan(recipe, phantoms, tmp_path / "cut", local_steps=2, watch=cut)
    for _ in range(2):  # and once it is finished it is left as it is
        resumed = train_fedgan(recipe, phantoms, tmp_path / "cut", local_steps=2)
        first, second = (read(run.generator_file)[0] for run in (whole, resumed))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert [r["step"] for r in resumed.metrics()] == [r["step"] for r in whole.metrics()]


def begun(recipe: Recipe, sites: Sites, out: Path) -> _FedGan:
    return _FedGan(RunFolder.create(out, recipe), sites, 2, CPU)


def test_a_round_of_fedgan_is_local_learning_and_then_the_mean_by_shares(
    recipe, phantoms, tmp_path
):
    federation, twin = (begun(recipe, phantoms, tmp_path / name) for name in ("one", "two"))
    federation.shares = twin.shares = {"north": 0.25, "south": 0.75}
    start = {k: v.clone() for k, v in federation.average.state_dict().items()}
    losses = federation._round(2)
    for party in twin.parties:
        assert [party.step(number) for number in range(2)][-1] == losses[party.name]
    networks = [[p.generator for p in f.parties] for f in (federation, twin)]
    networks += [[p.objective.discriminator for p in f.parties] for f in (federation, twin)]
    for ours, local in zip(networks[::2], networks[1::2], strict=True):
        for key, first in ours[0].state_dict().items():
            apart = [network.state_dict()[key] for network in local]
            wanted = sum(s * v for s, v in zip(twin.shares.values(), apart, strict=True))
            torch.testing.assert_close(first, wanted)
            assert torch.equal(first, ours[1].state_dict()[key])
        assert not torch.equal(*(torch.cat([p.flatten() for p in n.parameters()]) for n in local))
    kept = average_decay(recipe, 0) * average_decay(recipe, 1)
    for key, now in federation.average.state_dict().items():
        learned = networks[0][0].state_dict()[key]
        torch.testing.assert_close(now, kept * start[key] + (1 - kept) * learned)


def test_sites_and_recipes_that_cannot_be_averaged_are_refused(tiny, phantoms, tmp_path):
    masks, labels = torch.zeros(4, 32, 32, dtype=torch.int64), {0: "background"}
    one, two, more = (
        Cohort(torch.rand(4, 1, 32, 32), masks, modalities=[modality], labels=own)
        for modality, own in (("T1", labels), ("T2", labels), ("T1", {**labels, 1: "x"}))
    )
    for other in (two, more):
        with pytest.raises(CohortError, match="north and south"):
            _common_scope({"north": one, "south": other})
    with pytest.raises(RecipeError, match="FedGAN"):
        train_fedgan(tiny("image.size=32", "integrity.bound=2"), phantoms, tmp_path / "run")
