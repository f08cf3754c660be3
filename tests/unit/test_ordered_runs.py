"""Which of the runs that were ordered in a federation is trained next."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asyndgan.engines.flare.kits import Federation, remove_site
from asyndgan.engines.flare.localhost import federation_here, join
from asyndgan.errors import BusyError, Interrupted, RunError
from asyndgan.protocol import Transport
from asyndgan.runs import federated
from asyndgan.runs.order import Order, sites_alone
from commands import asyndgan
from waiting import until


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return federation_here(folder / "f", folder / "north")


@pytest.fixture
def federation(made, tmp_path):
    """A copy: to make keys takes seconds."""
    return Federation.of(Path(shutil.copytree(made.path, tmp_path / "f")))


@pytest.fixture
def ordered(federation, tiny):
    """Orders a run of all sites, or orders it again."""

    def order(name="one", *, recipe=None, yes=False):
        return Order.submit(federation, name, recipe or tiny(), (), yes=yes)

    return order


def test_a_run_that_fails_again_and_again_rests_and_keeps_nobody_waiting_once_it_is_stopped(
    federation, ordered, monkeypatch
):
    first, _ = ordered("first"), ordered("second")
    begun: list[str] = []
    ended: list[subprocess.Popen[bytes]] = []

    def begin(order, device):
        begun.append(order.name)
        ended.append(subprocess.Popen([sys.executable, "-c", f"exit({federated.AGAIN})"]))
        return ended[-1]

    monkeypatch.setattr(federated, "begin", begin)
    monkeypatch.setattr(federated, "PAUSE_S", 1000.0)  # longer than this test
    work = federated._Work(federation, "cpu")
    work.look()
    until(lambda: ended[0].poll() is not None)
    for _ in range(3):
        work.look()
    assert begun == ["first"]  # it rests, and keeps its place
    first.stop()
    work.look()
    assert begun == ["first", "second"]
    work.close()


def test_somebody_is_asked_again_only_if_what_the_cards_say_has_changed(ordered):
    order = ordered()
    order.confirm("paints T1")
    order.await_confirmation("paints T1")  # as after a crash before the first checkpoint
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(order.await_confirmation, "paints T1, T2")
        try:
            until(lambda: order.said("proposal") == "paints T1, T2" and order.said("waiting"))
            order.confirm("paints T2")  # what somebody saw who was too late
            assert not waits.done() and order.said("waiting")
        finally:
            order.stop()
        with pytest.raises(Interrupted, match="was stopped before it was confirmed"):
            waits.result(60)
    assert not order.said("proposal") and not order.said("waiting")
    ordered(yes=True).await_confirmation("paints whatever")


def test_a_run_that_waits_for_stewards_says_so_and_can_be_stopped(ordered, monkeypatch):
    monkeypatch.setattr("asyndgan.runs.order.STEWARDS_S", 0.0)
    order, why = ordered(yes=True), "site north: its steward has not approved the recipe."
    order.await_stewards(why)
    assert "steward has not approved" in asyndgan("federation", "status", order.federation.path)
    order.stop()
    with pytest.raises(Interrupted, match="was stopped before it was approved"):
        order.await_stewards(why)
    ordered(yes=True).await_confirmation("paints T1")
    assert not order.said("trouble")


def test_a_run_waits_while_its_sites_answer_questions_and_goes_on_after_a_failure(ordered):
    order = ordered()
    with (
        sites_alone(order.federation),
        pytest.raises(BusyError, match="serve another run or question"),
    ):
        order.train()
    assert order.state() == "ordered"
    order.say("failed", "a disk was full")
    assert order.state() == "failed" and ordered().state() == "ordered"


def test_a_run_waits_for_the_one_that_learns_its_masks_as_long_as_that_goes_on(ordered, tiny):
    """Also where both are submitted again while its own process starts."""
    order = ordered(recipe=tiny("masks.source=given", "masks.release=false"))
    assert order.first
    with pytest.raises(BusyError, match="run one-masks, which learns its masks, comes first"):
        order.train()
    order.first.stop()
    with pytest.raises(RunError, match="its masks, is stopped: submit run one again, and both go"):
        order.train()
    Order.submit(order.federation, "one", order.folder.recipe(), ())
    order.first.say("failed", "north refuses the run.")
    with pytest.raises(RunError, match=r"has failed\. north refuses the run\. Once that"):
        order.train()


def test_a_run_of_which_all_sites_were_removed_does_not_begin_with_whoever_is_there(
    ordered, tiny, tmp_path
):
    order = ordered()
    join(order.federation, tmp_path / "south")
    remove_site(Federation.of(order.federation.path), "north")

    class Line(Transport):
        def send(self, site, payload, timeout):
            raise AssertionError("nobody is asked before the run begins")

        def belongs(self, site):
            return site in Federation.of(order.federation.path).sites

        def sites(self):
            return ("south",)

    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(order.gather, Line(), tiny())
        until(lambda: order.said("waiting"))
        order.stop()
        with pytest.raises(Interrupted):
            waits.result(60)
    assert "were removed" in order.said("waiting")
    Order.submit(Federation.of(order.federation.path), "one", tiny(), ("south",))
    order.gather(Line(), tiny())


def test_a_run_is_refused_by_the_name_that_was_typed_and_told_how_long_one_may_be(ordered, tiny):
    given = tiny("masks.source=given", "masks.release=false")
    for name, recipe, valid in (
        (64 * "a", tiny(), True), (65 * "a", tiny(), False), ("--json", tiny(), False),
        ("a.b", tiny(), False), ("0-a", tiny(), True), (58 * "b", given, True),
        (59 * "b", given, False),
    ):  # fmt: skip
        if valid:
            assert ordered(name, recipe=recipe).name == name
            continue
        with pytest.raises(RunError, match=rf"^'{name}': name a run .* at most 64 .* masks, 58\."):
            ordered(name, recipe=recipe)


def test_what_the_first_policies_do_with_a_run_is_said_when_it_is_submitted(federation):
    for number, (words, said) in enumerate((
        (("default",), "run 0 waits for: asyndgan site approve SITE 0\n"),
        (("demo",), "  With 'measured' as well: it is outside what was measured (discriminator."),
        (("default", "--set", "masks.source=own"), "refuses run 2: condition.kind is mask"),
    )):  # fmt: skip
        told = asyndgan("federation", "submit", federation.path, *words, "--run", number, "--yes")
        assert said in told and ("'measured'" in told) is ("measured" in said)
