"""Exclusive locks on folders, one process at a time."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asyndgan.errors import BusyError

if sys.platform != "win32":
    import fcntl


@contextmanager
def held(path: Path, busy: str) -> Iterator[None]:
    """Locks a folder against other processes (not on Windows); the lock ends with its process.

    Raises:
        BusyError: another process holds the lock.
    """
    with open(path / ".held", "w", opener=_no_link) as file:
        try:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(busy) from error
        yield


def _no_link(path: str, flags: int) -> int:
    """Opens a file, but follows no link: the folder may come from another party."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
