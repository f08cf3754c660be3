"""What every engine promises. The sites of each are started once for all tests (see conftest)."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from asyndgan.engines import ENGINES, InProcess, SiteSetup, build_engine, set_up
from asyndgan.errors import RunError, SiteUnreachableError
from asyndgan.protocol import Exchange
from asyndgan.recipe import Recipe
from asyndgan.wire import ANSWERS, Judge, Judgement, Message, Open, Refusal, pack, unpack
from waiting import halt

RUN = "abc123"
WAIT = 120.0  # seconds; the first answer of a process comes when it has imported torch


# FLARE takes 20 s to start, and tests/e2e/test_tables.py trains on tables by it.
@pytest.fixture(params=[*ENGINES, "inprocess tables", "processes tables"])
def engine(request: pytest.FixtureRequest, running: Callable[..., Any]) -> Iterator[Any]:
    """A running engine, its sites at step 0."""
    found = running(*request.param.split())
    for site in found.transport.sites():
        found.transport.send(site, opening(found.recipe), WAIT)
    yield found


def opening(recipe: Recipe, step: int = 0) -> bytes:
    return pack(Open(run=RUN, recipe=recipe.digest(), step=step), {})


def painted(recipe: Recipe, value: float = 0.1) -> torch.Tensor:
    return torch.full((2, 1 if recipe.table else 3, *recipe.space), value)


def judging(recipe: Recipe, step: int = 0, value: float = 0.1) -> bytes:
    judge = Judge(run=RUN, step=step, batch=step, images=painted(recipe, value))
    return pack(judge, {"images": recipe.wire.images})


def message(payload: bytes) -> Message:
    return unpack(payload, ANSWERS, limit=2**24)


def test_sites_are_named_in_the_order_in_which_they_were_given(engine: Any) -> None:
    assert engine.transport.sites() == ("north", "south")


def test_a_site_answers_with_the_very_bytes_of_its_endpoint(engine: Any, tmp_path: Path) -> None:
    # The engine adds nothing and loses nothing: the same site, called directly, says the same.
    for setup in engine.setups:
        direct = set_up(SiteSetup(setup.name, setup.data, tmp_path / setup.name), engine.recipe)
        for request in (
            opening(engine.recipe),
            judging(engine.recipe, 0),
            judging(engine.recipe, 1, 0.3),
            judging(engine.recipe, 1, 0.3),
        ):
            sent = engine.transport.send(setup.name, request, WAIT)
            assert sent == direct.answer(request)


def test_a_request_that_is_repeated_gets_the_same_answer(engine: Any) -> None:
    first = engine.transport.send("north", judging(engine.recipe), WAIT)
    assert isinstance(message(first), Judgement)
    assert engine.transport.send("north", judging(engine.recipe), WAIT) == first


def test_what_makes_no_sense_is_refused_and_the_site_lives_on(engine: Any) -> None:
    for nonsense in (b"", b"nonsense", judging(engine.recipe)[:-1], os.urandom(2**17)):
        answer = message(engine.transport.send("north", nonsense, WAIT))
        assert isinstance(answer, Refusal)
        assert answer.code == "malformed"
    assert isinstance(
        message(engine.transport.send("north", judging(engine.recipe), WAIT)), Judgement
    )


def test_all_sites_are_asked_at_once_and_every_byte_is_counted(engine: Any) -> None:
    exchange = Exchange(engine.transport, engine.recipe)
    images = painted(engine.recipe)
    requests = {site: Judge(run=RUN, step=0, batch=0, images=images) for site in ("south", "north")}
    result = exchange.ask(requests)
    assert list(result.answers) == ["south", "north"]
    assert all(isinstance(answer, Judgement) for answer in result.answers.values())
    payload = pack(requests["north"], {"images": engine.recipe.wire.images})
    sent = len(payload)
    assert exchange.to_sites == {("south", "judge"): sent, ("north", "judge"): sent}
    again = engine.transport.send("north", payload, WAIT)
    assert exchange.from_sites["north", "judgement"] == len(again)


def test_a_refusal_is_a_missed_answer_with_the_sites_reason(engine: Any) -> None:
    exchange = Exchange(engine.transport, engine.recipe)
    result = exchange.ask({"north": Open(run=RUN, recipe="0" * 64, step=0)})
    assert not result.answers
    assert str(result.missed["north"]).startswith("site north refused 'open': this site was set up")


def test_a_site_that_is_not_there_cannot_be_reached(engine: Any) -> None:
    with pytest.raises(SiteUnreachableError, match="site west is not connected"):
        engine.transport.send("west", opening(engine.recipe), WAIT)
    result = Exchange(engine.transport, engine.recipe).ask(
        {"west": Open(run=RUN, recipe=engine.recipe.digest(), step=0)}
    )
    assert isinstance(result.missed["west"], SiteUnreachableError)


@pytest.mark.parametrize("engine", ["processes", "processes tables", "flare"], indirect=True)
def test_an_answer_that_comes_too_late_is_dropped_by_its_number(engine: Any) -> None:
    transport, pid = engine.transport, engine.transport.pid("north")
    halt(pid)
    try:
        with pytest.raises(SiteUnreachableError, match="site north: there was no answer in time"):
            transport.send("north", judging(engine.recipe), 0.2)
        with pytest.raises(SiteUnreachableError):
            transport.send("north", opening(engine.recipe, step=1), 0.2)
        assert "north" in transport.sites()
    finally:
        os.kill(pid, signal.SIGCONT)
    # Both late answers, a judgement and a card, come first; neither is taken for this one's.
    answer = message(transport.send("north", judging(engine.recipe, step=5), WAIT))
    assert isinstance(answer, Refusal)
    assert "batch 5 was not offered" in answer.reason


@pytest.mark.parametrize("engine", ["processes", "processes tables", "flare"], indirect=True)
def test_one_site_that_hangs_holds_no_other_up(engine: Any) -> None:
    pid = engine.transport.pid("north")
    halt(pid)
    try:
        with pytest.raises(SiteUnreachableError):
            engine.transport.send("north", judging(engine.recipe), 0.1)
        assert isinstance(
            message(engine.transport.send("south", judging(engine.recipe), WAIT)), Judgement
        )
    finally:
        os.kill(pid, signal.SIGCONT)


def commands_with(words: str) -> list[str]:
    """Of the processes of this machine."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(place.read_bytes().decode(errors="replace"))
    return [command for command in found if words in command]


