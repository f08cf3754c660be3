"""What runs in FLARE's job processes, without FLARE: lost answers, strangers, local sockets."""

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.signal import Signal
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message

from asyndgan.engines.flare.localhost import federation_here
from asyndgan.engines.flare.service import SiteFile, SiteService
from asyndgan.engines.setup import SiteSetup
from asyndgan.errors import RunError, SiteSilentError, SiteUnreachableError
from asyndgan.recipe import Recipe
from asyndgan.relay.flare import MARK, CoordinatorRelay, SiteRelay, of_this_job
from asyndgan.relay.framing import Frames, Requests
from asyndgan.relay.local import Listener, Reply, connect, read_reply, reply_of, socket_path
from asyndgan.relay.traffic import Carried
from asyndgan.wire import Open, pack
from waiting import halt


class Cell:
    """FLARE's network, of which the first so many answers are lost."""

    def __init__(
        self, lost: int, code: str = ReturnCode.TIMEOUT, mark: str = "of this job"
    ) -> None:
        self.lost = lost
        self.mark = mark
        self.code = code
        self.asked: list[bytes] = []

    def send_request(self, *, request: Message, **words: Any) -> Message:
        self.asked.append(bytes(request.payload))
        if len(self.asked) <= self.lost:
            return make_reply(self.code, "", None)
        reply = make_reply(ReturnCode.OK, "", b"answer to " + request.payload)
        reply.set_header(MARK, self.mark)
        return reply


def relay(cell: Cell, wait_s: float = 30.0) -> CoordinatorRelay:
    made = CoordinatorRelay("north", "run", "digest", "of this job", 1024, wait_s)
    made.cell, made.last_reached = cell, float("inf")
    return made


def test_a_request_whose_answer_was_lost_is_asked_again_in_the_same_words() -> None:
    cell = Cell(lost=2)
    assert relay(cell).answered(b"request", Signal()) == b"answer to request"
    assert cell.asked == [b"request"] * 3


def test_a_site_that_stays_silent_is_given_up_within_the_coordinators_patience() -> None:
    cell = Cell(lost=10**6)
    assert read_reply(relay(cell, wait_s=0.3).answered(b"request", Signal()))[0] is Reply.SILENT


def test_an_answer_of_somebody_who_does_not_know_the_jobs_secret_is_none() -> None:
    stranger = relay(Cell(lost=0, mark="of another job"), wait_s=0.3)
    assert read_reply(stranger.answered(b"request", Signal()))[0] is Reply.SILENT


def test_an_answer_that_is_too_long_is_dropped() -> None:
    reply = relay(Cell(lost=0)).answered(bytes(1024), Signal())
    assert read_reply(reply)[0] is Reply.UNREACHABLE


def test_a_site_whose_end_of_the_job_is_gone_ends_the_job() -> None:
    gone = relay(Cell(lost=10**6, code=ReturnCode.TARGET_UNREACHABLE))
    gone.last_reached = 0.0
    with pytest.raises(SiteUnreachableError, match="gone"):
        gone.answered(b"request", Signal())


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


def asking(topic: str, origin: str, payload: bytes = b"", mark: str = "of this job") -> Message:
    request = Message({MARK: mark} if mark else {}, payload)
    request.set_header(MessageHeaderKey.TOPIC, topic)
    request.set_header(MessageHeaderKey.ORIGIN, origin)
    return request


def test_only_the_servers_process_of_the_same_job_is_answered(tmp_path: Path) -> None:
    site = SiteRelay("recipe", "run", "of this job", 1024, 5.0)
    site.kit = tmp_path
    with listening(tmp_path, echo):
        for stranger in ("south.job", "server.another", "server", "north.job"):
            refused = site.answer(asking("request", stranger, b"x"), "job")
            assert refused.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.UNAUTHENTICATED
            assert refused.payload is None
        for mark in ("", "of another job"):
            refused = site.answer(asking("request", "server.job", b"x", mark), "job")
            assert refused.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.UNAUTHENTICATED
        long = site.answer(asking("request", "server.job", bytes(1025)), "job")
        assert long.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.INVALID_REQUEST
        answered = site.answer(asking("request", "server.job", b"x"), "job")
        assert of_this_job(answered, "of this job")
        assert answered.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.OK
        assert read_reply(answered.payload) == (Reply.ANSWER, b"x")
        site.disconnect()


def test_a_site_whose_own_process_is_not_running_says_so(tmp_path: Path) -> None:
    site = SiteRelay("recipe", "run", "of this job", 1024, 5.0)
    site.kit = tmp_path
    answered = site.answer(asking("greet", "server.job"), "job")
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


