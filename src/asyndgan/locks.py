"""One process at a time for what lies in a folder."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asyndgan.errors import BusyError

if sys.platform != "win32":
    import fcntl


@contextmanager
def held(path: Path, busy: str) -> Iterator[None]:
    """Keeps other processes out of a folder (not on Windows); one that dies lets go of it.

    Args:
        path: the folder.
        busy: what to tell whoever comes second.

    Raises:
        BusyError: another process has it.
    """
    with (path / ".held").open("w") as file:
        try:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(busy) from error
        yield
