"""The FLARE app: what its job processes pass on, and whom a site's data process answers."""

import errno
import os
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from asyndgan.cli.site import first_policy
from asyndgan.engines.flare.app import (
    BYTES,
    LINE,
    WITHIN,
    ServerEnd,
    SiteEnd,
    passed_on,
)
from asyndgan.engines.flare.jobs import _files
from asyndgan.engines.flare.kits import SUBMITTER, Federation, key_of
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.engines.flare.member import read_key, read_kit
from asyndgan.engines.flare.requests import Request, keep, kept
from asyndgan.engines.flare.sealing import Seal, line_key, read_letter, write_letter
from asyndgan.engines.flare.service import SiteFile, SiteService
from asyndgan.engines.flare.sockets import (
    GREET,
    REQUEST,
    SOCKETS,
    Listener,
    Reply,
    connect,
    reply_of,
    sockets_of,
    unsealed,
)
from asyndgan.engines.flare.transport import Flare, Line
from asyndgan.engines.framing import Frames, Requests
from asyndgan.engines.setup import SiteSetup
from asyndgan.errors import (
    PolicyRefusedError,
    RefusedError,
    RunError,
    SiteSilentError,
    SiteUnreachableError,
    WireError,
)
from asyndgan.privacy import Policy
from asyndgan.privacy.deciding import write_policy
from asyndgan.recipe import Recipe
from asyndgan.runs import load_recipe
from asyndgan.texts import sha256_of
from asyndgan.wire.messages import Open, pack
from waiting import halt, until


class Engine:
    """FLARE's engine in a server, of whose sites' answers the first so many are lost."""

    def __init__(self, lost: int, answer: Callable[[bytes], bytes]) -> None:
        self.lost = lost
        self.answer = answer
        self.asked: list[bytes] = []
        self.gone = False

    def get_client_from_name(self, name: str) -> object:
        return None if self.gone else name

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
        reply[BYTES] = self.answer(request[BYTES]) if topic == REQUEST else b"here"
        return {targets[0]: reply}


KEY = bytes(range(32))


def echoed(sealed: bytes, key: bytes = KEY) -> bytes:
    answer = b"answer to " + Seal(KEY).opened(sealed)
    return reply_of(Reply.ANSWER, Seal(key).sealed(answer, sealed))


@contextmanager
def lines(engine: Engine) -> Iterator[Flare]:
    """A line to one site, which is there."""
    line = Line.of("run", "recipe", KEY, "letter")
    flare = Flare(partial(passed_on, engine), lambda: {"north": line}, limit=1024)
    try:
        until(lambda: flare.sites() == ("north",))
        yield flare
    finally:
        flare.close()
    assert flare.sites() == ()
    with pytest.raises(SiteUnreachableError):
        flare.send("north", b"", 1.0)


def test_a_request_whose_answer_was_lost_is_asked_again_in_the_same_words():
    engine = Engine(2, echoed)
    with lines(engine) as flare:
        assert flare.send("north", b"request", 30.0) == b"answer to request"
        with pytest.raises(SiteUnreachableError, match="west is not connected"):
            flare.send("west", b"", 1.0)
        with pytest.raises(WireError, match="1024 are allowed"):
            flare.send("north", bytes(1025), 1.0)
    assert engine.asked == engine.asked[:1] * 3


def test_a_site_that_stays_silent_is_given_up_within_the_coordinators_patience():
    with (
        lines(Engine(10**6, echoed)) as flare,
        pytest.raises(SiteSilentError, match="site north: there was no answer in time"),
    ):
        flare.send("north", b"request", 0.3)


def test_a_forged_answer_or_one_that_is_too_long_is_none():
    for answer, error in (
        (partial(echoed, key=bytes(32)), WireError),
        (lambda _: bytes(2048), SiteUnreachableError),
    ):
        with lines(Engine(0, answer)) as flare, pytest.raises(error):
            flare.send("north", b"request", 30.0)


def test_a_site_that_is_gone_is_not_connected(monkeypatch):
    engine = Engine(10**6, echoed)
    with lines(engine) as flare:
        engine.gone = True
        monkeypatch.setattr("asyndgan.engines.flare.transport.GONE_S", 0.1)
        with pytest.raises(SiteUnreachableError, match="not connected"):
            flare.send("north", b"request", 30.0)


