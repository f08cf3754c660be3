"""Which of the runs that were ordered in a federation is trained next."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asyndgan.engines.flare.localhost import federation_here
from asyndgan.recipe import Recipe
from asyndgan.runs import federated
from asyndgan.runs.order import Order
from waiting import until


def test_a_run_that_fails_again_and_again_rests_and_keeps_nobody_waiting_once_it_is_stopped(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = federation_here(tmp_path / "f", tmp_path / "north")
    first, _ = (Order.submit(federation, name, tiny(), ()) for name in ("first", "second"))
    begun: list[str] = []
    ended: list[subprocess.Popen[bytes]] = []

    def begin(order: Order, device: str) -> subprocess.Popen[bytes]:
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


def test_the_process_of_a_run_imports_torch_only_while_its_sites_connect() -> None:
    code = f"import sys, {federated.MODULE}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
