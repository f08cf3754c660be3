"""Over real FLARE, with real kits: what dies comes back, and who may not take part does not."""

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from nvflare.fuel.flare_api.api_spec import AuthorizationError
from nvflare.fuel.flare_api.flare_api import new_secure_session

from asyndgan.engines import SiteSetup
from asyndgan.engines.flare.checks import checks
from asyndgan.engines.flare.jobs import export_jobs
from asyndgan.engines.flare.keeper import CLIENT, SERVER, keep_client
from asyndgan.engines.flare.kits import (
    PROJECT,
    SUBMITTER,
    Federation,
    init_federation,
    remove_site,
)
from asyndgan.engines.flare.localhost import Localhost, federation_here, free_port, join
from asyndgan.engines.flare.member import KEY_FILE, KIT_FILE, parsed_kit, read_kit
from asyndgan.engines.flare.sealing import Seal
from asyndgan.engines.flare.service import READING, SiteService
from asyndgan.engines.flare.transport import flare_to
from asyndgan.errors import (
    BusyError,
    RefusedError,
    RunError,
    SiteSilentError,
    SiteUnreachableError,
    WireError,
)
from asyndgan.locks import held
from asyndgan.privacy import SIMULATION, Policy
from asyndgan.protocol import Exchange, Transport
from asyndgan.recipe import Recipe
from asyndgan.runs import Interrupted, RunFacts, load_recipe
from asyndgan.runs.federated import serve
from asyndgan.runs.order import Order
from asyndgan.training import Coordinator
from asyndgan.wire.messages import ANSWERS, Card, Judgement, unpack
from commands import asyndgan
from engine_contract import RUN, WAIT, Contract, OfProcesses, judging, opening
from waiting import until

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc")


