"""Checkpoints of strangers: taken up, or refused by one of our errors.

Mutations start from real checkpoints: tensors of other shapes, kinds and values, missing and
renamed ones, and facts that are missing or something else.
"""

import copy
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from asyndgan.errors import AsyndganError, ProtocolError, RunError
from asyndgan.judging.asked import NAME, restored
from asyndgan.models.segmenters import build_segmenter
from asyndgan.training import Coordinator, Site, checkpoint
from asyndgan.training.checkpoint import State
from asyndgan.training.optimiser import adam
from asyndgan.wire.messages import Evaluate, Judge, Open
from spoiling import fuzz

RUN = "abc123"
half = settings(fuzz, max_examples=settings.default.max_examples // 2)
CHANGES: list[Callable[[Tensor], Tensor]] = [
    lambda value: value.flatten()[:1], lambda value: value.flatten()[:0], lambda value: value[None],
    lambda value: torch.cat([value.flatten(), value.flatten()]), lambda value: value.to(torch.int8),
    lambda value: value.to(torch.float64), lambda value: value.to(torch.complex64),
    lambda value: torch.full_like(value, float("nan"), dtype=torch.float32),
    lambda value: torch.full_like(value, -1),
    lambda value: torch.full_like(value, float("inf"), dtype=torch.float32),
]  # fmt: skip
FACTS: list[Any] = [
    None, True, -1, 3, 2**70, 0.5, float("nan"), "", "x" * 99, "../../x", [], [7], [None], {},
    {"x": 1},
]  # fmt: skip


def containers(value: Any) -> Iterator[Any]:
    """Every object and list in a JSON value that holds something, itself first."""
    if isinstance(value, dict | list) and value:
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from containers(inner)


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[State], State]:
    """Changes one to three places of a state."""
    places = [
        (draw(st.sampled_from(["tensor", "tensor", "drop", "rename", "fact", "inner fact"])),
         draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6)))
        for _ in range(draw(st.integers(1, 3)))
    ]  # fmt: skip

    def mutated(state: State) -> State:
        tensors, about = dict(state[0]), copy.deepcopy(state[1])
        for kind, where, how in places:
            keys = sorted(tensors)
            key = keys[where % len(keys)]
            if kind == "tensor":
                tensors[key] = CHANGES[how % len(CHANGES)](tensors[key])
            elif kind == "drop":
                del tensors[key]
            elif kind == "rename":
                names = [f"{key}/0", f"x{key}", keys[how % len(keys)], f"optimiser/{2**70}/step"]
                tensors[names[how % len(names)]] = tensors.pop(key)
            else:
                facts = list(containers(about))
                inside = facts[how % len(facts) if kind == "inner fact" else 0]
                place = sorted(inside)[where % len(inside)] if isinstance(inside, dict) else 0
                inside[place] = copy.deepcopy(FACTS[how % len(FACTS)])
                if how % 7 == 0:
                    del inside[place]
        return tensors, about

    return mutated


@pytest.fixture(scope="module")
def begin(tiny, make_sites, make_cohort):
    recipe = tiny()
    sites = {name: make_cohort(recipe, cases=8, seed=n) for n, name in enumerate("ab")}

    def begun(state=None):
        exchange = make_sites(recipe, sites).exchange
        return Coordinator.begin(recipe, exchange, run=RUN, checkpoint=state, needed={"a"})

    return begun


@pytest.fixture(scope="module")
def stored(begin):
    coordinator = begin()
    coordinator.step()
    coordinator.roster.drop("b")
    for _ in range(2):
        coordinator.step()
    return copy.deepcopy(coordinator.state())


@half
@given(mutations())
def test_a_coordinators_checkpoint_is_taken_up_or_refused_by_our_error(begin, stored, mutate):
    try:
        coordinator = begin(mutate(stored))
        coordinator.step()
        coordinator.step()
    except AsyndganError:
        pass


