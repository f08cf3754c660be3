"""Waiting in tests: by asking again and again, never by sleeping for as long as it may take."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def until(true: Callable[[], object], seconds: float = 90.0) -> None:
    """Returns soon after it is true; fails after so many seconds.

    To ask takes a fifth of a core at most, which what is waited for may need.
    """
    end = time.monotonic() + seconds
    while True:
        begun = time.monotonic()
        if true():
            return
        asked = time.monotonic()
        assert asked < end, "it took too long"
        time.sleep(min(max(0.02, 4 * (asked - begun)), 2))


def halt(pid: int) -> None:
    """Stops a process by SIGSTOP; returns when no thread of it can answer any more."""
    os.kill(pid, signal.SIGSTOP)

    def stopped() -> bool:
        try:
            return all("State:\tT" in path.read_text() for path in tasks.glob("*/status"))
        except OSError:  # a thread that ended meanwhile
            return False

    tasks = Path(f"/proc/{pid}/task")
    try:
        until(stopped)
    except AssertionError:
        os.kill(pid, signal.SIGCONT)
        raise