def test_a_reply_is_what_was_sent_and_anything_else_is_none():
    seal = Seal(KEY)
    answer = reply_of(Reply.ANSWER, seal.sealed(b"abc", b"request"))
    assert unsealed("north", answer, seal, b"request") == b"abc"
    with pytest.raises(RefusedError, match="own settings do not allow this run"):
        unsealed("north", reply_of(Reply.REFUSED), seal, b"request")
    for nonsense in (b"", b"\xff123"):
        with pytest.raises(SiteUnreachableError):
            unsealed("north", nonsense, seal, b"request")


# Seals and letters


def test_a_seal_opens_what_the_other_end_sealed_and_nothing_else():
    seal, other = Seal(bytes(32)), Seal(bytes([1]) * 32)
    first, second = seal.sealed(b"words"), seal.sealed(b"words")
    assert b"words" not in first and first != second
    assert seal.opened(first) == b"words"
    answer = seal.sealed(b"yes", first)
    assert seal.opened(answer, first) == b"yes"
    assert len(seal.sealed(b"", first)) + 1 <= Seal.BYTES
    for attempt in (
        lambda: other.opened(first),
        lambda: seal.opened(answer),  # an answer is no request
        lambda: seal.opened(answer, second),  # nor the answer to another
        lambda: seal.opened(first, first),
        lambda: seal.opened(first[:-1]),
        lambda: seal.opened(b""),
    ):
        with pytest.raises(WireError, match="not of the other end of this line"):
            attempt()


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
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


def test_a_site_reads_the_key_of_its_line_from_the_coordinators_letter(federation):
    key, submitter = read_by(federation, "north", letter_to(federation, "north"))
    north, south = (key_of(federation, site) for site in ("north", "south"))
    line = partial(line_key, federation.admin_kit)
    assert key == line("north", north, "one")  # after a restart it is the same
    assert submitter == "coordinator@asyndgan.local"
    others = {line("south", north, "one"), line("north", south, "one"), line("north", north, "2")}
    assert len(others | {key}) == 4  # a key that was replaced opens no line of the new one


def test_a_letter_that_is_altered_or_of_anybody_else_is_refused(federation, tmp_path):
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
def listening(kit: Path, serve: Callable[[dict[str, str], Frames], None]) -> Iterator[Path]:
    listener = Listener(sockets_of(kit) / "north", serve)
    try:
        yield listener.path
    finally:
        listener.close()


def echo(greeting: dict[str, str], frames: Frames) -> None:
    try:
        while True:
            number, payload = frames.receive(timeout=5.0)
            frames.send(number, reply_of(Reply.ANSWER, payload), timeout=5.0)
    except SiteUnreachableError:
        return


def an_end(sockets: Path, monkeypatch: pytest.MonkeyPatch) -> SiteEnd:
    monkeypatch.setenv(SOCKETS, str(sockets))
    end = SiteEnd()
    end.site = "north"
    return end


def asking(payload: object, line: str = "one") -> Shareable:
    request = Shareable()
    request[BYTES], request[LINE], request[WITHIN] = payload, line, 5.0
    return request


def answered_by(end: SiteEnd, topic: str, request: Shareable) -> object:
    reply = end.answer(topic, request, FLContext())
    return reply[BYTES] if reply.get_return_code() == ReturnCode.OK else reply.get_return_code()


def test_a_site_passes_on_what_comes_on_a_line_that_was_opened_and_the_answer_back(
    tmp_path, monkeypatch
):
    heard = []

    def serve(greeting, frames):
        heard.append(greeting)
        echo(greeting, frames)

    greeting = Line.of("run", "recipe", KEY, "letter").greeting
    with listening(tmp_path, serve) as path:
        end = an_end(path.parent, monkeypatch)
        monkeypatch.setattr("asyndgan.engines.flare.app.LONGEST", 1024)
        for wrong in (bytes(1025), "text", None):
            assert answered_by(end, REQUEST, asking(wrong)) == ReturnCode.BAD_REQUEST_DATA
        for topic in (GREET, REQUEST):
            assert answered_by(end, topic, asking(b"")) == ReturnCode.SERVICE_UNAVAILABLE
        assert answered_by(end, GREET, asking(b"[")) == ReturnCode.SERVICE_UNAVAILABLE
        for said in (greeting, b""):  # the second finds it open
            assert answered_by(end, GREET, asking(said)) == b"here"
        assert answered_by(end, REQUEST, asking(b"x")) == reply_of(Reply.ANSWER, b"x")
        monkeypatch.setattr("asyndgan.engines.flare.app.GONE_S", 0.0)
        assert answered_by(end, GREET, asking(greeting, "two")) == b"here"
        assert answered_by(end, REQUEST, asking(b"x")) == ReturnCode.SERVICE_UNAVAILABLE
        until(lambda: len(heard) == 2)
    assert [one["run"] for one in heard] == ["run", "run"] and heard[0]["letter"] == "letter"


