"""Sends whole messages over a stream socket, numbered so that late answers can be recognised."""

import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Final, TypeVar, final

from asyndgan.errors import SiteSilentError, SiteUnreachableError, WireError

FRAME: Final = struct.Struct("<QQ")
CHUNK: Final = 1 << 20

T = TypeVar("T")


@final
class Frames:
    """Numbered frames on a stream socket, which it owns; `limit`: most bytes of a received one.

    Partly sent or received frames are kept after a timeout, so that the stream stays in step.
    """

    def __init__(self, connection: socket.socket, *, limit: int) -> None:
        self._connection = connection
        self._limit = limit
        self._unsent = bytearray()
        self._received = bytearray()

    def send(self, number: int, payload: bytes, timeout: float | None = None) -> None:
        """Sends a frame, unless an earlier one is still not accepted; raises as `Requests.ask`."""
        deadline = _deadline(timeout)
        self._flush(deadline)  # nothing piles up behind a frame that is not accepted
        self._unsent += FRAME.pack(number, len(payload)) + payload
        self._flush(deadline)

    def _flush(self, deadline: float | None) -> None:
        while self._unsent:
            sent = self._within(deadline, lambda: self._connection.send(self._unsent[:CHUNK]))
            del self._unsent[:sent]

    def receive(self, timeout: float | None = None) -> tuple[int, bytes]:
        """Number and payload of the next frame; raises as `Requests.ask`."""
        deadline = _deadline(timeout)
        self._fill(FRAME.size, deadline)
        number, size = FRAME.unpack_from(self._received)
        if size > self._limit:
            raise WireError(f"a frame of {size} bytes is announced; {self._limit} are allowed.")
        self._fill(FRAME.size + size, deadline)
        payload = bytes(self._received[FRAME.size : FRAME.size + size])
        del self._received[: FRAME.size + size]
        return number, payload

    def ended(self) -> bool:
        """Whether the connection is closed; does not disturb threads that wait on it."""
        look = select.poll()
        try:
            look.register(self._connection, select.POLLHUP)
        except ValueError:  # we have closed it
            return True
        return any(event & (select.POLLHUP | select.POLLNVAL) for _, event in look.poll(0))

    def close(self) -> None:
        """Closes the socket; threads that wait on it get an error."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _fill(self, size: int, deadline: float | None) -> None:
        while len(self._received) < size:
            wanted = min(CHUNK, size - len(self._received))
            part = self._within(deadline, lambda: self._connection.recv(wanted))  # noqa: B023  (called at once)
            if not part:
                raise SiteUnreachableError("the other end has closed the connection.")
            self._received += part

    def _within(self, deadline: float | None, call: Callable[[], T]) -> T:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise SiteSilentError("there was no answer in time.")
        try:
            self._connection.settimeout(left)
            return call()
        except TimeoutError as error:
            raise SiteSilentError("there was no answer in time.") from error
        except OSError as error:
            raise SiteUnreachableError("the connection is gone.") from error


@final
class Requests:
    """Sends requests over a socket one at a time, from any thread."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        self._numbers = count(1)
        self._lock = threading.Lock()

    def ask(self, payload: bytes, timeout: float) -> bytes:
        """Sends a request and returns its answer; late answers to older requests are dropped.

        Raises:
            SiteUnreachableError: the other end is gone.
            SiteSilentError: it does not answer within `timeout` seconds.
            WireError: the answer announces more bytes than the limit.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            if time.monotonic() >= deadline:  # other requests took the whole time
                raise SiteSilentError("there was no answer in time.")
            number = next(self._numbers)
            self.frames.send(number, payload, deadline - time.monotonic())
            while True:
                answered, answer = self.frames.receive(deadline - time.monotonic())
                if answered == number:
                    return answer


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
