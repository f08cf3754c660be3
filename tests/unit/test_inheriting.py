"""A generator that begins with the weights of another."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asyndgan.engines.flare.localhost import federation_here
from asyndgan.errors import RunError
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.runs.order import Order
from asyndgan.runs.start import Start, start_of
from asyndgan.runs.trial import trial_of
from asyndgan.tables.planning import plan_tables
from asyndgan.training import Scope, new_generator

MakeRecipe = Callable[..., Recipe]
HEADS = Scope(("T1", "T2"), {0: "background", 1: "head", 2: "lesion"}, (32, 32))
RESNET = ("generator.kind=resnet", "generator.noise=0")


def finished(path: Path, recipe: Recipe, **more: object) -> RunFolder:
    """A run folder as a training leaves it, with a generator of random weights."""
    folder = RunFolder.create(path, recipe)
    site = {"cases": 3, "share": 1.0, "modalities": ["T1", "T2"]}
    facts = RunFacts(
        "ab", "0", recipe.digest(), "inprocess", state="finished", steps=6, sites={"north": site}
    )
    vars(facts).update(HEADS.to_plain(), **more)
    facts.generator_sha256 = folder.write_generator(new_generator(recipe, HEADS), facts)
    folder.write_facts(facts)
    return folder


def test_a_run_that_cannot_be_started_from_is_refused_with_a_reason(tiny, tmp_path):
    recipe = tiny("image.size=32")
    run = finished(tmp_path / "run", recipe)
    assert Start.of(run, tiny("image.size=64"), ["north"]).name == "run"
    other = tiny("image.size=32", *RESNET)
    with pytest.raises(
        RunError, match="a generator of kind 'topdown', and recipe 'tiny' one of kind 'resnet'"
    ):
        Start.of(run, other, [])
    with pytest.raises(RunError, match="without differential privacy, so epsilon"):
        Start.of(run, _private(tiny), [])
    held = tiny("image.size=32", "training.hold_out=0.2")
    with pytest.raises(RunError, match=r"trained on patients that recipe 'tiny' would hold out"):
        Start.of(run, held, ["north", "south"])
    Start.of(run, held, ["south"])
    Start.of(finished(tmp_path / "held", held), held, ["north"])
    run.generator_file.write_bytes(b"broken")
    with pytest.raises(RunError, match=r"is another generator than the one that run\.json says"):
        Start.of(RunFolder(run.path), recipe, [])
    with pytest.raises(RunError, match="is no run folder"):
        Start.of(RunFolder(tmp_path), recipe, [])
    begun = finished(tmp_path / "begun", recipe, state="interrupted")
    begun.generator_file.unlink()
    with pytest.raises(RunError, match="is interrupted at step 6; finish it"):
        Start.of(begun, recipe, [])


def _private(tiny: MakeRecipe) -> Recipe:
    return tiny(
        "image.size=32", "masks.source=given", "masks.release=false", "privacy.kind=discriminator",
        "privacy.noise=2", "training.hold_out=0",
    )  # fmt: skip


def test_a_generator_with_weights_that_are_not_finite_is_no_start(tiny, tmp_path):
    recipe = tiny("image.size=32")
    run = finished(tmp_path / "run", recipe)
    network = run.generator()
    with torch.no_grad():
        network.paint.bias[0] = torch.nan
    run.write_facts(
        replace(run.facts(), generator_sha256=run.write_generator(network, run.facts()))
    )
    with pytest.raises(RunError, match="numbers that are not finite"):
        Start.of(run, recipe, [])


def test_a_run_of_records_starts_from_one_of_the_same_columns(tables, tmp_path):
    recipe = plan_tables(tables, [])
    assert recipe and recipe.table
    run = RunFolder.create(tmp_path / "run", recipe)
    facts = RunFacts("ab", "0", recipe.digest(), "inprocess", state="finished")
    scope = Scope(("record",), dict(enumerate(recipe.table.classes)), recipe.space)
    vars(facts).update(scope.to_plain())
    facts.generator_sha256 = run.write_generator(new_generator(recipe, scope), facts)
    run.write_facts(facts)
    assert Start.of(run, recipe, []).sites == []
    columns = recipe.table.columns
    rescaled = [one.model_copy(update={"knots": (0.0, 9.0)}) for one in columns if one.knots]
    renamed = [one.model_copy(update={"name": f"other {one.name}"}) for one in columns]
    for other, refused in ((rescaled, False), (renamed, True)):
        table = recipe.table.model_copy(update={"columns": tuple(other)})
        changed = recipe.model_copy(update={"table": table})
        if refused:
            with pytest.raises(RunError, match="makes records of other columns"):
                Start.of(run, changed, [])
        else:
            Start.of(run, changed, [])


def test_a_run_that_began_by_itself_does_not_take_up_another(tiny, tmp_path):
    source = finished(tmp_path / "source", tiny("image.size=32"))
    run = finished(tmp_path / "run", tiny("image.size=32"))
    assert start_of(None, run, run.recipe(), []) is None
    assert start_of(source.path, run, run.recipe(), [])
    run.checkpoints.mkdir()
    (run.checkpoints / "step-00000002.safetensors").touch()
    with pytest.raises(RunError, match="did not start from another one"):
        start_of(source.path, run, run.recipe(), [])


def test_a_federation_remembers_the_start_of_an_order(tiny, tmp_path):
    federation = federation_here(tmp_path / "f", tmp_path / "north")
    source = finished(tmp_path / "source", tiny("image.size=32")).path
    longer = tiny("image.size=32", "training.steps=9")
    other = tiny("image.size=32", *RESNET)
    with pytest.raises(RunError, match="of kind 'topdown'"):
        Order.submit(federation, "other", other, (), start=source)
    Order.submit(federation, "longer", longer, (), start=source)
    order = Order.submit(federation, "longer", longer, ("north",), start=source)
    assert Path(order.wanted()["start"]) == source.resolve()
    Order.submit(federation, "anew", longer, ())
    with pytest.raises(RunError, match="run anew was ordered without"):
        Order.submit(federation, "anew", longer, (), start=source)


def test_steps_of_the_run_before_count_when_a_run_is_called_a_trial(tiny, tmp_path):
    recipe = tiny("name=default", "image.size=32")
    run = finished(tmp_path / "run", recipe)
    assert trial_of(run.facts(), recipe).startswith("Trial run: 6 of 2,000")
    start = {"run": "a", "generator_sha256": "ab", "steps": 3000, "sites": ["north"], "took": "all"}
    run.write_facts(replace(run.facts(), start=start))
    assert not trial_of(run.facts(), recipe)
    begun = replace(run.facts(), state="running", steps=2)
    assert trial_of(begun, recipe) == "Trial run: 3,002 of 3,006 steps"
    run.facts_file.write_text(json.dumps(vars(begun) | {"start": start | {"took": "a\nb"}}))
    with pytest.raises(RunError, match="is not what a run writes"):
        run.facts()