def test_a_listener_comes_back_to_a_folder_that_was_tidied_and_leaves_anothers_socket_alone(
    tmp_path: Path,
) -> None:
    with listening(tmp_path, echo):
        socket_path(tmp_path).unlink()
        end = time.monotonic() + 20
        while True:
            try:
                frames = connect(tmp_path, {}, limit=1024)
                break
            except SiteUnreachableError:
                assert time.monotonic() < end
                time.sleep(0.1)
        frames.send(1, b"x")
        assert read_reply(frames.receive(timeout=10)[1]) == (Reply.ANSWER, b"x")
        frames.close()
        socket_path(tmp_path).unlink()
        with socket.socket(socket.AF_UNIX) as of_another:
            of_another.bind(str(socket_path(tmp_path)))
    assert socket_path(tmp_path).exists()


def test_a_request_whose_time_is_over_is_not_sent() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        requests = Requests(Frames(ours, limit=1024))
        theirs.settimeout(5.0)
        with ThreadPoolExecutor() as pool:
            first = pool.submit(requests.ask, b"first", 0.3)
            assert theirs.recv(64).endswith(b"first")  # it waits for its answer
            with pytest.raises(SiteSilentError):
                requests.ask(b"late", 0.05)
            with pytest.raises(SiteSilentError):
                first.result()
        theirs.settimeout(0.1)
        with pytest.raises(TimeoutError):
            theirs.recv(1)
        requests.frames.close()


def test_nothing_piles_up_behind_a_request_that_is_not_accepted() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        requests = Requests(Frames(ours, limit=1024))
        for _ in range(5):
            with pytest.raises(SiteSilentError):
                requests.ask(bytes(2**20), 0.05)
        with ThreadPoolExecutor() as pool:
            last = pool.submit(requests.ask, b"last", 5.0)
            came = 0
            while came <= 2**20 + 64:  # one frame was kept, and this one
                part = theirs.recv(2**21)
                came += len(part)
                if part.endswith(b"last"):
                    break
            assert came <= 2**20 + 64
            requests.frames.close()
            with pytest.raises(SiteUnreachableError):
                last.result()
        requests.frames.close()


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
            gc.collect()  # earlier tests' files may close at any time
            before = opened()
            carried = Carried(server.getsockname()[1])
            counts = [carried.count() for _ in range(5)]
            assert counts[-1] == (1000 + 1, 3000)  # the connection's beginning counts as one
            assert opened() == before
            ours.close()
            with socket.create_connection(server.getsockname()) as another:
                another.sendall(bytes(10))
                server.accept()[0].close()
                assert carried.count()[0] >= 1000 + 1  # what has been closed still counts


def a_kit(folder: Path) -> Path:
    federation_here(folder / "made", folder / "north")
    return folder / "north"


def test_whoever_names_runs_fills_no_disk(tmp_path: Path) -> None:
    kit, site = a_kit(tmp_path), SiteFile(data=Path("data"), runs=2)
    for name in ("first", "second"):
        site.setup(kit, name).state.mkdir(parents=True)
    assert site.setup(kit, "first").state == kit / "runs" / "first"  # a run that is known goes on
    with pytest.raises(RunError, match=r"of 2 runs already .* Delete"):
        site.setup(kit, "third")
    (kit / "runs" / "second").rmdir()
    assert site.setup(kit, "third").state == kit / "runs" / "third"


def test_a_site_computes_for_one_run_until_the_job_of_that_run_is_over(
    tiny: Callable[..., Recipe],
    phantoms: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyndgan.engines.flare.service.HANDOVER_S", 0.5)
    kit = a_kit(tmp_path)
    recipe = tiny("image.size=32")
    service = SiteService(
        kit, lambda run: SiteSetup("north", phantoms["north"], tmp_path / "runs" / run)
    )

    def line(run: str) -> Requests:
        greeting = {"recipe": recipe.to_toml(), "run": run}
        return Requests(connect(kit, greeting, limit=2**24))

    opening = pack(Open(run="a", recipe=recipe.digest(), step=0), {})
    first = line("first")
    try:
        assert read_reply(first.ask(opening, 60.0))[0] is Reply.ANSWER
        second = line("second")  # whoever connects first has the compute
        pid = service.pid()
        assert pid
        assert read_reply(second.ask(opening, 60.0))[0] is Reply.SILENT
        assert service.pid() == pid
        halt(pid)  # a job may end while the compute is at work for it
        with pytest.raises(SiteSilentError):
            first.ask(opening, 0.5)
        first.frames.close()
        assert read_reply(second.ask(opening, 60.0))[0] is Reply.ANSWER
        assert service.pid() not in (pid, None)
        first = line("first")  # its job has come back, and finds the site taken
        assert read_reply(first.ask(opening, 60.0))[0] is Reply.SILENT
        monkeypatch.setattr(service, "_asked", float("-inf"))  # nothing for longer than `wait_s`
        assert read_reply(first.ask(opening, 60.0))[0] is Reply.ANSWER
    finally:
        service.close()