@pytest.mark.parametrize("name", ENGINES)
def test_a_closed_engine_reaches_nobody_and_leaves_no_process(
    name: str, tiny: Callable[..., Recipe], phantoms: dict[str, Path], tmp_path: Path
) -> None:
    recipe = tiny("image.size=32")
    setup = SiteSetup("north", phantoms["north"], tmp_path)
    transport: Any = build_engine(name, [setup], recipe)
    pid, own = None, ""
    if not isinstance(transport, InProcess):
        transport.send("north", opening(recipe), WAIT)
        pid = transport.pid("north")
    if name == "flare":
        own = str(transport.folder)
        assert commands_with(own)
    transport.close()
    end = time.monotonic() + 30.0
    while own and commands_with(own):  # FLARE's jobs notice within seconds that it is gone
        assert time.monotonic() < end
        time.sleep(0.2)
    assert transport.sites() == ()
    with pytest.raises(SiteUnreachableError):
        transport.send("north", opening(recipe), WAIT)
    if pid is not None:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    transport.close()


def test_an_engine_that_does_not_exist_is_answered_with_those_that_do(
    tiny: Callable[..., Recipe],
) -> None:
    with pytest.raises(RunError, match="choose one of inprocess, processes, flare"):
        build_engine("carrier-pigeon", [], tiny())


def test_a_setup_survives_the_way_to_another_process(tmp_path: Path) -> None:
    setup = SiteSetup("north", tmp_path / "data", tmp_path / "state", share=2.5, patients="(.*)")
    assert SiteSetup.from_plain(setup.to_plain()) == setup


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them"
)
def test_a_sites_process_computes_on_as_many_cores_as_it_is_given(
    tiny: Callable[..., Recipe], phantoms: dict[str, Path], tmp_path: Path
) -> None:
    recipe = tiny("image.size=32")
    found = []
    for threads in (1, 4):
        setup = SiteSetup("north", phantoms["north"], tmp_path / str(threads), threads=threads)
        with closing(build_engine("processes", [setup], recipe)) as started:
            engine: Any = started
            engine.send("north", opening(recipe), WAIT)
            assert isinstance(message(engine.send("north", judging(recipe), WAIT)), Judgement)
            found.append(len(list(Path(f"/proc/{engine.pid('north')}/task").iterdir())))
    assert found[1] >= found[0] + 3
