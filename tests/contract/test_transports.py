"""What every engine promises. The sites of each are started once for all tests (see conftest)."""

import os
from pathlib import Path
from typing import Any

import pytest

from asyndgan.engines import SiteSetup, build_engine
from asyndgan.errors import RunError, SiteUnreachableError
from asyndgan.protocol import Transport
from asyndgan.recipe import Recipe
from asyndgan.wire.messages import Judgement
from engine_contract import WAIT, Contract, OfProcesses, judging, message, opening

# FLARE takes 20 s to start: tests/e2e/test_federation.py has its engine.
KINDS = ["inprocess", "inprocess tables", "inprocess volumes", "processes"]


@pytest.fixture
def engine(request, running):
    """A running engine, its sites at step 0."""
    found = running(*request.param.split())
    for site in found.transport.sites():
        found.transport.send(site, opening(found.recipe), WAIT)
    return found


@pytest.mark.parametrize("engine", KINDS, indirect=True)
class TestEngines(Contract):
    pass


@pytest.mark.parametrize("engine", ["processes"], indirect=True)
class TestProcesses(OfProcesses):
    pass


def test_an_engine_that_does_not_exist_is_answered_with_those_that_do(tiny):
    with pytest.raises(RunError, match="choose one of inprocess, processes, flare"):
        build_engine("carrier-pigeon", [], tiny())


def test_a_setup_survives_the_way_to_another_process(tmp_path):
    setup = SiteSetup("north", tmp_path / "data", tmp_path / "state", share=2.5, device="mps")
    assert SiteSetup.from_plain(setup.to_plain()) == setup


def closed(transport: Transport, recipe: Recipe) -> None:
    """Closes an engine, which then reaches nobody."""
    transport.close()
    assert transport.sites() == ()
    with pytest.raises(SiteUnreachableError):
        transport.send("north", opening(recipe), WAIT)
    transport.close()


def test_a_closed_engine_reaches_nobody(tiny, phantoms, tmp_path):
    recipe = tiny("image.size=32")
    setup = SiteSetup("north", phantoms["north"], tmp_path)
    closed(build_engine("inprocess", [setup], recipe), recipe)


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them"
)
def test_a_sites_process_computes_on_as_many_cores_as_it_is_given_and_ends_with_its_engine(
    running, phantoms, tmp_path
):
    def threads(transport: Any) -> int:
        transport.send("north", opening(one.recipe), WAIT)
        assert isinstance(message(transport.send("north", judging(one.recipe), WAIT)), Judgement)
        return len(list(Path(f"/proc/{transport.pid('north')}/task").iterdir()))

    one = running("processes")
    setup = SiteSetup("north", phantoms["north"], tmp_path, threads=4)
    four: Any = build_engine("processes", [setup], one.recipe)
    try:
        assert threads(four) >= threads(one.transport) + 3
    finally:
        pid = four.pid("north")
        closed(four, one.recipe)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
