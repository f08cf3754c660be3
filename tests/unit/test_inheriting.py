"""A generator that begins with the weights of another."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from asyndgan.engines.flare.localhost import federation_here
from asyndgan.errors import RunError
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.runs.order import Order
from asyndgan.runs.start import Start, start_of
from asyndgan.runs.trial import trial_of
from asyndgan.tables.planning import plan_tables
from asyndgan.training.inheriting import inherit
from asyndgan.training.scope import Scope, new_generator

HEADS = Scope(("T1", "T2"), {0: "background", 1: "head", 2: "lesion"}, (32, 32))
PERMUTED = Scope(("T2", "T1"), {0: "background", 1: "lesion", 4: "head"}, (32, 32))
MORE = Scope(("T1", "T1c", "T2"), {0: "background", 1: "head", 2: "edema", 3: "lesion"}, (32, 32))
KINDS = {
    "resnet": ("generator.kind=resnet", "generator.noise=0"),
    "topdown": ("generator.noise=2", "generator.style=3", "generator.latent=2"),
    "dcgan": (
        "generator.kind=dcgan", "generator.noise=0", "generator.latent=4", "condition.kind=class",
        "masks.release=false",
    ),
}  # fmt: skip


def generator(recipe: Recipe, scope: Scope, seed: int) -> nn.Module:
    """A generator in which no weight is zero, as they are before training in a look's layer."""
    torch.manual_seed(seed)
    network = new_generator(recipe, scope).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))
    return network