def test_in_a_job_of_others_only_who_knows_its_key_opens_a_line(tmp_path, monkeypatch):
    heard = []

    def serve(greeting, frames):
        heard.append(greeting["letter"])
        echo(greeting, frames)

    key, sites = KEY.hex(), {"north": KEY.hex(), "south": "ff" * 32}
    files = _files(Recipe.from_toml(""), "run", sites)
    for site, own in sites.items():  # each site learns its own key alone
        (executor,) = files[f"app_{site}/config/config_fed_client.json"]["executors"]
        assert executor["executor"]["args"] == {"key": own}
        assert files["meta.json"]["deploy_map"][f"app_{site}"] == [site]
    with listening(tmp_path, serve) as path:
        monkeypatch.setenv(SOCKETS, str(path.parent))
        end = SiteEnd(key)
        begin = FLContext()
        begin.set_prop(ReservedKey.IDENTITY_NAME, "north", private=False, sticky=True)
        handlers = SimpleNamespace(register_aux_message_handler=lambda topic, handler: None)
        monkeypatch.setattr(FLContext, "get_engine", lambda self: handlers)
        end.handle_event(EventType.START_RUN, begin)
        for letter in (key, "00" * 32, sha256_of("00" * 32), ""):
            greeting = Line.of("run", "recipe", KEY, letter).greeting
            assert answered_by(end, GREET, asking(greeting)) == ReturnCode.SERVICE_UNAVAILABLE
        greeting = Line.of("run", "recipe", KEY, sha256_of(key)).greeting
        assert key.encode() not in greeting
        assert answered_by(end, GREET, asking(greeting)) == b"here"
        assert answered_by(end, REQUEST, asking(b"x")) == reply_of(Reply.ANSWER, b"x")
    assert heard == [key]


def test_no_more_lines_are_opened_than_a_site_can_keep(tmp_path, monkeypatch):
    monkeypatch.setattr("asyndgan.engines.flare.app.MOST_LINES", 3)
    greeting = Line.of("run", "recipe", KEY, "letter").greeting
    with listening(tmp_path, echo) as path:
        end = an_end(path.parent, monkeypatch)
        said = [answered_by(end, GREET, asking(greeting, str(number))) for number in range(4)]
    assert said == [*[b"here"] * 3, ReturnCode.SERVICE_UNAVAILABLE]


def test_a_process_that_hangs_takes_nobody_up_and_holds_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr("asyndgan.engines.flare.sockets.CONNECT_S", 0.2)
    path = tmp_path / "hangs"
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(path))
        hanging.listen(0)
        waiting = connect(path, {}, limit=1024)  # to be taken up
        with closing(waiting), pytest.raises(SiteUnreachableError, match="is not running"):
            connect(path, {}, limit=1024)


def test_a_listener_leaves_the_socket_of_whoever_came_after_it(tmp_path):
    first = Listener(tmp_path / "north", echo)
    second = Listener(tmp_path / "north", echo)
    first.close()
    connect(second.path, {}, limit=1024).close()
    second.close()
    assert not second.path.exists()


def test_a_server_whose_disk_is_full_goes_on_to_look_who_is_a_member(tmp_path, monkeypatch):
    failed = []

    def disable_clients(names):
        failed.append(names)
        raise OSError(errno.ENOSPC, "no space left") if len(failed) < 3 else SystemExit

    clients = [SimpleNamespace(name="stranger")]
    engine = SimpleNamespace(get_clients=lambda: clients, disable_clients=disable_clients)
    monkeypatch.setattr("asyndgan.engines.flare.app.ADMIT_S", 0.0)
    monkeypatch.setattr(Federation, "of", lambda path: SimpleNamespace(sites=[]))
    end = ServerEnd(str(tmp_path))
    end._engine = engine
    with pytest.raises(SystemExit):
        end._admit()
    assert failed == [["stranger"]] * 3


