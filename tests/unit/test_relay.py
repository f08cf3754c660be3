"""What runs in FLARE's job processes, without FLARE: lost answers, strangers, local sockets."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.signal import Signal
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message

from asyndgan.errors import RunError, SiteUnreachableError
from asyndgan.relay.flare import CoordinatorRelay, SiteRelay
from asyndgan.relay.framing import Frames
from asyndgan.relay.local import Listener, Reply, connect, read_reply, reply_of, socket_path
from asyndgan.relay.traffic import socket_bytes


class Cell:
    """FLARE's network, of which the first so many answers are lost."""

    def __init__(self, lost: int, code: str = ReturnCode.TIMEOUT) -> None:
        self.lost = lost
        self.code = code
        self.asked: list[bytes] = []

    def send_request(self, *, request: Message, **words: Any) -> Message:
        self.asked.append(bytes(request.payload))
        if len(self.asked) <= self.lost:
            return make_reply(self.code, "", None)
        return make_reply(ReturnCode.OK, "", b"answer to " + request.payload)


def relay(cell: Cell, wait_s: float = 30.0) -> CoordinatorRelay:
    made = CoordinatorRelay("north", 1024, wait_s)
    made.cell, made._last_reached = cell, float("inf")
    return made


def test_a_request_whose_answer_was_lost_is_asked_again_in_the_same_words() -> None:
    cell = Cell(lost=2)
    assert relay(cell)._answered(b"request", Signal()) == b"answer to request"
    assert cell.asked == [b"request"] * 3


def test_a_site_that_stays_silent_is_given_up_within_the_coordinators_patience() -> None:
    cell = Cell(lost=10**6)
    assert read_reply(relay(cell, wait_s=0.3)._answered(b"request", Signal()))[0] is Reply.SILENT


def test_a_site_whose_end_of_the_job_is_gone_ends_the_job() -> None:
    gone = relay(Cell(lost=10**6, code=ReturnCode.TARGET_UNREACHABLE))
    gone._last_reached = 0.0
    with pytest.raises(SiteUnreachableError, match="gone"):
        gone._answered(b"request", Signal())


@contextmanager
def listening(
    kit: Path, serve: Callable[[dict[str, str], Frames], None], limit: int = 1024
) -> Iterator[None]:
    listener = Listener(kit, serve, limit=limit)
    try:
        yield
    finally:
        listener.close()


def echo(greeting: dict[str, str], frames: Frames) -> None:
    try:
        while True:
            number, payload = frames.receive(timeout=5.0)
            frames.send(number, reply_of(Reply.ANSWER, payload), timeout=5.0)
    except SiteUnreachableError:
        return


def asking(topic: str, origin: str, payload: bytes = b"") -> Message:
    request = Message({}, payload)
    request.set_header(MessageHeaderKey.TOPIC, topic)
    request.set_header(MessageHeaderKey.ORIGIN, origin)
    return request


def test_only_the_servers_process_of_the_same_job_is_answered(tmp_path: Path) -> None:
    site = SiteRelay("recipe", "run", 1024, 5.0)
    site.kit = tmp_path
    with listening(tmp_path, echo):
        for stranger in ("south.job", "server.another", "server", "north.job"):
            refused = site._answer(asking("request", stranger, b"x"), "job")
            assert refused.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.UNAUTHENTICATED
            assert refused.payload is None
        answered = site._answer(asking("request", "server.job", b"x"), "job")
        assert answered.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.OK
        assert read_reply(answered.payload) == (Reply.ANSWER, b"x")
        site._disconnect()


def test_a_site_whose_own_process_is_not_running_says_so(tmp_path: Path) -> None:
    site = SiteRelay("recipe", "run", 1024, 5.0)
    site.kit = tmp_path
    answered = site._answer(asking("greet", "server.job"), "job")
    assert answered.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.SERVICE_UNAVAILABLE


def test_a_greeting_arrives_and_what_is_none_is_sent_away(tmp_path: Path) -> None:
    heard: list[dict[str, str]] = []
    arrived = threading.Event()

    def serve(greeting: dict[str, str], frames: Frames) -> None:
        heard.append(greeting)
        arrived.set()

    with listening(tmp_path, serve):
        connect(tmp_path, {"site": "north"}, limit=1024).close()
        assert arrived.wait(10)
        with socket.socket(socket.AF_UNIX) as plain:
            plain.connect(str(socket_path(tmp_path)))
            nonsense = Frames(plain, limit=1024)
            nonsense.send(0, b"[1]")
            with pytest.raises(SiteUnreachableError):
                nonsense.receive(timeout=10)
    assert heard == [{"site": "north"}]


def test_the_sockets_folder_has_to_be_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = socket_path(tmp_path / "kit")
    assert path.parent.stat().st_mode & 0o77 == 0
    assert socket_path(tmp_path / "kit") == path != socket_path(tmp_path / "other")
    assert len(str(path)) - len(str(tmp_path)) < 60
    path.parent.chmod(0o755)
    with pytest.raises(RunError, match="is not a folder of yours alone"):
        socket_path(tmp_path / "kit")
    path.parent.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / f"asyndgan-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is not a folder of yours alone"):
        socket_path(tmp_path / "kit")


def test_a_reply_is_what_was_sent_and_anything_else_is_none() -> None:
    assert read_reply(reply_of(Reply.ANSWER, b"abc")) == (Reply.ANSWER, b"abc")
    assert read_reply(b"") == (Reply.UNREACHABLE, b"")
    assert read_reply(b"\xff123") == (Reply.UNREACHABLE, b"")


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="asks Linux")
def test_the_systems_count_of_bytes_is_that_of_one_port_and_leaves_no_file_open(
    tmp_path: Path,
) -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with (
        (tmp_path / "no_socket").open("w"),
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_connection(server.getsockname()) as ours,
        socket.create_connection(other.getsockname()) as not_counted,
    ):
        theirs, _ = server.accept()
        with theirs:
            ours.sendall(bytes(1000))
            not_counted.sendall(bytes(500))
            theirs.sendall(bytes(3000))
            assert len(theirs.recv(1000, socket.MSG_WAITALL)) == 1000
            assert len(ours.recv(3000, socket.MSG_WAITALL)) == 3000
            before = opened()
            counts = [socket_bytes(server.getsockname()[1]) for _ in range(5)]
            assert counts[-1] == (1000 + 1, 3000)  # the connection's beginning counts as one
            assert opened() == before
