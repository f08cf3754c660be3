"""The FLARE app: what its job processes pass on, and whom a site's data process answers."""

import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply

from asyndgan.cli.site import first_policy
from asyndgan.engines.flare.app import BYTES, GREET, REQUEST, Messages, SiteEnd, SiteLine
from asyndgan.engines.flare.kits import SUBMITTER, Federation, key_of
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.engines.flare.member import read_key, read_kit
from asyndgan.engines.flare.requests import Request, keep, kept
from asyndgan.engines.flare.sealing import Seal, line_key, read_letter, write_letter
from asyndgan.engines.flare.service import READING, SiteFile, SiteService
from asyndgan.engines.flare.sockets import (
    SOCKETS,
    Listener,
    Reply,
    connect,
    opened_reply,
    reply_of,
    sockets_of,
    unsealed,
)
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
from waiting import until


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


def test_a_request_whose_answer_was_lost_is_asked_again_in_the_same_words():
    engine = Engine(2, echoed)
    assert opened_reply("north", asked(engine)) == b"answer to request"
    assert engine.asked == [b"request"] * 3


def test_a_silent_site_is_given_up_and_what_is_no_reply_is_dropped():
    with pytest.raises(SiteSilentError, match="site north: there was no answer in time"):
        opened_reply("north", asked(Engine(10**6, echoed), wait_s=0.3))
    with pytest.raises(SiteUnreachableError, match="not connected"):
        asked(Engine(10**6, echoed), gone=True)
    for nonsense in (bytes(1025), b"", b"\xff123"):
        with pytest.raises(SiteUnreachableError):
            opened_reply("north", asked(Engine(0, lambda _, said=nonsense: said)))


def test_within_a_job_messages_are_sealed_and_a_forged_answer_is_none():
    key, words = bytes(range(32)), []

    def site(sealed):
        words.append(Seal(key).opened(sealed))
        return reply_of(Reply.ANSWER, Seal(key).sealed(b"the answer", sealed))

    def stranger(sealed):
        return reply_of(Reply.ANSWER, Seal(bytes(32)).sealed(b"the answer", sealed))

    for answer in (site, stranger):
        sites = Messages(Engine(1, answer), {"north": key.hex()}, 1024, lambda: False)
        try:
            while not sites.sites():
                time.sleep(0.01)
            if answer is site:
                assert sites.send("north", b"the request", 30.0) == b"the answer"
                assert words == [b"the request"]
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
    for words in (
        ("south", letter), ("north", letter, "two"), ("north", letter, "one", "another"),
        ("north", f"{signature} {signature} {certificate}"),
        ("north", f"{sealed} {sealed} {certificate}"), ("north", forged), ("north", of_member),
        ("north", ""), ("north", "no letter at all"), ("north", "\u00fc \u00fc \u00fc"),
    ):  # fmt: skip
        with pytest.raises(RunError, match="is not of this federation's coordinator"):
            read_by(federation, *words)


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


def test_a_site_passes_on_what_comes_and_the_answer_back(tmp_path, monkeypatch):
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


def test_what_is_no_greeting_is_sent_away(tmp_path):
    with listening(tmp_path, echo) as path, socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(path))
        nonsense = Frames(plain, limit=1024)
        nonsense.send(0, b"[1]")
        nonsense.send(1, b"words")
        with pytest.raises(SiteUnreachableError):
            nonsense.receive(timeout=10)


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


# A site's service


@pytest.fixture(scope="module")
def site(federation):
    return folder_of(federation, "north")


class Computes(list[Any]):
    """Recipes for which a service has begun a compute, which `answers` so often and then hangs."""

    def __call__(self, setups: list[SiteSetup], recipe: Recipe | None) -> "Computes":
        self.append(recipe)
        self.starts, self.answers = 1, 10**6
        return self

    def sites(self) -> tuple[str, ...]:
        return ("north",)

    def pid(self, site: str) -> int:
        return self.starts

    def start(self, site: str) -> None:
        self.starts += 1

    def close(self) -> None:
        pass

    def send(self, site: str, payload: bytes, wait_s: float) -> bytes:
        self.answers -= 1
        if self.answers < 0:
            raise SiteSilentError("no answer")
        return b"answer to " + payload


@pytest.fixture
def computes(monkeypatch):
    found = Computes()
    monkeypatch.setattr("asyndgan.engines.flare.service.Processes", found)
    return found


class Line:
    """What a run's job has at a site: a connection to its service, and the key of a letter."""

    def __init__(self, federation: Federation, run: str, text: str) -> None:
        key = key_of(federation, "north")
        letter = write_letter(federation.admin_kit, "north", key, run, text)
        self.seal = Seal(line_key(federation.admin_kit, "north", key, run))
        greeting = {"recipe": text, "run": run, "letter": letter, "submitter": "who says so"}
        path = sockets_of(folder_of(federation, "north")) / "north"
        self.requests = Requests(connect(path, greeting, limit=2**24))

    def ask(self, words: bytes = b"words") -> bytes:
        sealed = self.seal.sealed(words)
        return unsealed("north", self.requests.ask(sealed, 60.0), self.seal, sealed)


def without_rules(run: str) -> SiteSetup:
    return SiteSetup("north", Path("data"), Path("state"))


