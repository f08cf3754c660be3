"""The commands that keep a federation running, as processes of their own.

The tests share one federation, in which runs are ordered one after the other. On its port are forty
strangers, from before its sites are there until its server is gone; one site's folder is full of
code; and every name of the sites' data holds a word that the coordinator must not see.
"""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines.flare.keeper import SERVER
from asyndgan.engines.flare.kits import Federation, renew
from asyndgan.engines.flare.localhost import federation_here, free_port, join
from asyndgan.engines.flare.member import KEY_FILE, KIT_FILE
from asyndgan.engines.flare.sockets import SOCKETS
from asyndgan.engines.flare.transport import connected, present
from asyndgan.errors import RunError
from asyndgan.judging.asked import site_evaluations
from asyndgan.privacy import SIMULATION
from asyndgan.privacy.ledger import Entry, read
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.runs.order import Order
from asyndgan.runs.train import train
from asyndgan.training import checkpoint
from commands import AS_OPTIONS, asyndgan, command
from lab.experiments import crowd as strangers
from poison import names_in, poison
from waiting import halt, until

COMMAND = str(Path(sys.executable).with_name("asyndgan"))
SITES = ("north", "south")
CANARY = "Kanarienvogel"
ANSWER = r"\w+ \d\.\d\d? \(n = \d+\)"  # of an evaluation of few patients
ALONE = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc")


def answered_at_a_terminal(question: str, answer: str, *words: object) -> str:
    """What a command says to somebody who answers one question, its echo included."""
    here, there = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, *map(str, words)], env=ALONE, stdin=there, stdout=there, stderr=there
    )
    os.close(there)
    said, asked = "", False
    while True:
        try:
            said += os.read(here, 65536).decode()
        except OSError:  # of a terminal whose other end is closed
            break
        if question in said and not asked:
            asked = True
            os.write(here, f"{answer}\n".encode())
    os.close(here)
    assert process.wait(60) == 0, said
    return said


def started(*words: object, at: Path | None = None, **changes: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [COMMAND, *map(str, words)], env=ALONE | changes, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, cwd=at,
    )  # fmt: skip


