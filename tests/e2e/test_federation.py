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
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from asyndgan.engines import SiteSetup
from asyndgan.engines.flare.checks import checks
from asyndgan.engines.flare.jobs import write_job
from asyndgan.engines.flare.keeper import SERVER_PARENT, keep_client
from asyndgan.engines.flare.kits import (
    PROJECT,
    Federation,
    remove_site,
)
from asyndgan.engines.flare.localhost import Localhost, federation_here, free_port, join
from asyndgan.engines.flare.member import APP, KEY_FILE, KIT_FILE, parsed_kit, read_kit
from asyndgan.engines.flare.service import SiteService
from asyndgan.errors import (
    BusyError,
    RunError,
    SiteUnreachableError,
)
from asyndgan.locks import held
from asyndgan.privacy import Policy
from asyndgan.protocol import Exchange
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFacts, load_recipe
from asyndgan.runs.federated import serve
from asyndgan.runs.order import Order
from asyndgan.training import Coordinator
from commands import asyndgan
from engine_contract import RUN, WAIT, Contract, OfProcesses, judging, opening
from waiting import halt, until

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
    recipe = local.flare.office.recipe
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
    [("client.worker_process", "sites/north"), (SERVER_PARENT, "federation/server")],
    ids=["a site's job", "the server's parent"],
)
def test_whatever_of_flare_is_killed_a_site_comes_back_with_its_discriminator_untouched(
    module, place, local
):
    recipe = local.flare.office.recipe
    for site in ("north", "south"):
        answered(local, site, opening(recipe))
    before = {site: answered(local, site, judging(recipe)) for site in ("north", "south")}
    pids = {site: local.pid(site) for site in before}
    until(lambda: len(local.sites()) == 2)
    # One of an earlier job may still be about to end.
    for pid in processes(module, str(local.folder / place)):
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(local.sites()) < 2)  # it is not if nothing was killed
    # The same request gets the same bytes: nothing was trained twice, and no compute began anew.
    assert {site: answered(local, site, judging(recipe)) for site in before} == before
    assert {site: local.pid(site) for site in before} == pids


def test_a_site_that_has_its_kit_later_joins_the_run_that_is_at_work_with_its_share(
    local, phantoms, tmp_path
):
    recipe = local.flare.office.recipe
    for site in ("north", "south"):
        answered(local, site, opening(recipe))
    coordinator = Coordinator.begin(recipe, Exchange(local.flare, recipe), run=RUN)
    jobs = {site: local.flare.job(site) for site in coordinator.step().shares}
    kit = tmp_path / "west"
    federation = join(local.federation, kit)
    setup = SiteSetup("west", phantoms["south"], tmp_path / "state")
    with closing(SiteService(kit, lambda run: setup)), closing(keep_client(kit)):
        until(lambda: coordinator.invite().get("west") == "")
        report = coordinator.step()
        after = report.shares
        assert set(after) == {"north", "south", "west"}, report.missed
        assert after["west"] == after["south"]  # it has the same cases
        assert sum(after.values()) == pytest.approx(1)
        job = local.flare.job("west")
        local.flare.sweep()  # which waits for the end of every job that it ends
        assert "west" in local.flare.sites() and local.flare.job("west") == job
        order = Order.submit(federation, "with-west", recipe, ("north", "south", "west"))
        assert order.due(recipe, local.flare) == ["north", "south", "west"]
        comes = ["training.steps=400", "timeline=[{site='west', first=300}]"]
        later = Recipe.from_toml(recipe.to_toml(), comes)
        late = Order.submit(federation, "west-later", later, ("north", "south", "west"))
        facts = RunFacts("ab", "0", later.digest(), "flare", state="failed", steps=301)
        late.folder.write_facts(facts)  # it ended there, and had no checkpoint: it begins anew
        assert late.due(later, local.flare) == ["north", "south"]
        remove_site(federation, "west")
        local.flare.sweep()
        until(lambda: "west" not in local.flare.sites())
        assert {site: local.flare.job(site) for site in jobs} == jobs
        assert order.due(recipe, local.flare) == ["north", "south"]  # nobody waits for it


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


