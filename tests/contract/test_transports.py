"""What every engine promises. The sites of each are started once for all tests (see conftest)."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from asyndgan.engines import InProcess, SiteSetup, build_engine
from asyndgan.errors import RunError, SiteUnreachableError
from asyndgan.wire import Judgement
from engine_contract import WAIT, Contract, OfProcesses, judging, message, opening

# FLARE takes 20 s to start: tests/e2e/test_federation.py has its engine.
KINDS = [
    f"{name}{kind}" for name in ("inprocess", "processes") for kind in ("", " tables", " volumes")
]


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


@pytest.mark.parametrize("engine", ["processes", "processes tables"], indirect=True)
class TestProcesses(OfProcesses):
    pass


@pytest.mark.parametrize("name", ["inprocess", "processes"])
def test_a_closed_engine_reaches_nobody_and_leaves_no_process(name, tiny, phantoms, tmp_path):
    recipe = tiny("image.size=32")
    transport = build_engine(name, [SiteSetup("north", phantoms["north"], tmp_path)], recipe)
    pid = None
    if not isinstance(transport, InProcess):
        transport.send("north", opening(recipe), WAIT)
        pid = transport.pid("north")
    transport.close()
    assert transport.sites() == ()
    with pytest.raises(SiteUnreachableError):
        transport.send("north", opening(recipe), WAIT)
    if pid is not None:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    transport.close()


def test_an_engine_that_does_not_exist_is_answered_with_those_that_do(tiny):
    with pytest.raises(RunError, match="choose one of inprocess, processes, flare"):
        build_engine("carrier-pigeon", [], tiny())


def test_a_setup_survives_the_way_to_another_process(tmp_path):
    setup = SiteSetup("north", tmp_path / "data", tmp_path / "state", share=2.5, device="mps")
    assert SiteSetup.from_plain(setup.to_plain()) == setup


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them"
)
def test_a_sites_process_computes_on_as_many_cores_as_it_is_given(tiny, phantoms, tmp_path):
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