@pytest.fixture(scope="module")
def local(tiny, phantoms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flare")
    setups = [SiteSetup(name, data, folder / "state" / name) for name, data in phantoms.items()]
    engine = Localhost(setups, tiny("image.size=32"), folder=folder)
    yield engine
    engine.close()


@pytest.fixture
def engine(local, phantoms):
    """The same as tests of the contract want it."""
    recipe = local.recipe
    for site in phantoms:
        answered(local, site, opening(recipe))
    setups = [SiteSetup(name, data, local.folder / name) for name, data in phantoms.items()]
    return SimpleNamespace(recipe=recipe, setups=setups, transport=local)


class TestFlare(OfProcesses, Contract):  # whose tests are taken from the last
    pass


def processes(*words: str) -> list[int]:
    """Those whose command holds all these words."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if all(word in command for word in words):
            found.append(int(place.name))
    return found


def answered(local: Localhost, site: str, request: bytes) -> bytes:
    """The answer, as a coordinator gets it: a site that is away is asked again."""
    end = time.monotonic() + 90.0
    while True:
        try:
            return local.flare.send(site, request, WAIT)
        except SiteUnreachableError:
            assert time.monotonic() < end, f"{site} does not come back"
            time.sleep(0.2)


# What dies comes back


@pytest.mark.parametrize(
    ("module", "place"),
    [
        (CLIENT, "sites/north"),
        (SERVER, "federation/server"),
    ],
    ids=["a site's client", "the server"],
)
def test_whatever_of_flare_is_killed_a_site_comes_back_with_its_discriminator_untouched(
    module, place, local
):
    recipe = local.recipe
    for site in ("north", "south"):
        answered(local, site, opening(recipe))
    before = {site: answered(local, site, judging(local.recipe)) for site in ("north", "south")}
    pids = {site: local.pid(site) for site in before}
    until(lambda: len(local.sites()) == 2)
    (pid,) = processes(module, str(local.folder / place))
    os.kill(pid, signal.SIGKILL)
    until(lambda: {*processes(module, str(local.folder / place))} - {pid})  # it was started again
    # The same request gets the same bytes: nothing was trained twice, and no compute began anew.
    assert {site: answered(local, site, judging(local.recipe)) for site in before} == before
    assert {site: local.pid(site) for site in before} == pids


def test_a_site_that_has_its_kit_later_joins_the_run_that_is_at_work_with_its_share(
    local, phantoms, tmp_path
):
    recipe = local.recipe
    for site in ("north", "south"):
        answered(local, site, opening(recipe))
    coordinator = Coordinator.begin(recipe, Exchange(local.flare, recipe), run=RUN)
    coordinator.step()
    federation = join(local.federation, tmp_path / "west")
    setup = SiteSetup("west", phantoms["south"], tmp_path / "state")
    service, client = (
        SiteService(tmp_path / "west", lambda run: setup),
        keep_client(tmp_path / "west"),
    )
    try:
        until(lambda: coordinator.invite().get("west") == "")
        report = coordinator.step()
        after = report.shares
        assert set(after) == {"north", "south", "west"}, report.missed
        assert after["west"] == after["south"]  # it has the same cases
        assert sum(after.values()) == pytest.approx(1)
        assert set(coordinator.step().shares) == set(after)
        order = Order.submit(federation, "with-west", recipe, ("north", "south", "west"))
        assert order.due(recipe, local.flare) == ["north", "south", "west"]
        comes = ["training.steps=400", "timeline=[{site='west', first=300}]"]
        later = Recipe.from_toml(recipe.to_toml(), comes)
        late = Order.submit(federation, "west-later", later, ("north", "south", "west"))
        facts = RunFacts("ab", "0", later.digest(), "flare", state="failed", steps=301)
        late.folder.write_facts(facts)  # it ended there, and had no checkpoint: it begins anew
        assert late.due(later, local.flare) == ["north", "south"]
        remove_site(federation, "west")
        until(lambda: not local.flare.belongs("west"))
        assert local.flare.sites() == ("north", "south")
        assert order.due(recipe, local.flare) == ["north", "south"]  # nobody waits for it
    finally:
        client.close()
        service.close()


# Who may not take part does not


def handshake(local: Localhost, kit: Path | None) -> bytes:
    """What FLARE's port says to somebody who speaks TLS, with the certificate of a site or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if kit:
        (kit / "crt").write_text(parsed_kit(kit / KIT_FILE).certificate)
        context.load_cert_chain(kit / "crt", kit / KEY_FILE)
    address = ("localhost", local.federation.port)
    with socket.create_connection(address, timeout=5) as plain, context.wrap_socket(plain) as line:
        line.settimeout(5)
        return line.recv(16)  # gRPC's server speaks first


def unheard(local: Localhost, kit: Path | None) -> bool:
    """Whether FLARE's port says nothing to somebody."""
    try:
        return not handshake(local, kit)
    except OSError as error:
        words = r"(?i)required|unknown ca|reset|eof|closed|decrypt|expired|pipe"
        return bool(re.search(words, str(error)))


def refused(local: Localhost, kit: Path, text: str) -> None:
    """Finds that FLARE's port takes nothing from a site, and what the site is told about it."""
    assert unheard(local, kit)
    (connection,) = [one for one in checks(kit) if one.subject == "connection"]
    assert not connection.fine
    assert text in connection.text


def test_nobody_without_a_certificate_of_this_federation_gets_a_word(local, tmp_path):
    assert handshake(local, local.folder / "sites" / "north")  # a member does
    assert unheard(local, None)
    federation_here(tmp_path / "other", tmp_path / "north", port=local.federation.port)
    refused(local, tmp_path / "north", "TLS inspection")


def test_an_expired_certificate_is_refused_by_the_server_and_named_by_the_check(local, tmp_path):
    state = local.federation.path / "provisioning" / PROJECT / "state" / "cert.json"
    root = json.loads(state.read_text())
    authority = x509.load_pem_x509_certificate(root["root_cert"].encode())
    signer = serialization.load_pem_private_key(root["root_pri_key"].encode(), None)
    kit = tmp_path / "north"
    shutil.copytree(local.folder / "sites" / "north", kit, ignore=shutil.ignore_patterns("*-*-*"))
    member = read_kit(kit)
    valid = x509.load_pem_x509_certificate(member.certificate.encode())
    now = datetime.now(UTC)
    expired = (
        x509.CertificateBuilder()
        .subject_name(valid.subject)
        .issuer_name(authority.subject)
        .public_key(valid.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now - timedelta(days=1))
        .sign(signer, hashes.SHA256())
    )
    pem = expired.public_bytes(serialization.Encoding.PEM).decode()
    member = replace(member, certificate=pem)
    (kit / KIT_FILE).write_text(member.to_json())
    refused(local, kit, "the coordinator closes it")  # gRPC does not say why
    (found,) = [one for one in checks(kit) if one.subject == "certificate"]
    assert not found.fine
    assert found.text.startswith("expired on ")


STRANGER = """
import os, sys, time
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.message import Message
port, payload = sys.argv[1], sys.stdin.buffer.read()
cell = CoreCell("server.stranger", None, False, {}, parent_url=f"tcp://localhost:{port}")
cell.start()
for _ in range(20):
    time.sleep(0.5)
    reply = cell.send_request(
        "aux_communication", "asyndgan.request", "north", Message({}, payload), timeout=10
    )
    code = reply.get_header(MessageHeaderKey.RETURN_CODE)
    if code not in ("target_unreachable", "timeout"):
        break
print(code, reply.payload)
sys.stdout.flush()
os._exit(0)
"""


def test_a_stranger_on_a_sites_machine_cannot_pose_as_the_coordinator(local):
    answered(local, "north", opening(local.recipe))
    said = (local.folder / "sites" / "north" / "flare" / "log.txt").read_text()
    ports = re.findall(r"internal listener for stcp://localhost:(\d+)", said)
    socket.create_connection(("127.0.0.1", int(ports[-1]))).close()  # every account may
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, ports[-1]],
        input=judging(local.recipe), capture_output=True, timeout=90, check=True,
    )  # fmt: skip
    assert done.stdout.decode().split()[-2:] == ["target_unreachable", "None"]