def signed_anew(local: Localhost, kit: Path) -> str:
    """The certificate of a site, as the federation's authority would sign it for days gone by."""
    state = local.federation.path / "provisioning" / PROJECT / "state" / "cert.json"
    root = json.loads(state.read_text())
    valid = x509.load_pem_x509_certificate(read_kit(kit).certificate.encode())
    now = datetime.now(UTC)
    expired = (
        x509.CertificateBuilder()
        .subject_name(valid.subject).public_key(valid.public_key())
        .issuer_name(x509.load_pem_x509_certificate(root["root_cert"].encode()).subject)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30)).not_valid_after(now - timedelta(days=1))
        .sign(serialization.load_pem_private_key(root["root_pri_key"].encode(), None),
              hashes.SHA256())
    )  # fmt: skip
    return expired.public_bytes(serialization.Encoding.PEM).decode()


def test_nobody_without_a_valid_certificate_of_this_federation_gets_a_word(local, tmp_path):
    member = local.folder / "sites" / "north"
    assert handshake(local, member)
    assert unheard(local, None)
    federation_here(tmp_path / "other", tmp_path / "stranger", port=local.federation.port)
    shutil.copytree(member, tmp_path / "late", ignore=shutil.ignore_patterns("*-*-*"))
    late = replace(read_kit(member), certificate=signed_anew(local, member))
    (tmp_path / "late" / KIT_FILE).write_text(late.to_json())
    said = {"stranger": "TLS inspection", "late": "the coordinator closes it"}  # gRPC says no more
    for name, text in said.items():
        assert unheard(local, tmp_path / name)
        found = {one.subject: one for one in checks(tmp_path / name)}
        assert not found["connection"].fine and text in found["connection"].text
        assert found["certificate"].text.startswith("expired on ") is (name == "late")


STRANGER = """
import os, sys, time
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.message import Message
(port, job), payload = sys.argv[1:], sys.stdin.buffer.read()
cell = CoreCell(f"server.{job}", None, False, {}, parent_url=f"tcp://localhost:{port}")
cell.start()
for _ in range(20):
    time.sleep(0.5)
    reply = cell.send_request(
        "aux_communication", "asyndgan.request", f"north.{job}", Message({}, payload), timeout=10
    )
    code = reply.get_header(MessageHeaderKey.RETURN_CODE)
    if code not in ("target_unreachable", "timeout"):
        break
print(code, reply.payload)
sys.stdout.flush()
os._exit(0)
"""


def test_a_stranger_on_a_sites_machine_cannot_pose_as_the_coordinator(local):
    answered(local, "north", opening(local.flare.office.recipe))
    said = (local.folder / "sites" / "north" / "flare" / "log.txt").read_text()
    ports = re.findall(r"127\.0\.0\.1:(\d+) <= ", said)
    socket.create_connection(("127.0.0.1", int(ports[-1]))).close()  # every account may
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, ports[-1], local.flare.job("north")],
        input=judging(local.flare.office.recipe), capture_output=True, timeout=90, check=True,
    )  # fmt: skip
    assert done.stdout.decode().split()[-2:] == ["target_unreachable", "None"]


def test_a_job_that_brings_code_names_another_class_or_has_no_letter_is_answered_by_nobody(
    local, tmp_path, caplog
):
    """As whoever takes over FLARE's server could submit it."""
    office, ran = local.flare.office, tmp_path / "ran"
    foreign = "nvflare.app_common.np.np_trainer.NPTrainer"
    jobs = {}
    for kind, change in {
        "code": (APP, "evil"), "class": (f"{APP}.SiteLine", foreign), "letter": (APP, APP),
    }.items():  # fmt: skip
        folder = tmp_path / f"run-{kind}"
        write_job(folder, "north", office.recipe, "run", "letter")
        settings = folder / "app_north" / "config" / "config_fed_client.json"
        assert change[0] in settings.read_text()
        settings.write_text(settings.read_text().replace(*change))
        if kind == "code":
            (folder / "app_north" / "custom").mkdir()
            evil = (
                f"import pathlib\npathlib.Path({str(ran)!r}).touch()\nfrom {APP} import SiteLine\n"
            )
            (folder / "app_north" / "custom" / "evil.py").write_text(evil)
        jobs[kind] = office.administrator.ask("submit_job", str(folder))
    until(lambda: "is refused: it is not of this federation's coordinator" in caplog.text)
    office.end(jobs["letter"])
    until(lambda: not office.lives(jobs["code"]) and not office.lives(jobs["class"]))
    meta = office.administrator.ask("get_job_meta", jobs["code"])
    assert meta["status"] == "FINISHED:FAILED_TO_RUN" and not ran.exists()
    files = local.folder / "sites" / "north" / "flare" / jobs["class"]
    said = "".join(log.read_text() for log in files.rglob("*.txt"))
    assert "ComponentNotAuthorized" in said and foreign in said