def test_a_site_whose_own_process_is_not_running_or_not_named_says_so(tmp_path, monkeypatch):
    end = an_end(tmp_path, monkeypatch)
    for _ in range(2):
        assert answered_by(end, GREET, asking(b"{}")) == ReturnCode.SERVICE_UNAVAILABLE
        monkeypatch.delenv(SOCKETS, raising=False)
    done = end.execute("any", Shareable(), FLContext(), Signal())
    assert done.get_return_code() == ReturnCode.TASK_UNKNOWN


def test_a_greeting_arrives_and_what_is_none_is_sent_away(tmp_path):
    heard: list[dict[str, str]] = []
    arrived = threading.Event()

    def serve(greeting, frames):
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


def test_the_sockets_folder_has_to_be_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
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


def test_a_steward_may_name_the_sockets_folder_which_its_group_may_open(tmp_path, monkeypatch):
    (folder := tmp_path / "s").mkdir()
    monkeypatch.setenv(SOCKETS, str(folder))
    folder.chmod(0o710)
    with listening(tmp_path / "kit", echo) as path:
        assert path == folder / "north"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    folder.chmod(0o711)
    with pytest.raises(RunError, match=f"remove it, or set {SOCKETS}"):
        sockets_of(tmp_path / "kit")


def test_a_request_whose_time_is_over_is_not_sent():
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


def a_kit(folder: Path) -> Path:
    federation_here(folder / "made", folder / "north")
    return folder / "north"


def test_whoever_names_runs_fills_no_disk(tmp_path):
    kit, site = a_kit(tmp_path), SiteFile(data=Path("data"), runs=2)
    for name in ("first", "second"):
        site.setup(kit, name).state.mkdir(parents=True)
    assert site.setup(kit, "first").state == kit / "runs" / "first"  # a run that is known goes on
    with pytest.raises(RunError, match=r"of 2 runs already .* Delete"):
        site.setup(kit, "third")
    (kit / "runs" / "second").rmdir()
    assert site.setup(kit, "third").state == kit / "runs" / "third"


def test_a_site_computes_for_one_run_until_the_job_of_that_run_is_over(
    tiny, phantoms, tmp_path, monkeypatch
):
    kit = a_kit(tmp_path)
    recipe = tiny("image.size=32")
    made = Federation.of(tmp_path / "made")
    service = SiteService(
        kit, lambda run: SiteSetup("north", phantoms["north"], tmp_path / "runs" / run)
    )

    def line(run):
        text = recipe.to_toml()
        letter = write_letter(made.admin_kit, "north", key_of(made, "north"), run, text)
        greeting = {"recipe": text, "run": run, "letter": letter}
        return Requests(connect(sockets_of(kit) / "north", greeting, limit=2**24))

    def kind(line: Requests, run: str) -> Reply:
        sealed = Seal(line_key(made.admin_kit, "north", key_of(made, "north"), run)).sealed(opening)
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
            first.ask(
                Seal(line_key(made.admin_kit, "north", key_of(made, "north"), "first")).sealed(
                    opening
                ),
                0.5,
            )
        first.frames.close()
        assert kind(second, "second") is Reply.ANSWER
        assert service.pid() not in (pid, None)
        first = line("first")  # its job has come back, and finds the site taken
        assert kind(first, "first") is Reply.SILENT
        monkeypatch.setattr(service, "_asked", float("-inf"))  # nothing for longer than `wait_s`
        assert kind(first, "first") is Reply.ANSWER
    finally:
        service.close()


@pytest.mark.parametrize("recipe", ["", "a recipe"])
def test_what_takes_hours_is_not_begun_anew_where_no_recipe_bounds_its_time(
    recipe, tmp_path, monkeypatch
):
    class Silent:
        begun = 0

        def sites(self):
            pass

        def pid(self, name):
            return 1

        def send(self, name, payload, wait_s):
            raise SiteSilentError("no answer")

        def start(self, name):
            self.begun += 1

    service, worker = SiteService(a_kit(tmp_path), lambda run: None), Silent()
    monkeypatch.setattr(service, "_worker_for", lambda *_: worker)
    key = bytes(32)
    try:
        for _ in range(50):
            sealed = Seal(key).sealed(b"a question")
            assert Reply(service._answer((recipe, "audit"), Seal(key), sealed)[0]) is Reply.SILENT
    finally:
        service.close()
    assert bool(worker.begun) == bool(recipe)


