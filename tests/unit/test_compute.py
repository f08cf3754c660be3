"""Tests of how a party chooses its precision and its number of threads."""

import time

import pytest
import torch

from asyndgan.engines import SiteSetup
from asyndgan.engines.setup import PRECISION_FILE, set_up
from asyndgan.runs import RunFolder, load_recipe
from asyndgan.runs.train import train
from asyndgan.training import compute
from asyndgan.training.compute import fastest, measured_precision, measured_threads
from small import SMALL

CPU = torch.device("cpu")
DP_SGD = ("privacy.kind=discriminator", "privacy.conditions=unprotected")


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [({"a": 0.010, "b": 0.004}, "b"), ({"a": 0.010, "b": 0.0098}, "a"), ({"a": 0.0}, "a")],
)
def test_a_choice_is_changed_for_a_clear_gain_alone(seconds, chosen, monkeypatch):
    clock = iter(range(10**9))
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def use(name):
        now[0] += seconds[name] * (1 + 5 * (next(clock) < 2))  # the first round is slow

    assert fastest(seconds, use) == chosen


def test_what_is_set_up_at_first_use_counts_for_no_choice_even_where_one_round_is_long(
    monkeypatch,
):
    now, used = [0.0], []
    for clock in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, clock, lambda: now[0])

    def use(name):
        now[0] += 10 if used else 20
        used.append(name)

    assert fastest("ab", use) == "a"


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_a_named_precision_is_taken_without_measuring(asked, tiny, monkeypatch):
    monkeypatch.setattr(compute, "fastest", pytest.fail)
    assert measured_precision(tiny(f"training.precision={asked}"), CPU) == asked


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
        ["discriminator.kind=patch_segmentation", "loss.segmentation=1"],
    ],
)
def test_every_kind_of_recipe_is_timed_in_both_precisions(overrides, monkeypatch):
    monkeypatch.setattr(compute, "native_bfloat16", lambda: True)
    recipe = load_recipe(
        "masks" if "image.source=masks" in overrides else "paper",
        [*SMALL, "training.precision=auto", *overrides],
    )
    assert measured_precision(recipe, CPU) in ("float32", "bfloat16")
    assert measured_threads(recipe, 8, "float32", CPU) == 1


def test_private_networks_are_not_timed(tiny, monkeypatch):
    monkeypatch.setattr(compute, "fastest", pytest.fail)
    recipe = tiny("training.precision=auto", "masks.release=false", *DP_SGD)
    assert measured_precision(recipe, CPU) == "float32"


def test_a_party_that_computes_otherwise_agreed_on_the_same_recipe(tiny):
    agreed = tiny("training.precision=auto")
    own = agreed.computed_in("bfloat16")
    assert own.training.precision == "bfloat16"
    assert own.digest() == agreed.digest()
    assert tiny("training.precision=bfloat16").digest() != agreed.digest()


def test_a_run_keeps_the_precision_and_the_threads_that_it_began_with(
    tiny, phantoms, tmp_path, monkeypatch
):
    recipe = tiny("image.size=32", "training.precision=auto", "training.steps=4")
    monkeypatch.setattr("asyndgan.runs.checks.measured_precision", lambda *_: "bfloat16")
    monkeypatch.setattr("asyndgan.runs.train.measured_threads", lambda *_: 2)

    class EnoughError(Exception):
        pass

    def stop(progress):
        raise EnoughError

    before = torch.get_num_threads()
    with pytest.raises(EnoughError):
        train(recipe, phantoms, tmp_path / "run", watch=stop)
    assert torch.get_num_threads() == before
    monkeypatch.setattr("asyndgan.runs.checks.measured_precision", pytest.fail)
    monkeypatch.setattr("asyndgan.runs.train.measured_threads", pytest.fail)
    train(recipe, phantoms, tmp_path / "run", resume=True)
    facts = RunFolder(tmp_path / "run").facts()
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


def test_expected_time_grows_with_the_image(tiny):
    small, large = (
        compute.expected_seconds(tiny(f"image.size={size}", "training.precision=float32"), 1, CPU)
        for size in (16, 256)  # far apart: what other programs leave of a processor varies
    )
    assert 0 < small < large


def test_of_large_images_one_is_timed_for_all_of_a_batch(tiny, monkeypatch):
    counts = []
    monkeypatch.setattr(compute, "_step", lambda _, count, *__, judging: counts.append(count))
    monkeypatch.setattr(compute, "_seconds", lambda choices, _: dict.fromkeys(choices, 1.0))
    one, eight = (
        compute.expected_seconds(
            tiny("image.size=512", f"training.batch={batch}", "training.precision=float32"), 1, CPU
        )
        for batch in (1, 8)
    )
    assert counts == [1] * 4
    assert eight == 8 * one
