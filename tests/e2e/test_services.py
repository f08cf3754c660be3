"""The commands that keep a federation running, as processes of their own."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asyndgan.cli import app, demo
from asyndgan.engines.flare.attendance import connected
from asyndgan.engines.flare.jobs import Administrator
from asyndgan.engines.flare.keeper import SERVER_PARENT, end_all
from asyndgan.engines.flare.localhost import federation_here, free_port
from asyndgan.engines.flare.member import KEY_FILE, KIT_FILE
from asyndgan.engines.flare.sockets import SOCKETS
from asyndgan.privacy import SIMULATION
from asyndgan.privacy.ledger import read
from asyndgan.protocol import Transport
from asyndgan.recipe import Recipe
from asyndgan.runs import Progress, RunFolder
from asyndgan.runs.order import Order
from asyndgan.runs.train import Watch
from commands import command
from lab.experiments import crowd as strangers
from waiting import halt, until

COMMAND = str(Path(sys.executable).with_name("asyndgan"))
ALONE = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc")


def asyndgan(*words: object) -> str:
    done = command(*words, COLUMNS="120")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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


def started(*words: object, **changes: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [COMMAND, *map(str, words)], env=ALONE | changes, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def left_of(folder: Path) -> dict[int, str]:
    """Command lines of the processes that work in a folder, by their ids."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found[int(place.name)] = command
    return found


def of_module(name: str, folder: Path) -> list[int]:
    """Ids of the processes of a module that work in a folder."""
    return [pid for pid, command in left_of(folder).items() if f"-m {name} " in command]


def test_a_run_ordered_by_command_is_trained_by_services_that_end_without_a_trace(
    tiny: Callable[..., Recipe], phantoms: dict[str, Path], tmp_path: Path
) -> None:
    federation = federation_here(tmp_path / "f", *(tmp_path / name for name in phantoms))
    services = [started("federation", "start", federation.path)]
    try:
        for name, data in phantoms.items():
            kit = tmp_path / name
            asyndgan("site", "init", kit, federation.kit(name), "--data", data)
            text = (kit / "policy.toml").read_text()
            allowed = text.replace("fewest_patients = 5", "fewest_patients = 1")
            allowed = allowed.replace("unmeasured = false", "unmeasured = true")
            allowed = allowed.replace("fingerprint = false", "fingerprint = true")
            assert allowed.count("= true") == text.count("= true") + 2
            (kit / "policy.toml").write_text(allowed)
            asyndgan("fingerprint", data, "--out", kit / "seen.json")
            settings = (kit / "site.toml").read_text()
            named = settings.replace("# fingerprint =", "fingerprint = 'seen.json'")
            assert named.count("\n# ") == settings.count("\n# ") - 1
            (kit / "site.toml").write_text(named)
            if name == "north":
                services.append(started("site", "start", kit))
        # South keeps FLARE's client where it sees neither data nor policy nor books.
        apart, sockets = tmp_path / "apart", tmp_path / "s"
        sockets.mkdir(mode=0o700)
        apart.mkdir()
        for name in (KEY_FILE, KIT_FILE):
            shutil.copy(tmp_path / "south" / name, apart)
        for folder, part in ((tmp_path / "south", "data"), (apart, "flare")):
            words = ("site", "start", folder, "--only", part)
            services.append(started(*words, **{SOCKETS: str(sockets)}))
        planned = tmp_path / "planned.toml"
        told = asyndgan("federation", "plan", federation.path, "--out", planned)
        assert "north" in told and "south" in told
        assert Recipe.from_toml(planned.read_text()).image.size == (32, 32)
        asyndgan("federation", "plan", federation.path, "--masks", "--out", tmp_path / "masks.toml")
        assert Recipe.from_toml((tmp_path / "masks.toml").read_text()).name == "masks"
        given = ("masks.source=given", "masks.release=false")
        recipe = tiny("image.size=32", *given, "training.move=true")
        (tmp_path / "recipe.toml").write_text(recipe.to_toml())
        submit = ("federation", "submit", federation.path, tmp_path / "recipe.toml")
        said = answered_at_a_terminal("Shall the run begin so?", "y", *submit, "--run", "one")
        assert "60%" in said and "Run one-masks begins." in said, said
        confirm = ("federation", "confirm", federation.path, "--run", "one")
        said = answered_at_a_terminal("Shall the run begin so?", "y", *confirm)
        assert "60%" in said and "Run one begins." in said, said
        order = Order.named(federation, "one")
        until(lambda: order.state() in ("finished", "failed"), 400)
        assert order.state() == "finished", order.failure()
        assert "step 6 of 6" in asyndgan("federation", "status", federation.path)
        services[0].kill()  # its FLARE server lives on, until the command is started again
        services[0].communicate()
        orphan = of_module(SERVER_PARENT, federation.path)
        assert orphan
        services[0] = started("federation", "start", federation.path)
        here = "connected: north, south"
        until(lambda: of_module(SERVER_PARENT, federation.path) not in ([], orphan), 120)
        until(lambda: here in connected(federation), 240)
        until(lambda: here in asyndgan("federation", "status", federation.path), 90)
        # A site that is removed is sent away by FLARE's server, which goes on without it.
        asyndgan("federation", "remove", federation.path, "south")
        with closing(Administrator(federation.admin_kit)) as administrator:
            until(lambda: administrator.present() == ("north",), 240)
    finally:
        for service in reversed(services):
            service.send_signal(signal.SIGTERM)
        ends = [(service.wait(60), service.communicate()[1].decode()) for service in services]
    assert [status for status, _ in ends] == [0, 0, 0, 0], ends
    until(lambda: not left_of(tmp_path), 30)
    asyndgan("federation", "fetch", federation.path, "--out", tmp_path / "fetched")
    fetched = RunFolder(tmp_path / "fetched")
    assert fetched.generator_file.exists() and len(fetched.metrics()) == recipe.training.steps
    assert fetched.has_masks
    assert not (tmp_path / "south" / "flare").exists()
    assert {path.name for path in apart.iterdir()} == {KEY_FILE, KIT_FILE, "flare", "site.log"}
    for name in phantoms:
        ledger = tmp_path / name / "records" / "ledger.jsonl"
        asyndgan("ledger", "verify", ledger)
        assert not any(entry.masks for entry in read(ledger))