def left_of(folder: Path) -> dict[int, str]:
    """Command lines of the processes that work in a folder, by their ids."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found[int(place.name)] = words
    return found


def of_module(name: str, folder: Path) -> list[int]:
    """Ids of the processes of a module that work in a folder."""
    return [pid for pid, words in left_of(folder).items() if f" {name} " in words]


@dataclass
class Place:
    """A federation of two sites, and what commands keep running for it."""

    folder: Path
    data: dict[str, Path]
    federation: Federation
    policies: dict[str, str]  # as `site init` wrote them, and a bit laxer
    services: dict[str, subprocess.Popen[bytes]]

    def start_sites(self) -> None:
        """Starts both, if they are not there yet."""
        if "north" in self.services:
            return
        self.start_north()
        # South keeps FLARE's client where it sees neither data nor policy nor books.
        for folder, part in (("south", "data"), ("apart", "flare")):
            words = ("site", "start", self.folder / folder, "--only", part)
            self.services[folder] = started(*words, **{SOCKETS: str(self.folder / "s")})

    def start_north(self) -> None:
        kit = self.folder / "north"
        self.services["north"] = started("site", "start", kit, at=kit)

    def allow_all(self, *names: str) -> None:
        for name in names:
            (self.folder / name / "policy.toml").write_text(SIMULATION.to_toml())

    def ledger(self, name: str) -> list[Entry]:
        file = self.folder / name / "records" / "ledger.jsonl"
        return list(read(file)) if file.exists() else []

    def connected(self, *names: str) -> None:
        """Waits until these sites are said to be connected."""
        here = re.compile(f"(?<!not )connected: {', '.join(names)}")
        until(lambda: here.search(connected(self.federation)), 240)
        until(lambda: here.search(self.status()), 90)

    def status(self, *words: str) -> str:
        return said("federation", "status", self.federation.path, *words)


def said(*words: object, answer: str = "") -> str:
    return " ".join(asyndgan(*words, answer=answer).split())


def allow(file: Path, **values: str) -> None:
    """Gives keys of a policy other values."""
    text = file.read_text()
    for key, value in values.items():
        text, times = re.subn(rf"(?m)^{key} = \S+", f"{key} = {value}", text)
        assert times == 1, key
    file.write_text(text)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("here"), free_port()
    hospital = folder / CANARY
    write_phantoms(hospital, size=32, sites=DEFAULT_SITES[:2], patients_scale=0.2)
    for path in hospital.rglob("*.png"):
        path.rename(path.with_name(f"{CANARY}{path.name}"))
    data = {name: hospital / name for name in SITES}
    federation = federation_here(folder / "f", *(folder / name for name in SITES), port=port)
    services = {"server": started("federation", "start", folder / "f")}
    made = Place(folder, data, federation, {}, services)
    crowd = subprocess.Popen(
        [sys.executable, strangers.__file__, str(port), "40"], stdout=subprocess.PIPE
    )
    try:
        assert crowd.stdout and crowd.stdout.readline() == b"there\n"
        (folder / "ran").mkdir()
        poison(folder / "north", folder / "ran")
        for name in SITES:
            kit = folder / name
            asyndgan(
                "site", "init", kit, federation.kit(name), "--data", data[name],
                "--policy", "measured",
            )  # fmt: skip
            assert "audits = 0" in (kit / "policy.toml").read_text()
            allow(kit / "policy.toml", fewest_patients="1", unmeasured="true", fingerprint="true")
            made.policies[name] = (kit / "policy.toml").read_text()
            asyndgan("fingerprint", data[name], "--out", kit / "seen.json")
            settings = (kit / "site.toml").read_text()
            named = settings.replace("# fingerprint =", "fingerprint = 'seen.json'")
            assert named.count("\n# ") == settings.count("\n# ") - 1
            (kit / "site.toml").write_text(named)
        for name in ("s", "apart"):
            (folder / name).mkdir(mode=0o700)
        for name in (KEY_FILE, KIT_FILE):
            shutil.copy(folder / "south" / name, folder / "apart")
        yield made
        assert crowd.poll() is None
    finally:
        for process in [*reversed(made.services.values()), crowd]:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def test_a_run_whose_coordinator_is_killed_goes_on_by_itself_to_the_same_generator(
    tiny, place, tmp_path
):
    recipe = tiny("image.size=32", "training.steps=40", "training.checkpoint_every=10")
    place.allow_all("north", "south")
    order = Order.submit(place.federation, "first", recipe, (), yes=True)
    until(lambda: order.said("waiting") == "north, south")
    assert "waiting for north, south" in place.status()
    place.start_sites()
    until(lambda: len(order.folder.metrics()) > 12, 240)  # after the first checkpoint
    (coordinator,) = of_module("asyndgan.runs.federated", place.federation.path)
    os.kill(coordinator, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{coordinator}").exists())
    until(lambda: order.state() == "finished", 240)
    with pytest.raises(RunError, match="is finished; there is nothing to stop"):
        asyndgan("federation", "stop", place.federation.path)
    whole = train(recipe, place.data, tmp_path / "whole")
    ours, undisturbed = (checkpoint.read(r.generator_file)[0] for r in (order.folder, whole))
    assert list(ours) == list(undisturbed)
    assert all(torch.equal(ours[name], undisturbed[name]) for name in ours)
    losses = [[(r["step"], r["losses"]) for r in run.metrics()] for run in (order.folder, whole)]
    assert losses[0] == losses[1]
    past = time.time() - 3600
    os.utime(order.folder.metrics_file, (past, past))
    assert "last step 1 h 00 min ago" in place.status()


def test_a_lying_site_is_shown_and_left_out_and_a_run_begins_when_somebody_has_confirmed_it(
    tiny, place, tmp_path
):
    place.start_sites()
    before = {name: len(place.ledger(name)) for name in SITES}
    for name, text in place.policies.items():
        (place.folder / name / "policy.toml").write_text(text)
    shown = said("federation", "plan", place.federation.path, "--out", tmp_path / "p.toml")
    planned = Recipe.from_toml((tmp_path / "p.toml").read_text())
    assert "north" in shown and "south" in shown
    assert (planned.name, planned.image.size) == ("planned", (32, 32))

    site = DEFAULT_SITES[2]
    liar, kit = site.name, place.folder / site.name
    write_phantoms(place.folder / "data", size=32, sites=[site], patients_scale=0.12)
    about = place.folder / "data" / liar / "dataset.json"
    lie = json.loads(about.read_text())
    lie["labels"]["evil"] = 63  # which no case has
    about.write_text(json.dumps(lie))
    federation = join(place.federation, kit)
    asyndgan("site", "init", kit, federation.kit(liar), "--data", place.folder / "data" / liar)
    place.allow_all(liar)
    place.services[liar] = started("site", "start", kit)
    recipe = tiny(
        "image.size=32", "masks.source=given", "masks.release=false", "training.move=true",
        "training.hold_out=0.4", "training.steps=2", "quorum.patience_s=60",
    )  # fmt: skip
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    submit = ("federation", "submit", federation.path, tmp_path / "recipe.toml", "--run", "one")
    confirm = ("federation", "confirm", federation.path, "--run")

    # Nobody is there to answer, so how to do it later is said, and nothing is trained.
    assert "It begins when you have confirmed" in said(*submit)
    first, order = (Order.named(federation, name) for name in ("one-masks", "one"))
    until(lambda: first.said("proposal"), 240)
    assert "waiting for you to confirm what it paints" in place.status("--run", "one-masks")

    # The administrator sees who lies, says no, and names the sites that are to take part.
    shown = said(*confirm, "one-masks", answer="n\n")
    assert f"{liar} alone brings 'evil', label 63 'evil'." in shown
    until(lambda: first.state() == "stopped" and not first.folder.busy())
    assert not first.folder.facts_file.exists()
    named = [word for name in SITES for word in ("--site", name)]
    shown = answered_at_a_terminal("Shall the run begin so?", "y", *submit, *named)
    assert re.search(r"\d\d%", shown) and "Run one-masks begins." in shown, shown
    assert "evil" not in shown
    until(lambda: order.said("proposal"), 240)
    assert "Run one begins." in said(*confirm, "one", answer="y\n")
    until(lambda: order.state() in ("finished", "failed"), 400)
    assert order.state() == "finished", order.said("failed")
    news = [line for record in order.folder.metrics() for line in record["news"]]
    assert not [line for line in news if liar in line], news  # it is asked for nothing
    assert "evil" not in order.folder.facts().labels.values()
    assert set(order.folder.facts().sites) == set(SITES)
    asyndgan("federation", "fetch", federation.path, "--run", "one", "--out", tmp_path / "fetched")
    fetched = RunFolder(tmp_path / "fetched")
    assert not {"proposal", "confirmed"} & {path.name for path in fetched.path.iterdir()}
    assert fetched.generator_file.exists() and len(fetched.metrics()) == recipe.training.steps
    assert fetched.has_masks
    for name in SITES:
        asyndgan("ledger", "verify", place.folder / name / "records" / "ledger.jsonl")
        added = place.ledger(name)[before[name] :]
        assert added and not any(entry.masks for entry in added)

    # A site that is removed is sent away by FLARE's server, which goes on without it.
    asyndgan("federation", "remove", federation.path, liar)
    until(lambda: present(federation) == [*SITES], 240)


def test_a_site_judges_a_run_for_its_coordinator_where_its_steward_has_agreed(place, tmp_path):
    """Of the run that the test before has ordered.

    What answers hold: unit/test_asked_audits.py; audits are asked for in test_by_pages.py.
    """
    order, run = Order.named(place.federation, "one"), tmp_path / "fetched"
    told = command("federation", "audit", place.federation.path, "--run", "one")
    for site in SITES:  # where nobody has agreed
        assert re.search(rf"{site}: no audit\. .*leaves\.audits", told.stdout), told.stdout
    allow(place.folder / "south" / "policy.toml", evaluations="1")
    asked = ("federation", "evaluate", place.federation.path, "--run", "one", "--steps", 3)
    told = command(*asked)
    refused = re.search(r"north: no evaluation\. (.*)", told.stdout)
    assert told.returncode == 1 and refused and "leaves.evaluations" in refused[1], told.stdout
    (judge,) = site_evaluations(order.folder)
    assert judge == "south" and re.search(rf"south: {ANSWER}", told.stdout), told.stdout
    said("federation", "fetch", place.federation.path, "--run", "one", "--out", run)
    assert [*site_evaluations(RunFolder(run))] == ["south"]
    assert [one.bare for one in place.ledger("south")].count("evaluation") == 1
    assert "evaluation" not in {one.bare for one in place.ledger("north")}
    with pytest.raises(RunError, match="may not be released: "):
        said("release", run, "--out", tmp_path / "set", *AS_OPTIONS)


def test_a_server_ends_with_its_command_even_if_that_is_killed_and_kits_are_renewed(place):
    place.start_sites()
    place.connected(*SITES)
    kit, renewed = place.folder / "north", place.federation.kit("north")
    earlier = place.services.pop("north")
    earlier.terminate()
    assert earlier.wait(60) == 0  # until then it holds the kit
    renew(place.federation)
    before = (kit / "flare" / "startup" / "client.crt").read_bytes()
    asyndgan("site", "renew", kit, renewed)
    poison(kit / "flare", place.folder / "ran")  # as if somebody wrote to FLARE's own folder
    place.start_north()
    place.services["server"].kill()
    place.services["server"].communicate()
    until(lambda: not of_module(SERVER, place.federation.path), 30)
    status = ("federation", "status", place.federation.path)
    assert "does not answer this account" in asyndgan(*status)
    place.services["server"] = started("federation", "start", place.federation.path)
    place.connected(*SITES)
    until(lambda: (kit / "flare" / "startup" / "client.crt").read_bytes() != before, 240)
    subprocess.run([COMMAND, "site", "check", str(kit)], cwd=kit, check=True, env=ALONE)


def lose_data(place: Place, site: str) -> None:
    """Takes a site's data away and ends its compute, until it has named what it misses."""

    def named() -> int:
        logs = (place.folder / site).glob("runs/*/site.log")
        return sum(log.read_text().count(CANARY) for log in logs)

    before, away = named(), place.data[site].with_name("away")
    service = place.services[site].pid
    parts = [path.read_text() for path in Path(f"/proc/{service}/task").glob("*/children")]
    place.data[site].rename(away)
    for child in " ".join(parts).split():
        if "asyndgan.engines.processes" in Path(f"/proc/{child}/cmdline").read_text():
            os.kill(int(child), signal.SIGKILL)
    until(lambda: named() > before, 240)
    away.rename(place.data[site])


