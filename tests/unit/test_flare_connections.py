"""FLARE's connections are closed only when no thread uses them any more."""

import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.fuel.f3.comm_error import CommError
from nvflare.fuel.f3.drivers.socket_conn import SocketConnection

from asyndgan.relay import lines
from waiting import until

SOON_S = 5.0
BRIEFLY_S = 0.3
FRAME = bytes(2**24)
"""More than a connection takes at once."""


@pytest.fixture
def mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """FLARE's connections in this process as in those of ours."""
    for method in ("__init__", "_send_with_timeout", "read_loop", "close"):
        monkeypatch.setattr(SocketConnection, method, getattr(SocketConnection, method))
    lines.close_unused()


@pytest.fixture
def pair(mended: None) -> Iterator[tuple[Any, socket.socket]]:
    """A connection of FLARE's, and the socket at its other end."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as theirs,
        server.accept()[0] as ours,
    ):
        yield SocketConnection(ours, SimpleNamespace(params={}), False), theirs


def test_a_connection_that_is_closed_keeps_its_file_until_its_reader_has_ended(
    pair: tuple[Any, socket.socket],
) -> None:
    connection, theirs = pair
    number = connection.sock.fileno()
    connection.close()
    assert theirs.recv(1) == b""  # the other end is told at once
    assert connection.sock.fileno() == number
    os.fstat(number)
    connection.read_loop()
    assert connection.sock.fileno() == -1


def test_a_reader_that_ends_closes_the_file_only_after_the_frame_that_is_being_sent(
    pair: tuple[Any, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, theirs = pair
    number, over = connection.sock.fileno(), threading.Event()
    held = SimpleNamespace(register=lambda *_: None, poll=lambda _: over.wait(SOON_S))
    monkeypatch.setattr(lines, "select", SimpleNamespace(poll=lambda: held, POLLOUT=0))
    connection.closing = True  # nobody is told that the frame cannot be sent any more
    sender = threading.Thread(target=connection.send_frame, args=(b"frame",))
    sender.start()
    until(connection.sending.locked, SOON_S)
    theirs.shutdown(socket.SHUT_WR)
    reader = threading.Thread(target=connection.read_loop)
    reader.start()
    reader.join(BRIEFLY_S)
    assert connection.sock.fileno() == number
    over.set()
    for thread in (sender, reader):
        thread.join(SOON_S)
        assert not thread.is_alive()
    assert connection.sock.fileno() == -1


def test_a_frame_that_cannot_be_sent_any_more_holds_nobody_up(
    pair: tuple[Any, socket.socket],
) -> None:
    connection, theirs = pair
    told: list[int] = []

    def send() -> None:
        try:
            connection.send_frame(FRAME)  # the other end does not take it
        except CommError as error:
            told.append(error.code)

    sender = threading.Thread(target=send)
    sender.start()
    until(connection.sending.locked, SOON_S)
    theirs.shutdown(socket.SHUT_WR)
    connection.read_loop()
    sender.join(SOON_S)
    assert told == [CommError.CLOSED]


def test_a_connection_whose_file_has_a_high_number_is_served_too(
    mended: None,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with ExitStack() as held, socket.create_server(("127.0.0.1", 0)) as server:
            for _ in range(1024):  # `select` knows no more
                held.callback(os.close, os.dup(server.fileno()))
            theirs = held.enter_context(socket.create_connection(server.getsockname()))
            ours = held.enter_context(server.accept()[0])
            assert ours.fileno() >= 1024
            SocketConnection(ours, SimpleNamespace(params={}), False).send_frame(b"frame")
            assert theirs.recv(5) == b"frame"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_frame_that_the_other_end_does_not_take_in_time_is_given_up(
    pair: tuple[Any, socket.socket],
) -> None:
    connection, _ = pair
    connection.sock.setblocking(False)
    connection.send_timeout = BRIEFLY_S
    with pytest.raises(CommError) as given_up:
        connection.send_frame(FRAME)
    assert given_up.value.code == CommError.TIMEOUT


def test_a_frame_for_a_connection_that_is_over_is_refused_as_such(
    pair: tuple[Any, socket.socket],
) -> None:
    connection, theirs = pair
    theirs.shutdown(socket.SHUT_WR)
    connection.read_loop()
    with pytest.raises(CommError) as refused:
        connection.send_frame(b"frame")
    assert refused.value.code == CommError.CLOSED


def test_a_flare_that_closes_connections_in_another_way_is_not_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for method, _ in lines.CALLS:
        with monkeypatch.context() as one:
            one.setattr(SocketConnection, method, lambda *_: None)
            with pytest.raises(RuntimeError, match="another way than this package knows"):
                lines.close_unused()
