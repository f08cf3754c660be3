"""Waiting in tests: by asking again and again, never by sleeping for as long as it may take."""

import time
from collections.abc import Callable


def until(true: Callable[[], object], seconds: float = 90.0) -> None:
    """Returns as soon as it is true; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
