"""The FLARE app: what its job processes pass on, and whom a site's data process answers."""

import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from asyndgan.engines.flare.app import BYTES, GREET, REQUEST, Messages, SiteEnd, SiteLine
from asyndgan.engines.flare.kits import Federation, key_of
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.engines.flare.member import read_key, read_kit
from asyndgan.engines.flare.sealing import Seal, line_key, read_letter, write_letter
from asyndgan.engines.flare.service import SiteFile, SiteService
from asyndgan.engines.flare.sockets import (
    SOCKETS,
    Listener,
    Reply,
    connect,
    opened_reply,
    reply_of,
    sockets_of,
)
from asyndgan.engines.framing import Frames, Requests
from asyndgan.engines.setup import SiteSetup
from asyndgan.errors import (
    RefusedError,
    RunError,
    SiteSilentError,
    SiteUnreachableError,
    WireError,
)
from asyndgan.recipe import Recipe
from asyndgan.wire import Open, pack
from waiting import halt


class Engine:
    """FLARE's engine in a server's job, of whose answers the first so many are lost."""

    def __init__(self, lost: int, answer: Callable[[bytes], bytes]) -> None:
        self.lost = lost
        self.answer = answer
        self.asked: list[bytes] = []

    @contextmanager
    def new_context(self) -> Iterator[FLContext]:
        yield FLContext()

    def send_aux_request(
        self, targets: list[str], topic: str, request: Shareable, *_: Any, **__: Any
    ) -> dict[str, Shareable]:
        if topic == REQUEST:
            self.asked.append(request[BYTES])
            if len(self.asked) <= self.lost:
                return {targets[0]: make_reply(ReturnCode.COMMUNICATION_ERROR)}
        reply = make_reply(ReturnCode.OK)
        reply[BYTES] = self.answer(request[BYTES]) if topic == REQUEST else b""
        return {targets[0]: reply}


def echoed(payload: bytes) -> bytes:
    return reply_of(Reply.ANSWER, b"answer to " + payload)


def asked(engine: Engine, *, wait_s: float = 30.0, gone: bool = False) -> bytes:
    end = SiteEnd(engine, "north", limit=1024)
    end.last_reached = 0.0 if gone else float("inf")
    return end.answered(b"request", wait_s, lambda: False)


def test_a_request_whose_answer_was_lost_is_asked_again_in_the_same_words() -> None:
    engine = Engine(2, echoed)
    assert opened_reply("north", asked(engine)) == b"answer to request"
    assert engine.asked == [b"request"] * 3


def test_a_site_that_stays_silent_is_given_up_within_the_coordinators_patience() -> None:
    with pytest.raises(SiteSilentError, match="site north: there was no answer in time"):
        opened_reply("north", asked(Engine(10**6, echoed), wait_s=0.3))


def test_an_answer_that_is_too_long_is_dropped() -> None:
    with pytest.raises(SiteUnreachableError):
        opened_reply("north", asked(Engine(0, lambda _: bytes(1025))))


def test_a_site_whose_end_of_the_job_is_gone_is_not_connected() -> None:
    with pytest.raises(SiteUnreachableError, match="not connected"):
        asked(Engine(10**6, echoed), gone=True)


def test_a_reply_is_what_was_sent_and_anything_else_is_none() -> None:
    assert opened_reply("north", reply_of(Reply.ANSWER, b"abc")) == b"abc"
    with pytest.raises(RefusedError, match="own settings do not allow this run"):
        opened_reply("north", reply_of(Reply.REFUSED))
    for nonsense in (b"", b"\xff123"):
        with pytest.raises(SiteUnreachableError):
            opened_reply("north", nonsense)


