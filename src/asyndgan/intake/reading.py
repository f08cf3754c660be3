"""Reads files in a process of its own, which a hostile file can end and nothing more.

The process is started for the first file, kept for the command's life, and started anew after a
file that ended it. What it answers is checked before anything is allocated, and holds no pickle.
"""

import atexit
import json
import signal
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from asyndgan import children
from asyndgan.intake import limits
from asyndgan.intake.readers import DataFileError, Stored
from asyndgan.intake.readers.volumes import MAX_VOXELS
from asyndgan.intake.worker import OUT_OF_MEMORY

_ANSWERS: Final = "asyndgan.intake.readers:answers"
_MOST_TEXT: Final = 2**22  # bytes
_MOST: Final = 16 * MAX_VOXELS  # bytes of an array
_TYPES: Final = {np.dtype(order + kind).str for kind in "?bBhHiIlLqQefdg" for order in "<>"}
_ENDED: Final = {
    -signal.SIGKILL: f"takes more than {limits.MEMORY >> 30} GB of memory",
    OUT_OF_MEMORY: f"takes more than {limits.MEMORY >> 30} GB of memory",
    -signal.SIGPROF: f"takes more than {limits.SECONDS:g} s",
}
_NO_ANSWER: Final = (
    ArithmeticError, EOFError, KeyError, MemoryError, OSError, RecursionError, TypeError,
    ValueError, struct.error,
)  # fmt: skip
"""What reading an answer raises that is none: the process ended, or a file has taken it over."""

_ALONE: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class _Mine(threading.local):
    """The processes of a thread that read, and are asked for nothing."""

    def __init__(self) -> None:
        self.idle: list[subprocess.Popen[bytes]] = []


_mine: Final = _Mine()


def image(path: Path, *, most: int) -> list[Stored]:
    """See `Reader.image`."""
    return [*_stored(path, most, ask="image", most=most)]


def mask(path: Path) -> Stored:
    """See `Reader.mask`."""
    (stored,) = _stored(path, 1, ask="mask")
    return stored


def place(path: Path) -> Mapping[str, Any]:
    """See `Reader.place`."""
    ((found, _),) = read(path, _ANSWERS, ask="place")
    return found


def _stored(path: Path, count: int, **options: object) -> Iterator[Stored]:
    for number, (about, values) in enumerate(read(path, _ANSWERS, **options)):
        try:
            affine, turn = (
                about[key] and np.array(about[key], float).reshape(sides)
                for key, sides in (("affine", (4, 4)), ("turn", (-1, 2)))
            )
            pixel = about["pixel"] and tuple(map(float, about["pixel"]))
            painted, called = bool(about["painted"]), str(about["called"])
            if values is None or number >= count:
                raise ValueError("no array, or more than were asked for")
        except _NO_ANSWER:
            raise _unread(path, None) from None
        yield Stored(values, affine, turn, pixel, painted, called)


def _unread(path: Path, status: int | None) -> DataFileError:
    """The fault of a file at which the process ended, or that it answered wrongly."""
    reason = _ENDED.get(status or 0, "makes the program crash that decodes it")
    remedy = "Cut it into smaller files, or export it again from what it was made of."
    return DataFileError(path, f"cannot be read: it {reason}", remedy)


def read(
    path: Path, work: str, **options: object
) -> Iterator[tuple[Mapping[str, Any], np.ndarray | None]]:
    """What a function yields of a file, in the process that reads.

    `work` names its module and it, with a colon between. It is called with the file and `options`
    (numbers and texts), and yields what JSON holds (arrays as lists) and an array or None. Raises
    `DataFileError` if the function raised, or the file took more than it may.
    """
    child, whole = _child(), False
    answers: Any = child.stdout
    try:
        asked = {"work": work, "path": str(path.absolute()), "options": options}
        child.stdin.write(json.dumps(asked).encode() + b"\n")  # type: ignore[union-attr]
        child.stdin.flush()  # type: ignore[union-attr]
        while not whole:
            about = _about(answers)
            if whole := "fault" in about:
                raise DataFileError(path, *map(str, about["fault"]))
            if not (whole := "done" in about):
                yield about, _array(answers, about) if "dtype" in about else None
    except _NO_ANSWER:
        with suppress(subprocess.TimeoutExpired):
            child.wait(5)
        raise _unread(path, child.returncode) from None
    finally:
        if whole:
            _mine.idle.append(child)
        else:
            _end(child)


def _child() -> "subprocess.Popen[bytes]":
    """A process that reads, and is asked for nothing."""
    while _mine.idle:
        child = _mine.idle.pop()
        if child.poll() is None:
            return child
        _end(child)
    child = children.start(
        "asyndgan.intake.worker",
        env=children.environment() | _ALONE,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with suppress(ImportError, AttributeError, OSError):  # Linux, and few pipes so far
        import fcntl

        assert child.stdout
        fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, 2**20)
    return child


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    with suppress(OSError), child:
        pass


@atexit.register
def close() -> None:
    """Ends the processes that read for this thread; others end when nobody can ask them."""
    while _mine.idle:
        _end(_mine.idle.pop())


def _about(stream: IO[bytes]) -> Mapping[str, Any]:
    (length,) = struct.unpack("<I", stream.read(4))
    if length > _MOST_TEXT:
        raise ValueError("a long answer")
    return dict(json.loads(stream.read(length)))


def _array(stream: Any, about: Mapping[str, Any]) -> np.ndarray:
    """The array that an answer announces, in the order in which it lay in memory."""
    shape, order, dtype = about["shape"], about["order"], np.dtype(about["dtype"])
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dtype.str not in _TYPES or min(shape, default=0) < 1 or size > _MOST:
        raise ValueError("no array")
    flat = np.empty(size, np.uint8)
    if stream.readinto(flat) != size:
        raise EOFError
    return flat.view(dtype).reshape(shape).transpose(np.argsort(order))
