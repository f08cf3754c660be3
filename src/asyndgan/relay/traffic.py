"""Bytes of TCP connections as the operating system counts them, beside the protocol's own count."""

import os
import socket
import stat
import struct
from collections.abc import Iterator
from typing import Final, final

COUNTS: Final = struct.Struct("<QQ")
"""Of `tcp_info` (linux/tcp.h): bytes that were acknowledged, and received."""

PLACE: Final = 120
"""Of these two within it."""


@final
class Carried:
    """What this process's connections to a port have sent and received; zeros where not known.

    Headers of TCP and IP are not in it; TLS and whatever speaks within it are. Connections that
    have been closed count as they were at the last look.

    Args:
        port: of the other end.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._seen: dict[tuple[int, int], tuple[int, int]] = {}

    def count(self) -> tuple[int, int]:
        """Looks at the connections that are open now; returns the sums over all."""
        for connection in _connections():
            try:
                if connection.getpeername()[1] != self.port:
                    continue
                # An end's own port and the kernel's number of the socket: one connection.
                which = connection.getsockname()[1], os.fstat(connection.fileno()).st_ino
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                self._seen[which] = COUNTS.unpack_from(info, PLACE)
            except (OSError, struct.error):
                continue  # no connection (any more), or a kernel that does not count
            finally:
                connection.close()
        sent, received = zip(*self._seen.values(), strict=True) if self._seen else ((), ())
        return sum(sent), sum(received)


def _connections() -> Iterator[socket.socket]:
    """A second handle of each of this process's TCP sockets."""
    if not hasattr(socket, "TCP_INFO") or not os.path.isdir("/proc/self/fd"):  # noqa: PTH112
        return
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  (numbers, not paths)
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            found = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue  # closed meanwhile
        if found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM:
            yield found
        else:
            found.close()
