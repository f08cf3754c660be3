"""Reads the operating system's byte counts of TCP connections, to compare with the protocol's."""

import os
import socket
import stat
import struct
from collections.abc import Iterator
from typing import Final, final

COUNTS: Final = struct.Struct("<QQ")
"""Two fields of `tcp_info` (linux/tcp.h): bytes acknowledged and bytes received."""

PLACE: Final = 120
"""Offset of these two fields in `tcp_info`, in bytes."""


@final
class Carried:
    """Counts the bytes that this process's connections to a port have sent and received.

    TCP and IP headers are not counted; TLS and everything inside it is. Closed connections keep
    their last count. Counts are zero where the system does not provide them.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._seen: dict[tuple[int, int], tuple[int, int]] = {}

    def count(self) -> tuple[int, int]:
        """Updates the counts of open connections; returns bytes sent and received, over all."""
        for connection in _connections():
            try:
                if connection.getpeername()[1] != self.port:
                    continue
                # Our port and the socket's inode together identify a connection.
                which = connection.getsockname()[1], os.fstat(connection.fileno()).st_ino
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                self._seen[which] = COUNTS.unpack_from(info, PLACE)
            except (OSError, struct.error):
                continue  # not connected (any more), or the kernel does not count
            finally:
                connection.close()
        sent, received = zip(*self._seen.values(), strict=True) if self._seen else ((), ())
        return sum(sent), sum(received)


def _connections() -> Iterator[socket.socket]:
    """Yields a duplicate handle of each of this process's TCP sockets."""
    if not hasattr(socket, "TCP_INFO") or not os.path.isdir("/proc/self/fd"):  # noqa: PTH112
        return
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  (numbers, not paths)
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            found = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue  # closed in the meantime
        if found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM:
            yield found
        else:
            found.close()