def test_within_a_job_messages_are_sealed_and_a_forged_answer_is_none() -> None:
    key, words = bytes(range(32)), []

    def site(sealed: bytes) -> bytes:
        words.append(Seal(key).opened_request(sealed))
        return reply_of(Reply.ANSWER, Seal(key).answer(b"the answer", sealed))

    def stranger(sealed: bytes) -> bytes:
        return reply_of(Reply.ANSWER, Seal(bytes(32)).answer(b"the answer", sealed))

    for answer in (site, stranger):
        sites = Messages(Engine(1, answer), {"north": key.hex()}, 1024, lambda: False)
        try:
            while not sites.sites():
                time.sleep(0.01)
            if answer is site:
                assert sites.send("north", b"the request", 30.0) == b"the answer"
                assert words == [b"the request"]
                assert sites.pace() > 0
            else:
                with pytest.raises(WireError, match="not of the other end"):
                    sites.send("north", b"the request", 30.0)
            with pytest.raises(SiteUnreachableError, match="west is not connected"):
                sites.send("west", b"", 1.0)
        finally:
            sites.close()
        with pytest.raises(SiteUnreachableError):
            sites.send("north", b"", 1.0)


# Seals and letters


def test_a_seal_opens_what_the_other_end_sealed_and_nothing_else() -> None:
    seal, other = Seal(bytes(32)), Seal(bytes([1]) * 32)
    first, second = seal.request(b"words"), seal.request(b"words")
    assert b"words" not in first and first != second
    assert seal.opened_request(first) == b"words"
    answer = seal.answer(b"yes", first)
    assert seal.opened_answer(answer, first) == b"yes"
    assert len(seal.answer(b"", first)) + 1 <= Seal.BYTES
    for attempt in (
        lambda: other.opened_request(first),
        lambda: seal.opened_request(answer),  # an answer is no request
        lambda: seal.opened_answer(answer, second),  # nor the answer to another
        lambda: seal.opened_answer(first, first),
        lambda: seal.opened_request(first[:-1]),
        lambda: seal.opened_request(b""),
    ):
        with pytest.raises(WireError, match="not of the other end of this line"):
            attempt()


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    path = tmp_path_factory.mktemp("letters") / "f"
    return federation_here(path, *(path / "sites" / name for name in ("north", "south")))


def folder_of(federation: Federation, site: str) -> Path:
    return federation.path / "sites" / site


def letter_to(federation: Federation, site: str, run: str = "one", recipe: str = "r") -> str:
    return write_letter(federation.admin_kit, site, key_of(federation, site), run, recipe)


def read_by(
    federation: Federation, site: str, letter: str, run: str = "one", recipe: str = "r"
) -> tuple[bytes, str]:
    folder = folder_of(federation, site)
    return read_letter(letter, read_kit(folder).root, read_key(folder), site, run, recipe)


def test_a_site_reads_the_key_of_its_line_from_the_coordinators_letter(
    federation: Federation,
) -> None:
    key, submitter = read_by(federation, "north", letter_to(federation, "north"))
    assert key == line_key(federation.admin_kit, "north", "one")  # after a restart it is the same
    assert submitter == "coordinator@asyndgan.local"
    keys = {line_key(federation.admin_kit, *about) for about in (("south", "one"), ("north", "2"))}
    assert len(keys | {key}) == 3


def test_a_letter_that_is_altered_or_of_anybody_else_is_refused(
    federation: Federation, tmp_path: Path
) -> None:
    letter = letter_to(federation, "north")
    sealed, signature, certificate = letter.split(" ")
    other = federation_here(tmp_path / "f", tmp_path / "f" / "sites" / "north")
    forged = write_letter(other.admin_kit, "north", key_of(federation, "north"), "one", "r")
    member = tmp_path / "member" / "startup"  # another site, that knows how to write letters
    member.mkdir(parents=True)
    shutil.copy(folder_of(federation, "south") / "site.key", member / "client.key")
    south = read_kit(folder_of(federation, "south")).certificate
    (member / "client.crt").write_text(south)
    of_member = write_letter(member.parent, "north", key_of(federation, "north"), "one", "r")
    for site, text, run, recipe in (
        ("south", letter, "one", "r"),
        ("north", letter, "two", "r"),
        ("north", letter, "one", "another"),
        ("north", f"{signature} {signature} {certificate}", "one", "r"),
        ("north", f"{sealed} {sealed} {certificate}", "one", "r"),
        ("north", forged, "one", "r"),
        ("north", of_member, "one", "r"),
        ("north", "", "one", "r"),
        ("north", "no letter at all", "one", "r"),
        ("north", "\u00fc \u00fc \u00fc", "one", "r"),
    ):
        with pytest.raises(RunError, match="is not of this federation's coordinator"):
            read_by(federation, site, text, run, recipe)


