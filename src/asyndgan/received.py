"""The one way to open a file that may come from another party.

Such a file may be a pipe or a device, which would be waited for or read without end, or larger than
memory. In a folder that was handed over it may also be a link to what only its receiver can read.
"""

import gzip
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase, BufferedReader
from pathlib import Path
from typing import Final

_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)  # a pipe without a writer would hold up whoever opens it
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


_MEMBER: Final = b"\x1f\x8b\x08"
"""How each member of a gzip file begins."""

MOST_MEMBERS: Final = 2**14
"""Most members of a gzip file: each costs, even an empty one of 20 bytes."""


class UnreadableError(ValueError):
    """A file cannot be read, for a reason in this package's own words."""


@contextmanager
def opened(path: Path, most: int, *, links: bool = True) -> Iterator[BufferedReader]:
    """Opens a regular file for reading; anything else is neither waited for nor read.

    Args:
        path: the file.
        most: largest size in bytes.
        links: whether the file itself may be a link, as one that its reader named may be.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no regular file, is larger, or is a link although none is allowed.
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
    """Reads a whole file, which is no link by default; otherwise as `opened`."""
    with opened(path, most, links=links) as file:
        content = file.read(most + 1)  # it may have grown, and some of the system's state no size
    if len(content) > most:
        raise UnreadableError(f"longer than {most} bytes")
    return content


def link_in(folder: Path) -> Path | None:
    """A link in a folder that was handed over, at any depth; None if it holds none.

    Another party chose where its links lead, and the receiver can read more files than they can.
    The folder itself may be a link.
    """
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (found := Path(place, name)).is_symlink():
                return found
    return None


def lacking(path: Path, command: str) -> str:
    """What is wrong where a command's result is not there, with the remedy; empty if it is.

    Args:
        path: the last file that the command writes into its folder.
        command: such as "asyndgan audit".
    """
    folder = path.parent
    if path.exists():
        return ""
    if not folder.is_dir():
        return f"there is no folder {folder}. Name the one that '{command}' wrote, or run it."
    if not any(folder.iterdir()):
        return f"{folder} is empty. Name the folder that '{command}' wrote, or run it."
    return (
        f"{folder} holds no {path.name}: '{command}' has not finished in it, or never wrote to it. "
        "Run it again, or name another folder."
    )


def gunzipped(file: BufferedIOBase) -> gzip.GzipFile:
    """What the rest of a gzip file holds; raises `UnreadableError` if it has too many members."""
    start, members, last = file.tell(), 0, b""
    while block := file.read(2**20):
        members += (last + block).count(_MEMBER)
        last = block[1 - len(_MEMBER) :]
    if members > MOST_MEMBERS:
        raise UnreadableError("it is packed in too many parts")
    file.seek(start)
    return gzip.GzipFile(fileobj=file)
