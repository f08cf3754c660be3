"""Tests of how a party chooses its precision and its number of threads."""

import time
from unittest.mock import Mock

import pytest
import torch

from asyndgan.engines import SiteSetup
from asyndgan.engines.setup import PRECISION_FILE, set_up
from asyndgan.runs import load_recipe
from asyndgan.runs.train import train
from asyndgan.training import compute
from asyndgan.training.compute import fastest, measured_precision, measured_threads
from small import SMALL

CPU = torch.device("cpu")
DP_SGD = ("privacy.kind=discriminator", "privacy.conditions=unprotected")


@pytest.mark.parametrize(
    ("seconds", "first", "chosen"),
    [
        ({"a": 0.010, "b": 0.004}, 6, "b"),
        ({"a": 0.010, "b": 0.0098}, 6, "a"),
        ({"a": 0.0}, 1, "a"),
        ({"a": 10, "b": 10}, 2, "a"),  # the first round is slow, and one is long
    ],
)
def test_a_choice_is_changed_for_a_clear_gain_alone(seconds, first, chosen, monkeypatch):
    now, used = [0.0], []
    for clock in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, clock, lambda: now[0])

    def use(name):
        now[0] += seconds[name] * (first if name not in used else 1)
        used.append(name)

    assert fastest(seconds, use) == chosen


def test_a_named_precision_is_taken_and_a_private_network_not_timed(tiny, monkeypatch):
    monkeypatch.setattr(compute, "fastest", pytest.fail)
    for precision in ("float32", "bfloat16"):
        assert measured_precision(tiny(f"training.precision={precision}"), CPU) == precision
    recipe = tiny("training.precision=auto", "masks.release=false", *DP_SGD)
    assert measured_precision(recipe, CPU) == "float32"
    own = recipe.computed_in("bfloat16")
    assert own.training.precision == "bfloat16"
    assert own.digest() == recipe.digest()  # it agreed on the same recipe


@pytest.mark.parametrize("native", [False, True])
def test_bfloat16_is_tried_where_the_processor_has_it_alone(native, tiny, monkeypatch):
    monkeypatch.setattr(compute, "native_bfloat16", lambda: native)
    monkeypatch.setattr(compute, "fastest", lambda choices, use: choices[-1])
    found = measured_precision(tiny("training.precision=auto"), CPU)
    assert found == ("bfloat16" if native else "float32")


@pytest.mark.parametrize(
    "overrides",
    [
        ["image.modalities=['T1', 'T2']", "image.labels={organ=3}"],
        ["condition.kind=class", "generator.kind=dcgan", "discriminator.kind=dcgan"],
        ["condition.kind=none", "generator.kind=topdown", "generator.noise=4"],
        ["image.source=masks", "image.labels={organ=1}"],
    ],
)
def test_every_kind_of_recipe_is_timed_in_both_precisions(overrides, monkeypatch):
    monkeypatch.setattr(compute, "native_bfloat16", lambda: True)
    name = "masks" if "image.source=masks" in overrides else "paper"
    recipe = load_recipe(name, [*SMALL, "training.precision=auto", *overrides])
    assert measured_precision(recipe, CPU) in ("float32", "bfloat16")
    assert measured_threads(recipe, 8, "float32", CPU) == 1


def test_a_run_keeps_the_precision_and_the_threads_that_it_began_with(
    tiny, phantoms, tmp_path, monkeypatch
):
    recipe = tiny("image.size=32", "training.precision=auto", "training.steps=3")
    monkeypatch.setattr("asyndgan.runs.checks.measured_precision", lambda *_: "bfloat16")
    monkeypatch.setattr("asyndgan.runs.train.measured_threads", lambda *_: 2)

    class EnoughError(Exception):
        pass

    before = torch.get_num_threads()
    with pytest.raises(EnoughError):
        train(recipe, phantoms, tmp_path / "run", watch=Mock(side_effect=EnoughError))
    assert torch.get_num_threads() == before
    monkeypatch.setattr("asyndgan.runs.checks.measured_precision", pytest.fail)
    monkeypatch.setattr("asyndgan.runs.train.measured_threads", pytest.fail)
    facts = train(recipe, phantoms, tmp_path / "run", resume=True).facts()
    assert (facts.precision, facts.threads, facts.state) == ("bfloat16", 2, "finished")
    # Sites in this process compute as the coordinator does, and keep no choice of their own.
    assert not list((tmp_path / "run").rglob(PRECISION_FILE))


def test_a_site_of_a_federation_keeps_a_choice_of_its_own(tiny, phantoms, tmp_path, monkeypatch):
    recipe = tiny("image.size=32", "training.precision=auto")
    setup = SiteSetup("north", phantoms["north"], tmp_path)
    monkeypatch.setattr("asyndgan.engines.setup.measured_precision", lambda *_: "bfloat16")
    assert set_up(setup, recipe).handler.recipe.training.precision == "bfloat16"
    monkeypatch.setattr("asyndgan.engines.setup.measured_precision", pytest.fail)
    assert set_up(setup, recipe).handler.recipe.training.precision == "bfloat16"
