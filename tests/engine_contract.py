"""What every engine promises, as tests of a fixture `engine`: its recipe, setups and transport."""

import os
import signal

import pytest
import torch

from asyndgan.engines import SiteSetup, set_up
from asyndgan.errors import SiteUnreachableError
from asyndgan.protocol import Exchange
from asyndgan.recipe import Recipe
from asyndgan.wire.messages import ANSWERS, Judge, Judgement, Message, Open, Refusal, pack, unpack
from waiting import halt

RUN = "abc123"
WAIT = 120.0  # seconds; the first answer of a process comes when it has imported torch


def opening(recipe: Recipe, step: int = 0) -> bytes:
    return pack(Open(run=RUN, recipe=recipe.digest(), step=step), {})


def painted(recipe: Recipe, value: float = 0.1) -> torch.Tensor:
    return torch.full((2, 1 if recipe.table else 3, *recipe.space), value)


def judging(recipe: Recipe, step: int = 0, value: float = 0.1) -> bytes:
    judge = Judge(run=RUN, step=step, batch=step, images=painted(recipe, value))
    return pack(judge, {"images": recipe.wire.images})


def message(payload: bytes) -> Message:
    return unpack(payload, ANSWERS, limit=2**24)


class Contract:
    """Of an engine whose sites are at step 0."""

    def test_sites_are_named_in_the_order_in_which_they_were_given(self, engine):
        assert engine.transport.sites() == ("north", "south")

    def test_a_site_answers_with_the_very_bytes_of_its_endpoint(self, engine, tmp_path):
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

    def test_a_request_that_is_repeated_gets_the_same_answer(self, engine):
        first = engine.transport.send("north", judging(engine.recipe), WAIT)
        assert isinstance(message(first), Judgement)
        assert engine.transport.send("north", judging(engine.recipe), WAIT) == first

    def test_what_makes_no_sense_is_refused_and_the_site_lives_on(self, engine):
        for nonsense in (b"", b"nonsense", judging(engine.recipe)[:-1], os.urandom(2**17)):
            answer = message(engine.transport.send("north", nonsense, WAIT))
            assert isinstance(answer, Refusal)
            assert answer.code == "malformed"
        assert isinstance(
            message(engine.transport.send("north", judging(engine.recipe), WAIT)), Judgement
        )

    def test_all_sites_are_asked_at_once_and_every_byte_is_counted(self, engine):
        exchange = Exchange(engine.transport, engine.recipe)
        images = painted(engine.recipe)
        requests = {
            site: Judge(run=RUN, step=0, batch=0, images=images) for site in ("south", "north")
        }
        result = exchange.ask(requests)
        assert list(result.answers) == ["south", "north"]
        assert all(isinstance(answer, Judgement) for answer in result.answers.values())
        payload = pack(requests["north"], {"images": engine.recipe.wire.images})
        sent = len(payload)
        assert exchange.to_sites == {("south", "judge"): sent, ("north", "judge"): sent}
        again = engine.transport.send("north", payload, WAIT)
        assert exchange.from_sites["north", "judgement"] == len(again)

    def test_a_refusal_is_a_missed_answer_with_the_sites_reason(self, engine):
        exchange = Exchange(engine.transport, engine.recipe)
        result = exchange.ask({"north": Open(run=RUN, recipe="0" * 64, step=0)})
        assert not result.answers
        assert str(result.missed["north"]).startswith(
            "site north refused 'open': this site was set up"
        )

    def test_a_site_that_is_not_there_cannot_be_reached(self, engine):
        with pytest.raises(SiteUnreachableError, match="site west is not connected"):
            engine.transport.send("west", opening(engine.recipe), WAIT)
        result = Exchange(engine.transport, engine.recipe).ask(
            {"west": Open(run=RUN, recipe=engine.recipe.digest(), step=0)}
        )
        assert isinstance(result.missed["west"], SiteUnreachableError)


class OfProcesses:
    """Of an engine whose sites have processes of their own."""

    def test_an_answer_that_comes_too_late_is_dropped_by_its_number(self, engine):
        transport, pid = engine.transport, engine.transport.pid("north")
        halt(pid)
        try:
            with pytest.raises(
                SiteUnreachableError, match="site north: there was no answer in time"
            ):
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

    def test_one_site_that_hangs_holds_no_other_up(self, engine):
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