def test_strangers_on_the_port_and_a_server_that_hangs_hold_nobody_up(
    tiny: Callable[..., Recipe], phantoms: dict[str, Path], tmp_path: Path
) -> None:
    port = free_port()
    kits = [tmp_path / name for name in phantoms]
    federation = federation_here(tmp_path / "f", *kits, port=port)
    services = [started("federation", "start", federation.path)]
    crowd = None
    try:
        for name, data in phantoms.items():
            asyndgan("site", "init", tmp_path / name, federation.kit(name), "--data", data)
            (tmp_path / name / "policy.toml").write_text(SIMULATION.to_toml())
        crowd = subprocess.Popen(
            [sys.executable, strangers.__file__, str(port), "40"], stdout=subprocess.PIPE
        )
        assert crowd.stdout and crowd.stdout.readline() == b"there\n"
        services += [started("site", "start", tmp_path / name) for name in phantoms]
        longer = ("training.steps=100000", "quorum.patience_s=600", "quorum.wait_s=600")
        recipe = tiny("image.size=32", *longer)
        order = Order.submit(federation, "one", recipe, (), yes=True)
        until(lambda: len(order.folder.metrics()) > 20, 400)
        here = "connected: north, south"
        until(lambda: here in connected(federation), 240)
        assert crowd.poll() is None
        (run,) = of_module("asyndgan.runs.federated", federation.path)
        for site in services[1:]:
            halt(site.pid)
        os.kill(run, signal.SIGTERM)  # in a step for which there will be no answers
        until(lambda: not Path(f"/proc/{run}").exists())  # long before its patience ends
        (server,) = of_module(SERVER_PARENT, federation.path)
        halt(server)
        gone = "takes connections, but FLARE has not said"
        until(lambda: gone in asyndgan("federation", "status", federation.path), 90)
        begun = time.monotonic()
        services[0].send_signal(signal.SIGTERM)  # its run waits for sites
        assert services[0].wait(60) == 0
        assert time.monotonic() - begun < 40
        assert order.state() == "running"  # it goes on when the service is started again
        until(lambda: not left_of(federation.path), 30)
    finally:
        for process in [*reversed(services), *([crowd] if crowd else [])]:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def test_the_demo_over_flare_loses_a_hospital_on_the_way_and_gets_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mishap = demo._mishap

    def slowly(site: str, step: int, watch: Watch) -> tuple[Callable[[Transport], None], Watch]:
        def watched(progress: Progress) -> None:
            watch(progress)
            if site not in progress.report.shares:
                time.sleep(1.0)  # it takes seconds to come back, and few steps are left

        return mishap(site, step, watched)

    monkeypatch.setattr(demo, "_mishap", slowly)
    monkeypatch.setattr(demo, "MASK_STEPS", 4)
    small = [
        "image.size=32", "generator.width=4", "generator.blocks=1", "discriminator.width=4",
        "discriminator.layers=1", "training.batch=2", "training.steps=100",
    ]  # fmt: skip
    words = [word for override in small for word in ("--set", override)]
    out = tmp_path / "demo"
    words += ["--engine", "flare", "--out", str(out), "--patients", "0.1"]
    words += ["--segmentation-steps", "2"]
    done = CliRunner().invoke(app, ["demo", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    run = RunFolder(out / "run")
    news = [line for record in run.metrics() for line in record["news"]]
    assert any(line.startswith("missed north: ") for line in news), news
    assert any(line.startswith("north is back, with its discriminator") for line in news), news
    assert {"north"} == {
        site
        for record in run.metrics()
        for site in {"north", "south", "east", "west"} - set(record["shares"])
    }
    assert json.loads((out / "run" / "run.json").read_text())["engine"] == "flare"
    assert "missed north" in (out / "report.html").read_text("utf-8")


def test_a_process_that_only_has_a_kits_name_in_its_command_is_let_live(tmp_path: Path) -> None:
    kit = tmp_path / "north"
    kit.mkdir()
    stranger = subprocess.Popen(
        ["tail", "-f", "/dev/null", str(kit), "-s", "1"],
        start_new_session=True,
    )
    try:
        end_all(kit)
        time.sleep(0.5)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
