"""What a file may take to be read, in the process that reads it: a hostile one would take all."""

import faulthandler
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

resource: Any = None
with suppress(ImportError):  # a system without it limits the time alone
    import resource

MEMORY: Final = 2**30  # bytes
SECONDS: Final = 10.0  # of work, where the system counts it
_A_SECOND: Final = 2**27  # bytes that a large volume takes for each further second
_PACKED: Final = 2**12  # memory for each byte of a file: deflate packs 1,032, of 8-bit numbers

_limited: list[bool] = []


def confine() -> None:
    """Has this process write no file, and obey `allow` from now on."""
    _limited.append(True)
    if resource:
        for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
            resource.setrlimit(kind, (0, 0))


def allow(path: Path | None = None, size: int = 0) -> None:
    """Begins the time and memory of a file; what takes more time ends the process.

    Args:
        path: the file, whose header has been read within the limits of every file.
        size: bytes that it claims to take in memory beyond them. One that is too short is given
            less: it would lie.
    """
    if not _limited:
        return
    size = min(size, _PACKED * path.stat().st_size) if path else 0
    if resource:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        with suppress(ValueError):  # the hard limit is lower
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY + size, hard))
    within(SECONDS + size / _A_SECOND)


def within(seconds: float) -> None:
    """Ends this process when it has worked for so long from now on."""
    if not _limited:
        return
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
    else:
        faulthandler.dump_traceback_later(seconds, exit=True, file=os.open(os.devnull, os.O_WRONLY))
