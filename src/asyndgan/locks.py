"""Exclusive locks on folders, one process at a time."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from asyndgan.errors import BusyError
from asyndgan.texts import storing, without_empty

if sys.platform != "win32":
    import fcntl


def held(path: Path, busy: str) -> AbstractContextManager[None]:
    """Locks a folder while within (not on Windows); raises `BusyError` if another process has."""
    return _locked(path / ".held", busy)


@contextmanager
def written_alone(path: Path) -> Iterator[None]:
    """Locks what a command writes, by a file beside it that goes with the lock; makes its parents.

    Raises:
        BusyError, StorageError: another process writes it, or nothing can be written there.
    """
    path = path.resolve()
    lock = path.with_name(f".{path.name}.held")
    busy = f"another command is writing {path}; wait for it, or name another place with --out."
    with without_empty(path.parent), ExitStack() as ends:
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            ends.enter_context(_locked(lock, busy))
        ends.callback(lock.unlink, missing_ok=True)
        yield


@contextmanager
def begun_alone(log: Path, busy: str) -> Iterator[BinaryIO]:
    """Empties the log of a command that is begun within; it holds the log's lock until it ends.

    Raises `BusyError` if another command holds it.
    """
    with open(log, "ab", opener=_no_link) as file:
        if not _has_locked(file):
            raise BusyError(busy)
        file.truncate(0)
        yield file


def in_use(log: Path) -> bool:
    """Whether a command that `begun_alone` began is at work."""
    try:
        with log.open("rb") as file:
            return not _has_locked(file, shared=True)
    except OSError:
        return False


@contextmanager
def _locked(lock: Path, busy: str) -> Iterator[None]:
    with open(lock, "w", opener=_no_link) as file:
        free = False
        with suppress(FileNotFoundError):  # its owner just removed it
            free = _has_locked(file) and (
                sys.platform == "win32" or os.path.samestat(os.fstat(file.fileno()), lock.stat())
            )
        if not free:
            raise BusyError(busy)
        yield


def _has_locked(file: IO[Any], *, shared: bool = False) -> bool:
    try:
        if sys.platform != "win32":
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