@pytest.fixture(scope="module")
def state_of_north(tiny, make_sites, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites")
    coordinator = make_sites(tiny(), folder=folder).begin()
    coordinator.step()
    coordinator.roster.save(coordinator.step_number)
    return checkpoint.read(checkpoint.step_file(folder / "north" / f"run-{RUN}", 1))


@half
@given(mutations())
def test_a_sites_checkpoint_is_taken_up_or_refused_by_our_error(
    tiny, make_cohort, tmp_path_factory, state_of_north, mutate
):
    folder = tmp_path_factory.mktemp("site") / "north"
    recipe = tiny()
    checkpoint.write(checkpoint.step_file(folder / f"run-{RUN}", 1), *mutate(state_of_north))
    north = Site("north", make_cohort(recipe, cases=6, seed=1), recipe, folder=folder)
    try:
        north.handle(Open(run=RUN, recipe=recipe.digest(), step=1))
        images = torch.zeros(2, 1, 16, 16)
        north.handle(Judge(run=RUN, step=north.step, batch=north.next_batch, images=images))
    except AsyndganError:
        pass
    finally:
        north.release.close()


@pytest.fixture(scope="module")
def network():
    return build_segmenter(1, 3, width=4, space=(32, 32))


@half
@given(mutations(), st.binary(max_size=40), st.integers(0, 10**6))
def test_weights_of_a_network_that_a_site_judges_are_taken_up_or_refused(
    network, tmp_path_factory, mutate, noise, where
):
    place = tmp_path_factory.mktemp("asked")
    tensors, _ = mutate((checkpoint.network_state(NAME, network), {"x": [1]}))
    checkpoint.write(place / "sent", tensors, {})
    sent = bytearray((place / "sent").read_bytes())
    at = where % len(sent)
    sent[at : at + len(noise)] = noise
    weights = torch.frombuffer(sent, dtype=torch.uint8)
    asked = Evaluate(run=RUN, recipe="", facts="", network="unet", width=4, weights=weights)
    try:
        model = restored(lambda: copy.deepcopy(network), asked, place)
    except ProtocolError:
        return
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_an_optimisers_state_of_other_shapes_is_refused():
    """Torch's fused Adam would read and write beyond the end of so short a tensor."""
    network = nn.Linear(1000, 1)
    optimiser = adam(network, 1e-3)
    network(torch.ones(1, 1000)).sum().backward()
    optimiser.step()
    state = checkpoint.optimiser_state("adam", optimiser)
    checkpoint.load_optimiser("adam", optimiser, state)
    for key in state:
        with pytest.raises(RunError, match="'adam' does not fit"):
            checkpoint.load_optimiser("adam", optimiser, state | {key: torch.ones(2)})
    with pytest.raises(RunError, match="'adam' does not fit"):
        checkpoint.load_optimiser("adam", optimiser, state | {"adam/2/step": torch.ones(())})


class Payload:
    """Leaves a file when it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.ran,)


Tamper = Callable[[Path, State], object]


def spoiled(key: str, fact: str = "", value: object = None) -> Tamper:
    """Writes a state anew, with a tensor that is not finite or another fact."""

    def tamper(path: Path, state: State) -> None:
        tensors, about = state
        if key:
            tensors |= {key: torch.full_like(tensors[key], float("nan"))}
        checkpoint.write(path, tensors, about | ({fact: value} if fact else {}))

    return tamper


def flipped(path: Path, state: State) -> None:
    """Changes one bit of the last tensor."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def pickled(path: Path, state: State) -> None:
    path.write_bytes(pickle.dumps(Payload(path.with_name("ran"))))


def vast(path: Path, state: State) -> None:
    """Says that its first tensor is of 2^50 numbers."""
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    header = json.loads(path.read_bytes()[8 : 8 + length])
    next(v for k, v in header.items() if k != "__metadata__")["shape"] = [2**25, 2**25]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + path.read_bytes()[8 + length :])


BY_BYTES: dict[str, Tamper] = {"a bit": flipped, "a pickle": pickled, "a vast array": vast}


def first(state: State, start: str) -> str:
    return next(key for key in sorted(state[0]) if key.startswith(start))


@pytest.mark.parametrize("how", [*BY_BYTES, "another run", "weights", "optimiser"])
def test_a_run_does_not_go_on_from_a_coordinators_checkpoint_that_was_tampered_with(
    how, begin, stored, tmp_path
):
    path, state = checkpoint.step_file(tmp_path, 3), copy.deepcopy(stored)
    checkpoint.write(path, *state)
    ours = {
        "another run": spoiled("", "run", "def456"),
        "weights": spoiled(first(state, "generator/")),
        "optimiser": spoiled(first(state, "optimiser/0/exp_avg_sq")),
    }
    (BY_BYTES | ours)[how](path, state)
    with pytest.raises(RunError, match=r"not as it was|not a whole|not finite|another run"):
        begin(checkpoint.to_resume(tmp_path))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("how", [*BY_BYTES, "another run", "another recipe", "weights"])
def test_a_site_takes_up_no_state_that_was_tampered_with(
    how, tiny, make_cohort, state_of_north, tmp_path
):
    """It begins anew where the file is no state, and refuses where it is another's."""
    path = checkpoint.step_file(tmp_path / f"run-{RUN}", 1)
    state = copy.deepcopy(state_of_north)
    checkpoint.write(path, *state)
    ours = {
        "another run": spoiled("", "run", "def456"),
        "another recipe": spoiled("", "recipe", "0" * 64),
        "weights": spoiled(first(state, "discriminator/")),
    }
    (BY_BYTES | ours)[how](path, state)
    recipe = tiny()
    north = Site("north", make_cohort(recipe, cases=6, seed=1), recipe, folder=tmp_path)
    with suppress(RunError):
        north.handle(Open(run=RUN, recipe=recipe.digest(), step=1))
    assert north.step == 0
    assert not path.with_name("ran").exists()
    north.release.close()