def test_strangers_on_the_port_and_a_server_that_hangs_hold_nobody_up_and_no_trace_is_left(
    tiny, place
):
    place.start_sites()
    place.allow_all(*SITES)
    place.connected(*SITES)
    longer = ("training.steps=100000", "quorum.patience_s=600", "quorum.wait_s=600")
    order = Order.submit(place.federation, "long", tiny("image.size=32", *longer), SITES, yes=True)
    until(lambda: len(order.folder.metrics()) > 20, 400)
    lose_data(place, "south")
    (run,) = of_module("asyndgan.runs.federated", place.federation.path)
    server = place.services.pop("server")
    for service in place.services.values():
        halt(service.pid)
    os.kill(run, signal.SIGTERM)  # in a step for which there will be no answers
    until(lambda: not Path(f"/proc/{run}").exists())  # long before its patience ends
    (parent,) = of_module(SERVER, place.federation.path)
    halt(parent)
    assert "does not answer" in place.status()
    begun = time.monotonic()
    server.send_signal(signal.SIGTERM)  # its run waits for sites
    assert server.wait(60) == 0
    assert time.monotonic() - begun < 40
    assert order.state() == "running"  # it goes on when the service is started again
    until(lambda: not left_of(place.federation.path), 30)
    for service in place.services.values():
        service.send_signal(signal.SIGCONT)
        service.send_signal(signal.SIGTERM)
    ends = [(each.wait(60), each.communicate()[1].decode()) for each in place.services.values()]
    assert ends and {status for status, _ in ends} == {0}, ends
    place.services.clear()
    until(lambda: not left_of(place.folder), 30)
    assert not (place.folder / "south" / "flare").exists()
    left = {path.name for path in (place.folder / "apart").iterdir()}
    assert left == {KEY_FILE, KIT_FILE, "flare", "site.log"}
    assert names_in(place.folder / "ran") == []  # no code in a site's folder has run
    assert (place.folder / "north" / "flare" / "log.txt").exists()
    files = [path for path in place.federation.path.rglob("*") if path.is_file()]
    assert any("log" in path.name for path in files) and len(files) > 30
    for path in files:  # neither FLARE's logs and job folders nor the runs name a patient
        assert CANARY not in str(path.relative_to(place.folder))
        assert CANARY.encode() not in path.read_bytes(), path
