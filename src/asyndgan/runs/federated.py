"""Trains the runs that were ordered in a federation, one after the other.

Each has a process of its own. One that crashes or lacks sites goes on from its checkpoint.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from asyndgan import children
from asyndgan.engines.federation import Federation, federation_in, served
from asyndgan.errors import (
    AsyndganError,
    BusyError,
    Interrupted,
    QuorumError,
    RunError,
    SiteUnreachableError,
    StorageError,
)
from asyndgan.locks import held
from asyndgan.runs.order import Order

if TYPE_CHECKING:  # it imports torch, which is imported while sites connect
    from asyndgan.runs.recorder import Progress

log = logging.getLogger(__name__)

AGAIN: Final = 75
"""Exit status of a run that should be started again (EX_TEMPFAIL)."""

MODULE: Final = "asyndgan.runs.federated"

PAUSE_S: Final = 1.0
"""Seconds between two checks for work."""

LONGEST_PAUSE_S: Final = 60.0
"""Longest pause in seconds between attempts at a run that ends within that time; pauses start at
two seconds and double."""

GRACE_S: Final = 60.0
"""Seconds for the step and the checkpoint of a run that a signal tells to end."""

STOP_S: Final = 30.0
STOP_TIMES: Final = 10
"""A run is asked to stop `STOP_TIMES` times, `STOP_S` seconds apart, before it is killed."""


def serve(federation: Federation, *, stop: Callable[[], bool], device: str = "cpu") -> None:
    """Keeps a federation's server running and trains ordered runs until `stop` returns True.

    Raises `BusyError` if another process serves this federation, or has its port.
    """
    busy = f"{federation.path} is served by another process already."
    with held(federation.path, busy), served(federation):
        work = _Work(federation, device)
        try:
            while not stop():
                try:
                    work.look()
                except (OSError, AsyndganError):
                    log.exception("runs cannot be looked after now")  # tried again next time
                time.sleep(PAUSE_S)
        finally:
            work.close()


@final
class _Work:
    """Trains one run at a time, each in a process of its own."""

    def __init__(self, federation: Federation, device: str) -> None:
        self.federation = federation
        self.device = device
        self._run: tuple[Order, subprocess.Popen[bytes]] | None = None
        self._resting: Order | None = None
        self._begun = self._not_before = 0.0
        self._wait = PAUSE_S

    def look(self) -> None:
        """Starts the next run if none is being trained, including one that crashed."""
        if self._run:
            order, process = self._run
            status = process.poll()
            if status is None:
                return
            self._run = None
            log.info("run %s: its process ended (%s): %s", order.name, status, order.state())
            quick = status != 0 and time.monotonic() - self._begun < LONGEST_PAUSE_S
            self._wait = min(2 * self._wait, LONGEST_PAUSE_S) if quick else PAUSE_S
            self._not_before = time.monotonic() + self._wait
            self._resting = order if quick else None
        if self._resting and time.monotonic() < self._not_before and _wants_work(self._resting):
            return  # once it is stopped, it keeps no other waiting
        for order in Order.all(self.federation):
            if _wants_work(order):
                self._run, self._begun = (order, begin(order, self.device)), time.monotonic()
                return

    def close(self) -> None:
        """Stops the run with a checkpoint, or kills it if it does not stop."""
        if not self._run:
            return
        process = self._run[1]
        for _ in range(STOP_TIMES):
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=STOP_S)
                return
        process.kill()  # its newest checkpoint is kept
        process.wait()


def _wants_work(order: Order) -> bool:
    try:
        return order.goes_on() and not (order.first and order.first.goes_on())
    except RunError as error:  # an unreadable run does not stop the others
        log.warning("run %s is passed over: %s", order.name, error)
        return False


def begin(order: Order, device: str) -> "subprocess.Popen[bytes]":
    """Starts a process that trains a run and stops when this one ends; it writes the run's log."""
    with order.log_file.open("ab") as said:
        return children.start(
            MODULE, order.federation.path, order.name, device,
            stdin=subprocess.PIPE, stdout=said, stderr=said,
        )  # fmt: skip


def _stop_with(parent: int) -> None:
    """Asks this process to stop with a checkpoint when the other end of a pipe is closed."""
    while os.read(parent, 1024):  # not `sys.stdin`, whose lock would block Python's exit
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(path: Path, name: str, device: str) -> int:
    """Runs the process of one run; returns its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    order = Order(federation_in(path), name)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)  # until training handles it with a checkpoint
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)  # is told of a signal even while Python code cannot run
    threading.Thread(target=_end_in_time, args=(told, order), daemon=True).start()
    threading.Thread(target=_stop_with, args=(sys.stdin.fileno(),), daemon=True).start()
    try:
        order.train(partial(_log_news, order), device=device)
    except Interrupted as error:
        log.warning("%s", error)
        return AGAIN
    except (QuorumError, BusyError, SiteUnreachableError, StorageError) as error:
        log.warning("%s", error)
        order.say("trouble", str(error))
        return AGAIN
    except AsyndganError as error:
        log.error("run %s cannot go on: %s", name, error)  # a refusal is no crash
        order.say("failed", str(error))
        return 1
    except Exception as error:
        log.exception("run %s is begun again", name)
        order.say("trouble", f"{type(error).__name__}; see {order.log_file}")
        return AGAIN
    return 0


def _end_in_time(told: int, order: Order) -> None:
    """Ends this process if it has not ended `GRACE_S` after the first signal."""
    os.read(told, 1)
    time.sleep(GRACE_S)
    log.warning("run %s does not stop: it goes on from its newest checkpoint", order.name)
    os._exit(AGAIN)


def _interrupt(number: int, frame: object) -> None:
    raise SystemExit(AGAIN)  # not an Exception, so no handler mistakes it for a site's failure


def _log_news(order: Order, progress: "Progress") -> None:
    order.say("trouble", "")
    for line in progress.report.events:
        log.info("step %s: %s", progress.step, line)


if __name__ == "__main__":
    ended: object = AGAIN
    try:
        ended = main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
    except SystemExit as asked:  # see `_interrupt`
        ended = asked.code
    except Exception:  # such as a full disk, of which `main` could not write
        log.exception("the process of the run ends")
    finally:  # threads of the engine may wait for ever for a server that is gone
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        logging.shutdown()
        os._exit(ended if isinstance(ended, int) else AGAIN)