def test_keys_that_refuse_reach_the_coordinator_and_a_stewards_answer_counts_at_once(
    tmp_path, monkeypatch, caplog
):
    kit, made = a_kit(tmp_path), Federation.of(tmp_path / "made")
    file, recipe = kit / "policy.toml", load_recipe("default", ["discriminator.width=96"])
    file.write_text(first_policy("north", "measured").to_toml())
    told = tmp_path / "told"
    service = SiteService(
        kit, lambda run: SiteSetup("north", kit, kit / run, policy=file),
        notify=["sh", "-c", f"cat >> {told}"],
    )  # fmt: skip

    def answered(line: object, seal: Seal, sealed: bytes) -> bytes:
        return reply_of(Reply.ANSWER, seal.sealed(b"yes", sealed))

    monkeypatch.setattr(service, "_answer", answered)  # the compute has tests of its own
    text, key = recipe.to_toml(), key_of(made, "north")
    letter = write_letter(made.admin_kit, "north", key, "one", text)
    greeting = {"recipe": text, "run": "one", "letter": letter, "submitter": "who says so"}
    seal = Seal(line_key(made.admin_kit, "north", key, "one"))
    line = Requests(connect(sockets_of(kit) / "north", greeting, limit=2**24))

    def said() -> bytes:
        sealed = seal.sealed(b"anything")
        return unsealed("north", line.ask(sealed, 60.0), seal, sealed)

    def decide(approve: bool) -> None:
        write_policy(file, Policy.from_file(file).decided(recipe, approve=approve))

    try:
        for _ in range(2):
            with pytest.raises(RefusedError, match=r"not approved the recipe \(allows\.approved\)"):
                said()
        (kept_one,) = kept(kit)
        assert (kept_one.run, kept_one.recipe, kept_one.submitter) == ("one", text, SUBMITTER)
        until(lambda: told.exists() and told.read_text())
        service.notify = [str(tmp_path / "no-mailer")]
        service._tell(2)
        assert "nobody was told of request 2" in caplog.text
        decide(True)
        assert said() == b"yes"
        decide(False)  # in the middle of the run
        with pytest.raises(PolicyRefusedError, match=r"its steward has refused this recipe \("):
            said()
        decide(True)
        assert said() == b"yes"
        file.write_text("no policy")
        with pytest.raises(RefusedError, match="the reason is in its log"):
            said()
        # Keys that the site has not sealed end nothing.
        with pytest.raises(WireError):
            unsealed("north", reply_of(Reply.REFUSED, b"allows.refused"), seal, b"request")
    finally:
        line.frames.close()
        service.close()
    line = told.read_text()
    assert line.count("\n") == 1 and line.startswith("Request 1 is new: asyndgan site console ")


def test_requests_fill_no_disk_and_a_damaged_one_hides_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr("asyndgan.engines.flare.requests.KEPT", 3)
    numbers = [
        keep(tmp_path, Request(run=run, recipe=run, submitter="who", refused=""))
        for run in ("a", "b", "c", "d", "b")
    ]
    assert numbers == [1, 2, 3, 4, 0]  # only new ones are told of
    assert sorted(each.run for each in kept(tmp_path)) == ["b", "c", "d"]
    (tmp_path / "requests" / "c.json").write_text("{")
    assert [each.run for each in kept(tmp_path)] == ["b", "d"]


def test_a_site_of_a_federation_of_others_answers_who_brings_the_key_of_a_line(
    tiny, phantoms, tmp_path
):
    kit, recipe, key = tmp_path / "north", tiny("image.size=32"), bytes(range(32))
    kit.mkdir()
    (kit / "site.toml").touch()
    service = SiteService(kit, lambda run: SiteSetup("north", phantoms["north"], kit / "runs"))
    opening = Seal(key).sealed(pack(Open(run="a", recipe=recipe.digest(), step=0), {}))
    try:
        for letter, expected in ((key.hex(), Reply.ANSWER), ("", Reply.REFUSED)):
            greeting = {"recipe": recipe.to_toml(), "run": "one", "letter": letter}
            line = Requests(connect(sockets_of(kit) / "north", greeting, limit=2**24))
            reply = line.ask(opening, 60.0)
            assert reply[0] == expected
            if letter:
                Seal(key).opened(reply[1:], opening)
                # Bytes that the other end has not sealed are no request, whoever brings them.
                assert line.ask(b"anything", 60.0) == reply_of(Reply.UNREACHABLE)
            line.frames.close()
    finally:
        service.close()
