"""Has FLARE close a connection only when no thread uses it any more.

FLARE closes the file of a connection while other threads still read and write it. The next
connection then gets the same file: what was meant for the one before breaks its TLS handshake.
FLARE's way of ending TLS also lets a frame that is being sent go out without it. And it waits with
`select`, which knows 1,024 files: whoever held so many connections shut all later ones out.

Here `close` ends the connection, and the thread that reads it closes the file after the last frame.
"""

import logging
import select
import socket
import time
from collections.abc import Callable, Iterable
from functools import wraps
from threading import Lock
from typing import Any, Final

from nvflare.fuel.f3.comm_error import CommError
from nvflare.fuel.f3.drivers.socket_conn import SocketConnection

log = logging.getLogger(__name__)

UNKNOWN: Final = "FLARE closes connections in another way than this package knows; nvflare 2.9 does"

CALLS: Final = (
    ("close", "shutdown"),
    ("read_loop", "read_frame_loop"),
    ("send_frame", "_send_with_timeout"),
    ("_send_with_timeout", "select"),
)
"""What is known of FLARE's connections: a method, and what it calls."""


def check_calls(calls: Iterable[tuple[type, str, str]], unknown: str) -> None:
    """Checks of each class that its method calls what it does in the version that is known.

    Raises:
        RuntimeError: one does not; the message is `unknown`.
    """
    for owner, method, called in calls:
        code = getattr(getattr(owner, method, None), "__code__", None)
        if code is None or called not in code.co_names:
            raise RuntimeError(unknown)


def end(connection: socket.socket) -> None:
    """Ends a connection for whoever reads or writes it, and leaves its file open."""
    try:
        # Not `SSLSocket.shutdown`, after which a frame would be sent without TLS.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError as error:
        log.debug("a connection had ended: %s", error)


def close_unused() -> None:
    """Changes FLARE's connections in this process; to be called before there is one.

    Raises:
        RuntimeError: this version of FLARE closes connections in another way.
    """
    check_calls([(SocketConnection, method, called) for method, called in CALLS], UNKNOWN)
    changed: dict[str, Callable[[Any], Any]] = {
        "__init__": _with_locks,
        "read_loop": _closing_after,
    }
    for name, change in changed.items():
        setattr(SocketConnection, name, change(getattr(SocketConnection, name)))
    for name, ours in {"close": _close, "_send_with_timeout": _send}.items():
        setattr(SocketConnection, name, ours)


def _close(connection: Any) -> None:
    connection.closing = True
    with connection.ending:
        end(connection.sock)


def _send(connection: Any, frame: Any, seconds: float) -> None:
    with connection.sending:
        view, until, sock = memoryview(frame), time.monotonic() + seconds, connection.sock
        if sock.fileno() < 0:
            raise CommError(CommError.CLOSED, f"{connection.name} is closed")
        waiting = select.poll()
        waiting.register(sock, select.POLLOUT)
        while view:
            if not waiting.poll(max(0.0, until - time.monotonic()) * 1000):
                raise CommError(
                    CommError.TIMEOUT, f"{connection.name} took no frame in {seconds} s"
                )
            view = view[sock.send(view) :]


def _with_locks(inner: Any) -> Any:
    @wraps(inner)
    def begin(connection: Any, *given: Any, **named: Any) -> None:
        connection.sending, connection.ending = Lock(), Lock()
        inner(connection, *given, **named)

    return begin


def _closing_after(inner: Any) -> Any:
    @wraps(inner)
    def read_loop(connection: Any) -> None:
        try:
            inner(connection)
        finally:
            end(connection.sock)  # whoever sends a frame is told, and lets go of the lock
            with connection.sending, connection.ending:
                connection.sock.close()

    return read_loop