def test_the_coordinators_account_at_flare_has_no_shell_at_a_site_and_cannot_end_it(local):
    """Of a server that was taken over: docs/hostile-input.md."""
    until(lambda: "north" in local.sites())
    for words in (
        ("ls_target", "north"), ("cat_target", "north", "-n", "log.txt"),
        ("tail_target_log", "north"), ("grep_target", "north", "-n", "job", "log.txt"),
        ("get_working_directory", "north"), ("ls_target", "server"), ("remove_client", "north"),
    ):  # fmt: skip
        with pytest.raises((RunError, SiteUnreachableError), match=r"(?i)not authorized"):
            raise RunError(str(local.flare.office.administrator.ask(*words)))
    assert "north" in local.sites()


def test_a_server_that_hangs_holds_nobody_up_and_is_asked_again_by_a_new_process(local):
    administrator, pid = local.flare.office.administrator, local.server.pid()
    assert set(administrator.present()) >= {"north", "south"}
    administrator.answer_s, before = 2.0, administrator.answer_s
    halt(pid)
    try:
        begun = time.monotonic()
        for _ in range(2):  # with a session, and where one has to be opened
            with pytest.raises(SiteUnreachableError, match="no answer in time"):
                administrator.present()
        assert time.monotonic() - begun < 15.0
    finally:
        os.kill(pid, signal.SIGCONT)
        administrator.answer_s = before
    assert set(administrator.present()) >= {"north", "south"}


def test_a_federation_its_runs_and_its_sites_are_served_once(local, tiny, tmp_path):
    order = Order.submit(local.federation, "contested", tiny(), ())
    with order.folder.held(), pytest.raises(BusyError, match="another training is at work"):
        order.train()
    copy = tmp_path / "copy"
    for name in ("startup", "local"):
        shutil.copytree(local.federation.server_kit / name, copy / "server" / name)
    shutil.copy(local.federation.path / "federation.toml", copy)
    with held(local.federation.path, "busy"):
        for made, said in (
            (local.federation, "is served by another process"),
            (Federation.of(copy), f"port {local.federation.port} of this machine is in use"),
        ):
            with pytest.raises(BusyError, match=said):
                serve(made, stop=lambda: True)
    kit = local.folder / "sites" / "north"
    with held(kit, "busy"), pytest.raises(BusyError, match="is started already"):
        asyndgan("site", "start", kit)
    local.send("north", opening(local.flare.office.recipe), WAIT)  # nobody took its lines away


# What an administrator types


