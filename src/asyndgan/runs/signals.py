"""What Ctrl-C and SIGTERM do to a training."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def told_to_end() -> Callable[[], bool]:
    """Notes Ctrl-C and SIGTERM from now on; returns a function that says whether one came.

    A handler takes no lock: `threading.Event.set` could wait for ever for one that it interrupts.
    """
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: asked.append(number))
    return lambda: bool(asked)


@contextmanager
def termination_unwinds() -> Iterator[None]:
    """Lets SIGTERM before the first step clean up what has been started, as Ctrl-C does."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:
        yield  # not the main thread: the caller handles signals
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C or SIGTERM came; after a Ctrl-C the next signal acts as usual."""
    asked: list[int] = []
    before: dict[int, Any] = {}

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        if number == signal.SIGINT:
            for asked_for, handler in before.items():
                signal.signal(asked_for, handler)

    try:
        for each in (signal.SIGINT, signal.SIGTERM):
            before[each] = signal.signal(each, ask)
    except ValueError:
        before = {}  # not the main thread: the caller handles signals
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