def test_whoever_names_runs_fills_no_disk(tmp_path, site):
    kit, file = Path(shutil.copytree(site, tmp_path / "north")), SiteFile(data=Path("data"), runs=2)
    for name in ("first", "second"):
        file.setup(kit, name).state.mkdir(parents=True)
    assert file.setup(kit, "first").state == kit / "runs" / "first"  # a run that is known goes on
    with pytest.raises(RunError, match=r"of 2 runs already .* Delete"):
        file.setup(kit, "third")
    (kit / "runs" / "second").rmdir()
    assert file.setup(kit, "third").state == kit / "runs" / "third"


def test_a_site_computes_for_one_run_until_the_job_of_that_run_is_over(
    tiny, federation, site, computes, monkeypatch
):
    monkeypatch.setattr("asyndgan.engines.flare.service.HANDOVER_S", 0.3)
    text, service = tiny().to_toml(), SiteService(site, without_rules)
    try:
        first = Line(federation, "first", text)
        assert first.ask() == b"answer to words"
        second = Line(federation, "second", text)  # whoever connects first has the compute
        with pytest.raises(SiteSilentError):
            second.ask()
        assert len(computes) == 1
        first.requests.frames.close()
        assert second.ask() == b"answer to words" and len(computes) == 2
        first = Line(federation, "first", text)  # its job has come back, and finds the site taken
        with pytest.raises(SiteSilentError):
            first.ask()
        service.wait_s = 0.1  # the other has asked nothing for longer
        assert first.ask() == b"answer to words" and len(computes) == 3
    finally:
        service.close()


@pytest.mark.parametrize(
    ("recipe", "answers", "asked", "starts"),
    [
        ("tiny", 1, 2, 2), ("tiny", 0, READING, 2), ("tiny", 0, 3 * READING - 1, 2),
        ("tiny", 0, 3 * READING, 3), ("", 1, 5 * READING, 1),
    ],
)  # fmt: skip
def test_a_compute_that_hangs_is_started_again_but_reads_its_data_and_answers_questions_in_peace(
    recipe, answers, asked, starts, tiny, federation, site, computes
):
    """A question takes hours; no recipe bounds its time."""
    service = SiteService(site, without_rules)
    try:
        line = Line(federation, "one", recipe and tiny().to_toml())
        until(lambda: computes)
        computes.answers = answers
        for _ in range(asked):
            with suppress(SiteSilentError):
                line.ask()
        assert computes.starts == starts
    finally:
        service.close()


def test_keys_that_refuse_reach_the_coordinator_and_a_stewards_answer_counts_at_once(
    federation, site, computes, tmp_path, caplog
):
    file, recipe = tmp_path / "policy.toml", load_recipe("default", ["discriminator.width=96"])
    asks = first_policy("north", "measured").to_toml()
    shutil.rmtree(site / "requests", ignore_errors=True)
    assert asks.count("\nsubmitters = []") == 1
    file.write_text(asks.replace("submitters = []", 'submitters = ["somebody@else.org"]'))
    told, text = tmp_path / "told", recipe.to_toml()
    service = SiteService(
        site, lambda run: SiteSetup("north", site, site / run, policy=file),
        notify=["sh", "-c", f"cat >> {told}"],
    )  # fmt: skip

    def decide(approve: bool) -> None:
        write_policy(file, Policy.from_file(file).decided(recipe, approve=approve))

    try:
        line = Line(federation, "one", text)
        with pytest.raises(PolicyRefusedError) as refused:
            line.ask()
        assert str(refused.value) == "site north: its policy refuses the run (allows.submitters)."
        file.write_text(asks)
        for _ in range(2):
            with pytest.raises(RefusedError, match=r"not approved the recipe \(allows\.approved\)"):
                line.ask()
        (kept_one,) = kept(site)
        assert (kept_one.run, kept_one.recipe, kept_one.submitter) == ("one", text, SUBMITTER)
        until(lambda: told.exists() and told.read_text())
        decide(True)
        assert line.ask() == b"answer to words"
        decide(False)  # in the middle of the run
        with pytest.raises(PolicyRefusedError, match=r"\(allows\.approved, allows\.refused\)"):
            line.ask()
        decide(True)
        assert line.ask() == b"answer to words"
        file.write_text("no policy")
        with pytest.raises(RefusedError, match="the reason is in its log"):
            line.ask()
        # Keys that the site has not sealed end nothing.
        with pytest.raises(WireError):
            unsealed("north", reply_of(Reply.REFUSED, b"allows.refused"), line.seal, b"request")
        said = told.read_text()
        assert said.count("\n") == 1 and said.startswith("Request 1 is new: asyndgan site console ")
        service.notify = [str(tmp_path / "no-mailer")]
        Line(federation, "two", text)
        until(lambda: "nobody was told of request 2" in caplog.text)
    finally:
        service.close()


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
    tiny, computes, tmp_path
):
    kit, key = tmp_path / "north", bytes(range(32))
    kit.mkdir()
    (kit / "site.toml").touch()
    service, words = SiteService(kit, without_rules), Seal(key).sealed(b"words")
    try:
        for letter, expected in ((key.hex(), Reply.ANSWER), ("", Reply.REFUSED)):
            greeting = {"recipe": tiny().to_toml(), "run": "one", "letter": letter}
            line = Requests(connect(sockets_of(kit) / "north", greeting, limit=2**24))
            reply = line.ask(words, 60.0)
            assert reply[0] == expected
            if letter:
                assert Seal(key).opened(reply[1:], words) == b"answer to words"
                # Bytes that the other end has not sealed are no request, whoever brings them.
                assert line.ask(b"anything", 60.0) == reply_of(Reply.UNREACHABLE)
            line.frames.close()
    finally:
        service.close()
