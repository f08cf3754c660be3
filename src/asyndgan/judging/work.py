"""How much is done of what takes minutes."""

from collections.abc import Callable
from concurrent.futures import CancelledError
from threading import Lock
from typing import final

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and how much there is to do in all."""


@final
class Work:
    """Tells how much is done, by several threads, which all stop after one has failed.

    Args:
        watch: called with what is being done, what is done, and all that is planned so far.
        total: what is to be done.
    """

    def __init__(self, watch: OnProgress | None = None, total: int = 0) -> None:
        self.watch, self.text = watch, ""
        self.done, self.total = 0, total
        self.failed: BaseException | None = None
        self._lock = Lock()

    def plan(self, more: int) -> None:
        """Adds to what is to be done."""
        self.total += more

    def begin(self, text: str) -> None:
        """Names what is done next."""
        self.text = text
        self.did(0)

    def go_on(self) -> None:
        """Raises `CancelledError` if another thread has failed."""
        if self.failed:
            raise CancelledError

    def did(self, more: int, text: str = "") -> None:
        """Adds to what is done, of what is named if not what was begun last; as `go_on`."""
        self.go_on()
        with self._lock:
            self.done += more
            if self.watch:  # inside the lock, so that progress never decreases
                self.watch(text or self.text, self.done, max(self.total, 1))

    def painted(self, text: str, done: int, total: int) -> None:
        """Takes the progress of a set that is painted, which is planned from its first case."""
        if done == 1:
            self.plan(total)
        self.did(1)