def test_kits_are_made_checked_and_added_by_commands(phantoms, tmp_path):
    folder, kit = tmp_path / "federation", tmp_path / "north"

    def added(name):
        said = asyndgan("site", "request", tmp_path / name)
        (number,) = re.findall(r"safety number: ([\d ]+)", said)
        request = tmp_path / name / f"{name}.csr"
        return asyndgan("federation", "add", folder, request, "--safety-number", number)

    def found():
        return {one.subject: one for one in checks(kit)}

    words = ("--host", "localhost", "--port", free_port())
    asyndgan("federation", "init", folder, *words)
    assert folder.stat().st_mode & 0o77 == 0
    with pytest.raises(RunError, match="is not empty"):
        asyndgan("federation", "init", folder, *words)
    with pytest.raises(RunError, match="has no site yet"):
        asyndgan("federation", "submit", folder, "default", "--run", "first")
    sent = Federation.of(folder).kit("north")
    assert f"{sent}" in added("north")
    Federation.of(folder).kit("west").write_bytes(b"half of a kit")  # of a command that was ended
    added("west")
    assert Federation.of(folder).sites == ("north", "west")
    init = ("site", "init", kit, sent, "--safety-number", Federation.of(folder).safety_number)
    asyndgan(*init, "--data", tmp_path / "nowhere")
    assert not (kit / "site.toml").exists()
    (kit / KEY_FILE).chmod(0o644)
    shutil.copy(sent, kit / KIT_FILE)
    assert not found()["permissions"].fine
    asyndgan(*init, "--data", phantoms["north"])
    assert (kit.stat().st_mode | (kit / KEY_FILE).stat().st_mode) & 0o77 == 0
    policy, settings = kit / "policy.toml", kit / "site.toml"
    allows = Policy.from_file(policy).allows
    assert (allows.most_answers, allows.most_answers_per_patient) == (20_000, 700)
    assert not allows.unasked  # nothing starts unless its steward chose so
    assert "fewest_patients is 5, and" in found()["policy"].text and not found()["policy"].fine
    policy.write_text(policy.read_text().replace("fewest_patients = 5", "fewest_patients = 1"))
    assert [one for one, said in found().items() if not said.fine] == ["connection"]  # none yet
    settings.write_text("without = ['PET']\n" + settings.read_text())
    assert "names PET, which" in found()["data"].text and not found()["data"].fine


def test_runs_are_ordered_behind_each_other_shown_stopped_and_fetched_by_commands(tmp_path):
    federation = federation_here(tmp_path / "f", *(tmp_path / name for name in ("north", "west")))

    def typed(command, *words):
        return " ".join(asyndgan("federation", command, federation.path, *words).split())

    def submit(*words):
        return typed("submit", "default", "--run", *words)

    submit("first", "--site", "north")
    steps = load_recipe("default").training.steps
    assert f"run first: ordered, step 0 of {steps}" in typed("status")
    typed("stop")
    order = Order.named(federation, "first")
    order.say("trouble", "the disk is full")
    said = typed("status")
    assert "run first: stopped" in said and "the disk is full" not in said  # it is over
    submit("first")
    order.say("trouble", "the disk is full")
    (order.folder.path / "waiting").write_text("west")
    said = typed("status")
    assert "the disk is full" in said and "waiting for west" in said
    for words, reason in (
        (("first", "--set", "training.seed=9"), "has another recipe"),
        (("x", "--site", "nobody"), "there is no kit for nobody"),
        (("x", "--set", "timeline=[{site='nobody', first=9}]"), "no kit for nobody"),
        (("x", "--set", "timeline=[{site='north', last=8}, {site='west', last=8}]"), "in step 9"),
    ):
        with pytest.raises(RunError, match=reason):
            submit(*words)
    submit("second")
    with order.folder.held():  # as while it is trained
        assert "behind run first" in typed("status", "--run", "second")
        assert "behind run" not in typed("status", "--run", "first")
    assert "behind run" not in typed("status", "--run", "second")
    timeline = ("--set", "timeline=[{site='west', first=9}]")
    submit("third", *timeline)
    typed("remove", "west")
    submit("third", *timeline)  # goes on
    typed("fetch", "--out", tmp_path / "copy")
    assert (tmp_path / "copy" / "recipe.toml").exists()


def test_what_keeps_flare_running_may_end_at_once(local, tmp_path):
    kit = tmp_path / "south"
    kit.mkdir()
    for name in (KEY_FILE, KIT_FILE):
        shutil.copy(local.folder / "sites" / "south" / name, kit)
    for _ in range(5):
        keep_client(kit).close()
    assert not processes(str(kit))


def test_a_closed_engine_reaches_nobody_and_leaves_no_process(local):
    recipe, pid = local.flare.office.recipe, local.pid("north")
    assert pid and processes(str(local.folder))
    local.close()
    until(lambda: not processes(str(local.folder)))  # jobs notice within seconds that it is gone
    assert local.sites() == ()
    with pytest.raises(SiteUnreachableError):
        local.send("north", opening(recipe), WAIT)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    local.close()