# Sockets on one machine


@contextmanager
def listening(
    kit: Path, serve: Callable[[dict[str, str], Frames], None], limit: int = 1024
) -> Iterator[Path]:
    listener = Listener(kit, "north", serve, limit=limit)
    try:
        yield sockets_of(kit) / "north"
    finally:
        listener.close()


def echo(greeting: dict[str, str], frames: Frames) -> None:
    try:
        while True:
            number, payload = frames.receive(timeout=5.0)
            frames.send(number, reply_of(Reply.ANSWER, payload), timeout=5.0)
    except SiteUnreachableError:
        return


def a_line(sockets: Path, monkeypatch: pytest.MonkeyPatch) -> SiteLine:
    monkeypatch.setenv(SOCKETS, str(sockets))
    line = SiteLine("recipe", "run", "letter", 1024, 5.0)
    line.site = "north"
    return line


def asking(payload: object) -> Shareable:
    request = Shareable()
    request[BYTES] = payload
    return request


def test_a_site_passes_on_what_comes_and_the_answer_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(tmp_path, echo) as path:
        line = a_line(path.parent, monkeypatch)
        for wrong in (bytes(1025), "text", None):
            refused = line.answer(REQUEST, asking(wrong), FLContext())
            assert refused.get_return_code() == ReturnCode.BAD_REQUEST_DATA
        answered = line.answer(REQUEST, asking(b"x"), FLContext())
        assert answered.get_return_code() == ReturnCode.OK
        assert answered[BYTES] == reply_of(Reply.ANSWER, b"x")
        assert line.answer(GREET, asking(b""), FLContext())[BYTES] == b""
        line.disconnect()


def test_a_site_whose_own_process_is_not_running_or_not_named_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = a_line(tmp_path, monkeypatch)
    for _ in range(2):
        answered = line.answer(GREET, asking(b""), FLContext())
        assert answered.get_return_code() == ReturnCode.SERVICE_UNAVAILABLE
        monkeypatch.delenv(SOCKETS, raising=False)
    done = line.execute("any", Shareable(), FLContext(), Signal())
    assert done.get_return_code() == ReturnCode.TASK_UNKNOWN


def test_a_greeting_arrives_and_what_is_none_is_sent_away(tmp_path: Path) -> None:
    heard: list[dict[str, str]] = []
    arrived = threading.Event()

    def serve(greeting: dict[str, str], frames: Frames) -> None:
        heard.append(greeting)
        arrived.set()

    with listening(tmp_path, serve) as path:
        connect(path, {"site": "north"}, limit=1024).close()
        assert arrived.wait(10)
        with socket.socket(socket.AF_UNIX) as plain:
            plain.connect(str(path))
            nonsense = Frames(plain, limit=1024)
            nonsense.send(0, b"[1]")
            with pytest.raises(SiteUnreachableError):
                nonsense.receive(timeout=10)
    assert heard == [{"site": "north"}]


def test_a_listener_comes_back_to_a_folder_that_was_tidied_and_leaves_anothers_socket_alone(
    tmp_path: Path,
) -> None:
    with listening(tmp_path, echo) as path:
        path.unlink()
        end = time.monotonic() + 20
        while True:
            try:
                frames = connect(path, {}, limit=1024)
                break
            except SiteUnreachableError:
                assert time.monotonic() < end
                time.sleep(0.1)
        frames.send(1, b"x")
        assert frames.receive(timeout=10)[1] == reply_of(Reply.ANSWER, b"x")
        frames.close()
        path.unlink()
        with socket.socket(socket.AF_UNIX) as of_another:
            of_another.bind(str(path))
    assert path.exists()