@pytest.fixture(scope="module")
def session(local, tmp_path_factory):
    """Of somebody who has the coordinator's key, with the files of FLARE's administrators."""
    kit = tmp_path_factory.mktemp("admin")
    startup = Path(shutil.copytree(local.federation.admin_kit / "startup", kit / "startup"))
    shutil.copy(local.federation.server_kit / "startup" / "rootCA.pem", startup)
    (kit / "local").mkdir()
    about = {
        "project_name": PROJECT, "username": SUBMITTER, "server_identity": "localhost",
        "scheme": "grpc", "host": "localhost", "port": local.federation.port,
        "connection_security": "mtls", "uid_source": "user_input", "with_file_transfer": True,
        "upload_dir": "transfer", "download_dir": "transfer", "client_key": "client.key",
        "client_cert": "client.crt", "ca_cert": "rootCA.pem",
    }  # fmt: skip
    (startup / "fed_admin.json").write_text(json.dumps({"format_version": 1, "admin": about}))
    with closing(new_secure_session(SUBMITTER, str(kit), timeout=20.0)) as found:
        yield found


@pytest.mark.parametrize(
    "words",
    [
        ("submit_job", "job"), ("list_jobs",), ("get_system_info",), ("disable_client", "north"),
        ("ls_target", "north"), ("cat_target", "north", "-n", "log.txt"),
        ("tail_target_log", "north"), ("grep_target", "north", "-n", "job", "log.txt"),
        ("get_working_directory", "north"), ("ls_target", "server"), ("remove_client", "north"),
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_the_coordinators_account_may_do_nothing_at_flare(words, local, session, tmp_path):
    """Of a server that was taken over: docs/hostile-input.md."""
    until(lambda: "north" in local.sites())
    command, *more = words
    if command == "submit_job":
        more = [str(tmp_path / "job")]
        export_jobs({tmp_path / "job": (local.recipe, "run")}, ["north"])
    with pytest.raises((AuthorizationError, ValueError), match=r"(?i)not authorized|denied"):
        raise ValueError(str(getattr(session, command)(*more)))
    assert "north" in local.sites()


def test_a_letter_of_anybody_else_opens_no_line(local, tmp_path, caplog):
    """As whoever takes over FLARE's server could send it."""
    federation_here(tmp_path / "other", tmp_path / "north")
    for name in ("server", "sites"):
        shutil.rmtree(tmp_path / "other" / name)
        (tmp_path / "other" / name).symlink_to(local.federation.path / name)
    forged = flare_to(Federation.of(tmp_path / "other"), local.recipe, "run", ())
    try:
        until(lambda: "is refused: it is not of this federation's coordinator" in caplog.text)
        with pytest.raises(RefusedError):
            forged.send("north", opening(local.recipe), WAIT)
    finally:
        forged.close()


def test_a_message_above_the_limit_is_not_sent_and_the_line_stays(local):
    until(lambda: "north" in local.sites())
    with pytest.raises(WireError, match="are allowed"):
        local.send("north", b"\0" * (local.flare.limit + 1), WAIT)
    local.send("north", opening(local.recipe), WAIT)
    answer = unpack(local.send("north", judging(local.recipe), WAIT), ANSWERS, limit=2**24)
    assert isinstance(answer, Judgement)


def test_a_run_that_a_sites_policy_does_not_allow_is_refused_by_keys_alone(local, tmp_path):
    service, recipe = local.services["south"], local.recipe
    allowed, policy = service.setup_of, tmp_path / "policy.toml"
    strangers = 'submitters = ["somebody@else.org"]\n'
    service.setup_of = lambda run: replace(allowed(run), policy=policy)
    try:
        for more, keys in (
            (strangers, "allows.submitters"), ("", "leaves.masks, allows.approved"),
        ):  # fmt: skip
            policy.write_text(f"[allows]\nunasked = false\n{more}")
            with pytest.raises(RefusedError) as refused:
                local.send("south", opening(recipe), WAIT)
            assert str(refused.value) == f"site south: its policy refuses the run ({keys})."
        # The steward corrects it, and nobody need start anything again.
        open_to_all = SIMULATION.to_toml()
        assert open_to_all.count("\nsubmitters = []") == 1
        policy.write_text(open_to_all.replace("submitters = []", f'submitters = ["{SUBMITTER}"]'))
        answer = local.send("south", opening(recipe), WAIT)
        assert isinstance(unpack(answer, ANSWERS, limit=2**24), Card)
    finally:
        service.setup_of = allowed


class Worker:
    """A site's compute that answers nobody any more, or not yet."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.starts = 1

    def sites(self) -> tuple[str, ...]:
        return ("south",)

    def pid(self, site: str) -> int:
        return self.starts

    def start(self, site: str) -> None:
        self.starts += 1

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        if not self.answers:
            raise SiteSilentError("no answer")
        return self.answers.pop()


@pytest.mark.parametrize(
    ("answers", "asked", "starts"),
    [([], 5, 1), ([b"answer"], 2, 2), ([], 6, 2), ([], 17, 2), ([], 18, 3)],
)
def test_a_compute_that_hangs_is_started_again_and_one_that_reads_its_data_gets_longer(
    local, monkeypatch, answers, asked, starts
):
    service, worker = local.services["south"], Worker(answers)
    for name, value in {"_answered": None, "_silences": 0, "_patience": READING}.items():
        monkeypatch.setattr(service, name, value)
    monkeypatch.setattr(service, "_worker_for", lambda line: worker)
    answers, seal = list(answers), Seal(bytes(32))
    for _ in range(asked):
        service._answer(("a recipe", RUN), seal, seal.sealed(b"request"))
    assert worker.starts == starts


@pytest.mark.parametrize("host", ["", "https://here", "here:8002", "two words", "here.", "x" * 65])
def test_what_is_no_name_of_a_host_is_refused(host, tmp_path):
    with pytest.raises(RunError, match="is no name of a host"):
        init_federation(tmp_path / "new", host=host, port=8002)
    assert not (tmp_path / "new").exists()


# Runs that are ordered


def test_a_second_coordinator_of_a_run_leaves_it_to_the_first(local, tiny):
    order = Order.submit(local.federation, "contested", tiny(), ())
    with order.folder.held(), pytest.raises(BusyError, match="another training is at work"):
        order.train()
    with (
        held(local.federation.path, "busy"),
        pytest.raises(BusyError, match="is served by another process"),
    ):
        serve(local.federation, stop=lambda: True)
    local.send("north", opening(local.recipe), WAIT)  # nobody took its lines away


def test_a_copy_of_a_federation_is_not_served_beside_it(local, tmp_path):
    kit = local.federation.server_kit
    shutil.copytree(kit / "startup", tmp_path / "copy" / "server" / "startup")
    shutil.copy(local.federation.path / "federation.toml", tmp_path / "copy")
    with pytest.raises(BusyError, match=f"port {local.federation.port} of this machine is in use"):
        serve(Federation.of(tmp_path / "copy"), stop=lambda: True)
    local.send("north", opening(local.recipe), WAIT)


def test_a_run_that_failed_goes_on_when_it_is_ordered_again(local, tiny):
    recipe = tiny()
    order = Order.submit(local.federation, "unlucky", recipe, ())
    order.say("failed", "a disk was full")
    assert order.state() == "failed"
    assert Order.submit(local.federation, "unlucky", recipe, ()).state() == "ordered"


# What an administrator types


def few_patients(kit: Path) -> None:
    """Lets a site of three patients take part."""
    policy = kit / "policy.toml"
    policy.write_text(policy.read_text().replace("fewest_patients = 5", "fewest_patients = 1"))


def test_kits_are_made_checked_and_added_by_commands(phantoms, tmp_path):
    folder, kit = tmp_path / "federation", tmp_path / "north"

    def added(name):
        said = asyndgan("site", "request", tmp_path / name)
        (number,) = re.findall(r"safety number: ([\d ]+)", said)
        request = tmp_path / name / f"{name}.csr"
        return asyndgan("federation", "add", folder, request, "--safety-number", number)

    words = ("--host", "localhost", "--port", free_port())
    asyndgan("federation", "init", folder, *words)
    assert folder.stat().st_mode & 0o77 == 0
    with pytest.raises(RunError, match="is not empty"):
        asyndgan("federation", "init", folder, *words)
    with pytest.raises(RunError, match="has no site yet"):
        asyndgan("federation", "submit", folder, "default", "--run", "first")
    sent = Federation.of(folder).kit("north")
    assert f"{sent}" in added("north")
    added("south")
    first = sent.read_bytes()
    Federation.of(folder).kit("west").write_bytes(b"half of a kit")  # of a command that was ended
    added("west")
    assert Federation.of(folder).sites == ("north", "south", "west")
    asyndgan("federation", "renew", folder)
    assert sent.read_bytes() != first
    init = ("site", "init", kit, sent, "--safety-number", Federation.of(folder).safety_number)
    asyndgan(*init, "--data", tmp_path / "nowhere")
    assert not (kit / "site.toml").exists()
    asyndgan(*init, "--data", phantoms["north"])
    allows = Policy.from_file(kit / "policy.toml").allows
    assert (allows.most_answers, allows.most_answers_per_patient) == (20_000, 700)
    assert not allows.unasked  # nothing starts unless its steward chose so
    found = {one.subject: one for one in checks(kit)}
    assert "fewest_patients is 5, and" in found["policy"].text and not found["policy"].fine
    few_patients(kit)
    found = {one.subject: one for one in checks(kit)}
    assert not found.pop("connection").fine  # nobody has started it
    assert all(one.fine for one in found.values()), found
    settings = kit / "site.toml"
    settings.write_text("without = ['PET']\n" + settings.read_text())
    (data,) = [one for one in checks(kit) if one.subject == "data"]
    assert not data.fine
    assert "names PET, which" in data.text
    asyndgan("federation", "submit", folder, "default", "--run", "first", "--site", "north")
    steps = load_recipe("default").training.steps
    assert f"run first: ordered, step 0 of {steps}" in asyndgan("federation", "status", folder)
    asyndgan("federation", "stop", folder)
    assert "run first: stopped" in asyndgan("federation", "status", folder)
    order = Order.named(Federation.of(folder), "first")
    order.say("trouble", "the disk is full")
    assert "the disk is full" not in asyndgan("federation", "status", folder)  # it is over
    asyndgan("federation", "submit", folder, "default", "--run", "first")
    order.say("trouble", "the disk is full")
    (order.folder.path / "waiting").write_text("south")
    said = " ".join(asyndgan("federation", "status", folder).split())
    assert "the disk is full" in said
    assert "waiting for south" in said
    with pytest.raises(RunError, match="has another recipe"):
        asyndgan("federation", "submit", folder, "paper", "--run", "first")
    with pytest.raises(RunError, match="there is no kit for nobody"):
        asyndgan("federation", "submit", folder, "default", "--run", "x", "--site", "nobody")
    for parts, reason in (
        ("{site='nobody', first=9}", "no kit for nobody"),
        ("{site='north', last=8}, {site='south', last=8}, {site='west', last=8}", "in step 9"),
    ):
        words = ("default", "--run", "x", "--set", f"timeline=[{parts}]")
        with pytest.raises(RunError, match=reason):
            asyndgan("federation", "submit", folder, *words)
    asyndgan("federation", "submit", folder, "default", "--run", "second")
    with order.folder.held():  # as while it is trained
        said = " ".join(asyndgan("federation", "status", folder, "--run", "second").split())
        assert "behind run first" in said
        assert "behind" not in asyndgan("federation", "status", folder, "--run", "first")
    assert "behind" not in asyndgan("federation", "status", folder, "--run", "second")
    timeline = ("--set", "timeline=[{site='west', first=9}]")
    asyndgan("federation", "submit", folder, "default", "--run", "third", *timeline)
    asyndgan("federation", "remove", folder, "west")
    asyndgan("federation", "submit", folder, "default", "--run", "third", *timeline)  # goes on
    asyndgan("federation", "fetch", folder, "--out", tmp_path / "copy")
    assert (tmp_path / "copy" / "recipe.toml").exists()


def test_a_run_of_which_all_sites_were_removed_does_not_begin_with_whoever_is_there(tiny, tmp_path):
    federation = federation_here(tmp_path / "federation", tmp_path / "north")
    order = Order.submit(federation, "first", tiny(), ())
    join(federation, tmp_path / "south")
    remove_site(Federation.of(federation.path), "north")

    class Line(Transport):
        def send(self, site, payload, timeout):
            raise AssertionError("nobody is asked before the run begins")

        def belongs(self, site):
            return site in Federation.of(federation.path).sites

        def sites(self):
            return ("south",)

    threading.Thread(
        target=lambda: (until(lambda: bool(order.said("waiting"))), order.stop())
    ).start()
    with pytest.raises(Interrupted):
        order.gather(Line(), tiny())
    assert "were removed" in order.said("waiting")
    Order.submit(Federation.of(federation.path), "first", tiny(), ("south",))
    order.gather(Line(), tiny())


def test_nobody_else_reads_a_sites_key(local, phantoms, tmp_path):
    kit, sent = tmp_path / "north", local.federation.kit("north")
    kit.mkdir(mode=0o755)
    shutil.copy(local.folder / "sites" / "north" / KEY_FILE, kit)
    (kit / KEY_FILE).chmod(0o644)
    shutil.copy(sent, kit / KIT_FILE)
    (found,) = [one for one in checks(kit) if one.subject == "permissions"]
    assert not found.fine
    asyndgan("site", "init", kit, sent, "--data", phantoms["north"])
    assert kit.stat().st_mode & 0o77 == 0
    assert (kit / KEY_FILE).stat().st_mode & 0o77 == 0
    few_patients(kit)
    assert all(one.fine for one in checks(kit)), list(checks(kit))


def test_what_keeps_flare_running_may_end_at_once(local, tmp_path):
    kit = tmp_path / "south"
    kit.mkdir()
    for name in (KEY_FILE, KIT_FILE):
        shutil.copy(local.folder / "sites" / "south" / name, kit)
    for _ in range(5):
        keep_client(kit).close()
    assert not processes(str(kit))


def test_a_site_is_started_once(tmp_path, local):
    kit = local.folder / "sites" / "north"
    with held(kit, "busy"), pytest.raises(BusyError, match="is started already"):
        asyndgan("site", "start", kit)


def test_a_folder_that_is_no_kit_stays_as_it_is(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(RunError, match=r"kit\.json is missing"):
        asyndgan("site", "start", tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755 and not list(tmp_path.iterdir())


def test_a_closed_engine_reaches_nobody_and_leaves_no_process(local):
    recipe, pid = local.recipe, local.pid("north")
    assert pid and processes(str(local.folder))
    local.close()
    until(lambda: not processes(str(local.folder)))  # jobs notice within seconds that it is gone
    assert local.sites() == ()
    with pytest.raises(SiteUnreachableError):
        local.send("north", opening(recipe), WAIT)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    local.close()
