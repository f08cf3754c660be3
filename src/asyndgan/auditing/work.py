"""How much of an audit is done."""

from concurrent.futures import CancelledError
from threading import Lock
from typing import Final, final

from asyndgan.judging.bench import OnProgress

JUDGED: Final = 6
"""Paintings that take about as long as one image that a site judges to answer a question."""


@final
class Work:
    """Tells how much of an audit is done, in paintings of the generator; by several threads.

    Args:
        watch: called with what is being done, the paintings done, and all that are planned so far.
    """

    def __init__(self, watch: OnProgress | None = None) -> None:
        self.watch = watch
        self.text = ""
        self.done = self.total = 0
        self.stopped = False
        self._lock = Lock()

    def plan(self, paintings: int) -> None:
        """Adds to what is to be done."""
        self.total += paintings

    def begin(self, text: str) -> None:
        """Names what is done next."""
        self.text = text
        self.did(0)

    def did(self, paintings: int) -> None:
        """Adds to what is done; raises `CancelledError` if another thread's failure stopped all."""
        if self.stopped:
            raise CancelledError
        with self._lock:
            self.done += paintings
            if self.watch:
                self.watch(self.text, self.done, max(self.total, 1))

    def painted(self, text: str, done: int, total: int) -> None:
        """Takes the progress of a set that is painted, which is planned from its first case."""
        if done == 1:
            self.plan(total)
        self.did(1)
