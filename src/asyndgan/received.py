"""The one way to open a file that may come from another party.

Such a file may be a pipe or a device, which would be waited for or read without end, or larger than
memory. In a folder that was handed over it may also be a link to what only its receiver can read.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Final

_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)  # a pipe without a writer would hold up whoever opens it
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


class UnreadableError(ValueError):
    """A file cannot be read, for a reason in this package's own words."""


@contextmanager
def opened(path: Path, most: int = 2**34, *, links: bool = False) -> Iterator[BufferedReader]:
    """Opens a regular file for reading; anything else is neither waited for nor read.

    Args:
        path: the file.
        most: largest size in bytes.
        links: whether the file itself may be a link, as one that its reader named, or of a data
            set, may be.

    Raises:
        OSError: it cannot be opened.
        UnreadableError: it is no regular file, is larger, or is a link although none is allowed.
    """
    if not links and path.is_symlink():
        raise UnreadableError("is a link")
    descriptor = os.open(path, _FLAGS | (0 if links else getattr(os, "O_NOFOLLOW", 0)))
    try:
        found = os.fstat(descriptor)  # of what was opened, whatever bears the name by now
        if not stat.S_ISREG(found.st_mode):
            raise UnreadableError("is a folder, a pipe or a device, and no file")
        if found.st_size > most:
            raise UnreadableError(f"longer than {most} bytes")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def contents(path: Path, most: int, *, links: bool = False) -> bytes:
    """Reads a whole file; arguments and errors are those of `opened`."""
    with opened(path, most, links=links) as file:
        content = file.read(most + 1)  # it may have grown, and some of the system's state no size
    if len(content) > most:
        raise UnreadableError(f"longer than {most} bytes")
    return content


def link_in(folder: Path) -> Path | None:
    """A link within a folder that was handed over; None if it holds none.

    Raises `OSError` if a folder in it cannot be read, so a link may be there.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):  # or nothing is in it
            raise error

    for place, folders, files in os.walk(folder, onerror=refuse):
        for name in (*folders, *files):
            if (found := Path(place, name)).is_symlink():
                return found
    return None
