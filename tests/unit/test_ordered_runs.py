"""Which of the runs that were ordered in a federation is trained next."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from asyndgan.engines.flare.localhost import federation_here
from asyndgan.errors import BusyError, Interrupted, RunError
from asyndgan.runs import federated
from asyndgan.runs.order import Order, sites_alone
from commands import asyndgan
from waiting import until


def test_a_run_that_fails_again_and_again_rests_and_keeps_nobody_waiting_once_it_is_stopped(
    tiny, tmp_path, monkeypatch
):
    federation = federation_here(tmp_path / "f", tmp_path / "north")
    first, _ = (Order.submit(federation, name, tiny(), ()) for name in ("first", "second"))
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


def test_the_process_of_a_run_imports_torch_only_while_its_sites_connect():
    code = f"import sys, {federated.MODULE}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_somebody_is_asked_again_only_if_what_the_cards_say_has_changed(tiny, tmp_path):
    federation = federation_here(tmp_path / "f", tmp_path / "north")
    order = Order.submit(federation, "one", tiny(), ())
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
    Order.submit(federation, "one", tiny(), (), yes=True)
    order.await_confirmation("paints whatever")


def test_a_run_that_waits_for_stewards_says_so_and_can_be_stopped(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("asyndgan.runs.order.STEWARDS_S", 0.0)
    federation = federation_here(tmp_path / "f", tmp_path / "north")
    order = Order.submit(federation, "one", tiny(), (), yes=True)
    order.await_stewards("site north: its steward has not approved the recipe.")
    assert "steward has not approved" in asyndgan("federation", "status", federation.path)
    order.stop()
    with pytest.raises(Interrupted, match="was stopped before it was approved"):
        order.await_stewards("site north: its steward has not approved the recipe.")
    Order.submit(federation, "one", tiny(), (), yes=True)
    order.await_confirmation("paints T1")
    assert not order.said("trouble")


def test_a_run_waits_while_its_sites_answer_questions(tiny, tmp_path):
    federation = federation_here(tmp_path / "f", tmp_path / "north")
    order = Order.submit(federation, "one", tiny(), ())
    with (
        sites_alone(federation),
        pytest.raises(BusyError, match="serve another run or question"),
    ):
        order.train()
    assert order.state() == "ordered"


def test_a_run_waits_for_the_one_that_learns_its_masks_as_long_as_that_goes_on(tiny, tmp_path):
    """Also where both are submitted again while its own process starts."""
    federation = federation_here(tmp_path / "f", tmp_path / "north")
    given = tiny("masks.source=given", "masks.release=false")
    order = Order.submit(federation, "one", given, ())
    assert order.first and not federated._wants_work(order)
    with pytest.raises(BusyError, match="run one-masks, which learns its masks, comes first"):
        order.train()
    order.first.stop()
    assert federated._wants_work(order)
    with pytest.raises(RunError, match="run one-masks, which is stopped"):
        order.train()


@pytest.mark.parametrize(
    ("name", "masks", "valid"),
    [
        (64 * "a", "own", True), (65 * "a", "own", False), ("--json", "own", False),
        ("-a", "own", False), ("a.b", "own", False), ("0-a", "own", True),
        (58 * "a", "given", True), (59 * "a", "given", False),
    ],
)  # fmt: skip
def test_a_run_is_refused_by_the_name_that_was_typed_and_told_how_long_one_may_be(
    tiny, tmp_path, name, masks, valid
):
    federation = federation_here(tmp_path / "f", tmp_path / "north")
    release = ["masks.release=false"] if masks == "given" else []
    recipe = tiny(f"masks.source={masks}", *release)
    if valid:
        assert Order.submit(federation, name, recipe, ()).name == name
        return
    with pytest.raises(RunError, match=rf"^'{name}': name a run .* at most 64 .* masks, 58\."):
        Order.submit(federation, name, recipe, ())
    assert not Order.all(federation)


def test_what_the_first_policies_do_with_a_run_is_said_when_it_is_submitted(tmp_path):
    path = federation_here(tmp_path / "f", tmp_path / "north").path
    for number, (words, said) in enumerate((
        (("default",), "run 0 waits at each site for: asyndgan site approve SITE 0\n"),
        (("demo",), "  By 'measured' as well: it is outside what was measured (discriminator."),
        (("default", "--set", "masks.source=own"), "refuses run 2: condition.kind is mask"),
    )):  # fmt: skip
        told = asyndgan("federation", "submit", path, *words, "--run", number, "--yes")
        assert said in told and ("'measured'" in told) is ("measured" in said)