def test_the_sockets_folder_has_to_be_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = sockets_of(tmp_path / "kit")
    assert not (path.stat().st_mode | path.parent.stat().st_mode) & 0o77
    assert sockets_of(tmp_path / "kit") == path != sockets_of(tmp_path / "other")
    assert len(str(path)) - len(str(tmp_path)) < 50
    path.chmod(0o755)
    with pytest.raises(RunError, match="is not a folder of yours alone"):
        sockets_of(tmp_path / "kit")
    shutil.rmtree(path.parent)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / f"asyndgan-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is not a folder of yours alone"):
        sockets_of(tmp_path / "kit")


def test_a_steward_may_name_the_sockets_folder_which_its_group_may_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "s").mkdir()
    monkeypatch.setenv(SOCKETS, str(folder))
    folder.chmod(0o710)
    with listening(tmp_path / "kit", echo) as path:
        assert path == folder / "north"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    folder.chmod(0o711)
    with pytest.raises(RunError, match=f"remove it, or set {SOCKETS}"):
        sockets_of(tmp_path / "kit")


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
    made = Federation.of(tmp_path / "made")
    service = SiteService(
        kit, lambda run: SiteSetup("north", phantoms["north"], tmp_path / "runs" / run)
    )

    def line(run: str) -> Requests:
        text = recipe.to_toml()
        letter = write_letter(made.admin_kit, "north", key_of(made, "north"), run, text)
        greeting = {"recipe": text, "run": run, "letter": letter}
        return Requests(connect(sockets_of(kit) / "north", greeting, limit=2**24))

    def kind(line: Requests, run: str) -> Reply:
        sealed = Seal(line_key(made.admin_kit, "north", run)).request(opening)
        return Reply(line.ask(sealed, 60.0)[0])

    opening = pack(Open(run="a", recipe=recipe.digest(), step=0), {})
    first = line("first")
    try:
        assert kind(first, "first") is Reply.ANSWER
        second = line("second")  # whoever connects first has the compute
        pid = service.pid()
        assert pid
        assert kind(second, "second") is Reply.SILENT
        assert service.pid() == pid
        halt(pid)  # a job may end while the compute is at work for it
        with pytest.raises(SiteSilentError):
            first.ask(Seal(line_key(made.admin_kit, "north", "first")).request(opening), 0.5)
        first.frames.close()
        assert kind(second, "second") is Reply.ANSWER
        assert service.pid() not in (pid, None)
        first = line("first")  # its job has come back, and finds the site taken
        assert kind(first, "first") is Reply.SILENT
        monkeypatch.setattr(service, "_asked", float("-inf"))  # nothing for longer than `wait_s`
        assert kind(first, "first") is Reply.ANSWER
    finally:
        service.close()


def test_a_site_of_a_federation_of_others_answers_who_brings_the_key_of_a_line(
    tiny: Callable[..., Recipe], phantoms: dict[str, Path], tmp_path: Path
) -> None:
    kit, recipe, key = tmp_path / "north", tiny("image.size=32"), bytes(range(32))
    kit.mkdir()
    (kit / "site.toml").touch()
    service = SiteService(kit, lambda run: SiteSetup("north", phantoms["north"], kit / "runs"))
    opening = Seal(key).request(pack(Open(run="a", recipe=recipe.digest(), step=0), {}))
    try:
        for letter, expected in ((key.hex(), Reply.ANSWER), ("", Reply.REFUSED)):
            greeting = {"recipe": recipe.to_toml(), "run": "one", "letter": letter}
            line = Requests(connect(sockets_of(kit) / "north", greeting, limit=2**24))
            reply = line.ask(opening, 60.0)
            assert reply[0] == expected
            if letter:
                Seal(key).opened_answer(reply[1:], opening)
                # Bytes that the other end has not sealed are no request, whoever brings them.
                assert line.ask(b"anything", 60.0) == reply_of(Reply.UNREACHABLE)
            line.frames.close()
    finally:
        service.close()