def painted(
    network: nn.Module, recipe: Recipe, scope: Scope, names: list[str]
) -> dict[str, Tensor]:
    """Images of an area of each of these labels, with the same noise, by modality."""
    random = torch.Generator().manual_seed(5)
    section, numbers = recipe.generator, {name: number for number, name in scope.labels.items()}
    maps = torch.zeros(1, max(scope.labels) + 1, 32, 32)
    for place, name in enumerate(names):
        maps[:, numbers[name], 8 * place : 8 * place + 8] = 1
    grain = torch.randn(1, section.noise, 32, 32, generator=random)
    code = torch.randn(1, section.code, 1, 1, generator=random).expand(-1, -1, 32, 32)
    with torch.no_grad():
        images = network(maps, torch.cat([grain, code], dim=1))[0]
    return dict(zip(scope.modalities, images, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", [PERMUTED, replace(HEADS, space=(64, 64))])
def test_labels_and_modalities_of_the_same_names_are_painted_as_before(tiny, kind, scope):
    recipe, names = tiny("image.size=32", *KINDS[kind]), ["background", "head", "lesion"]
    known, new = generator(recipe, HEADS, 0), generator(recipe, scope, 1)
    found = inherit(new, scope, known, HEADS)
    before, after = (
        painted(network, recipe, one, names) for network, one in ((known, HEADS), (new, scope))
    )
    if scope is not PERMUTED:
        assert found.told("old") == f"took {found.layers} of {found.layers} layers of old"
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert (found.new, found.left) == ((), ())
    if kind != "topdown":  # it also reads of a label that it is nowhere: of numbers 2 and 3
        for name in before:
            torch.testing.assert_close(before[name], after[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_another_name_is_drawn_afresh_and_told(tiny, kind):
    recipe, names = tiny("image.size=32", *KINDS[kind]), ["background", "head", "lesion"]
    known, new = generator(recipe, HEADS, 0), generator(recipe, MORE, 1)
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    found = inherit(new, MORE, known, HEADS)
    assert (found.whole + found.part, found.layers) == (len({*_layers(new)}),) * 2
    assert (found.new, found.left) == (("label edema", "modality T1c"), ())
    assert torch.equal(new.paint.weight[1], fresh["paint.weight"][1])
    assert torch.equal(new.paint.bias[[0, 2]], known.paint.bias)
    first = {"dcgan": "start", "topdown": "encoder.0"}.get(kind, "body.0") + ".weight"
    theirs, ours = known.state_dict()[first], new.state_dict()[first]
    assert torch.equal(ours[:, [0, 1, 3]], theirs[:, :3])
    assert torch.equal(ours[:, 2], fresh[first][:, 2])
    assert torch.equal(ours[:, 4:], theirs[:, 3:])  # noise and codes
    if kind != "topdown":
        before, after = painted(known, recipe, HEADS, names), painted(new, recipe, MORE, names)
        for name in before:
            torch.testing.assert_close(before[name], after[name], atol=1e-5, rtol=1e-4)
    back = inherit(generator(recipe, HEADS, 2), HEADS, new, MORE)
    assert back.told("old").endswith("; not taken over: label edema, modality T1c")
    assert (back.whole, back.part) == (back.layers, 0)


def _layers(network: nn.Module) -> list[str]:
    return [name.rpartition(".")[0] for name in network.state_dict()]


def test_layers_of_other_shapes_are_left_as_they_are(tiny):
    plain = ("image.size=32", *KINDS["resnet"])
    shallow, wide = tiny(*plain, "generator.blocks=1"), tiny(*plain, "generator.width=8")
    new, fresh = generator(wide, HEADS, 0), generator(wide, HEADS, 0)
    found = inherit(new, HEADS, generator(shallow, HEADS, 1), HEADS)
    assert 0 < found.whole + found.part < found.layers
    assert not torch.equal(new.paint.bias, fresh.paint.bias)  # which fits
    assert torch.equal(new.paint.weight, fresh.paint.weight)


def test_a_generator_of_another_package_needs_the_same_labels_and_modalities():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 2, 1)

    known, new = Other(), Other()
    assert inherit(new, HEADS, known, HEADS).whole == 1
    assert torch.equal(new.layer.weight, known.layer.weight)
    with pytest.raises(RunError, match="Other, a generator of another package, does not say"):
        inherit(new, PERMUTED, known, HEADS)


def finished(path: Path, recipe: Recipe, *, seed: int = 0, **more: object) -> RunFolder:
    """A run folder as a training leaves it, with a generator of random weights."""
    folder = RunFolder.create(path, recipe)
    site = {"cases": 3, "share": 1.0, "modalities": ["T1", "T2"]}
    facts = RunFacts(
        "ab", "0", recipe.digest(), "inprocess", state="finished", steps=6, sites={"north": site}
    )
    vars(facts).update(HEADS.to_plain(), **more)
    facts.generator_sha256 = folder.write_generator(generator(recipe, HEADS, seed), facts)
    folder.write_facts(facts)
    return folder


def test_a_run_that_cannot_be_started_from_is_refused_with_a_reason(tiny, tmp_path):
    recipe = tiny("image.size=32")
    run = finished(tmp_path / "run", recipe)
    assert Start.of(run, tiny("image.size=64"), ["north"]).name == "run"

    def refused(run, recipe, match, sites=()):
        with pytest.raises(RunError, match=match):
            Start.of(run, recipe, sites)

    other = tiny("image.size=32", *KINDS["resnet"])
    refused(run, other, "a generator of kind 'topdown', and recipe 'tiny' one of kind 'resnet'")
    private = tiny(
        "image.size=32", "masks.source=given", "masks.release=false", "privacy.kind=discriminator",
        "privacy.noise=2", "training.hold_out=0",
    )  # fmt: skip
    refused(run, private, "without differential privacy, so epsilon")
    held = tiny("image.size=32", "training.hold_out=0.2")
    holds = "trained on patients that recipe 'tiny' would hold out"
    refused(run, held, holds, ["north", "south"])
    Start.of(run, held, ["south"])
    Start.of(finished(tmp_path / "held", held), held, ["north"])
    refused(RunFolder(tmp_path), recipe, "is no run folder")
    begun = finished(tmp_path / "begun", recipe, state="interrupted")
    begun.generator_file.unlink()
    refused(begun, recipe, "is interrupted at step 6; finish it")
    network = run.generator()
    with torch.no_grad():
        network.paint.bias[0] = torch.nan
    run.write_facts(
        replace(run.facts(), generator_sha256=run.write_generator(network, run.facts()))
    )
    refused(run, recipe, "numbers that are not finite")
    run.generator_file.write_bytes(b"broken")
    refused(RunFolder(run.path), recipe, r"is another generator than the one that run\.json says")


def test_a_run_of_records_starts_from_one_of_the_same_columns(tables, tmp_path):
    recipe = plan_tables(tables, [])
    assert recipe and recipe.table
    run = RunFolder.create(tmp_path / "run", recipe)
    facts = RunFacts("ab", "0", recipe.digest(), "inprocess", state="finished")
    scope = Scope(("record",), dict(enumerate(recipe.table.classes)), recipe.space)
    vars(facts).update(scope.to_plain())
    facts.generator_sha256 = run.write_generator(new_generator(recipe, scope), facts)
    run.write_facts(facts)
    found = inherit(new_generator(recipe, scope), scope, Start.of(run, recipe, []).generator, scope)
    assert found.whole == found.layers

    def changed(change):
        columns = tuple(map(change, recipe.table.columns))
        return recipe.model_copy(
            update={"table": recipe.table.model_copy(update={"columns": columns})}
        )

    knots = {"knots": (0.0, 9.0)}
    Start.of(run, changed(lambda one: one.model_copy(update=knots) if one.knots else one), [])
    with pytest.raises(RunError, match="makes records of other columns"):
        Start.of(run, changed(lambda one: one.model_copy(update={"name": f"x {one.name}"})), [])


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
    other = tiny("image.size=32", *KINDS["resnet"])
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
