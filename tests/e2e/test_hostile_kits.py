"""A site's folder full of code: none of it runs, with FLARE's real client, server and job."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyndgan.engines.flare.keeper import CLIENT
from asyndgan.engines.flare.kits import renew
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.engines.flare.member import read_kit, write_workspace
from asyndgan.privacy import SIMULATION
from asyndgan.recipe import Recipe
from asyndgan.runs.order import Order
from waiting import until

COMMAND = str(Path(sys.executable).with_name("asyndgan"))

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="as FLARE's services")

COMPONENTS = (
    "startup/fed_client.json", "startup/fed_client.json.default", "startup/x__resources.json",
    "startup/x__p_resources.json", "startup/x__j_resources.json", "local/resources.json",
    "local/resources.json.default", "local/x__resources.json", "local/x__p_resources.json",
    "local/x__j_resources.json", "local/job_resources.json", "local/privacy.json",
    "local/privacy.json.sample", "local/comm_config.json", "comm_config.json",
    "local/authorization.json", "startup/signature.json", "study_registry.json",
)  # fmt: skip
"""Files in which FLARE looks for components, or for other settings."""

LOGS = ("local/log_config.json", "local/log_config.json.default")

MODULES = (
    "sitecustomize", "usercustomize", "json", "asyndgan/__init__", "nvflare/__init__",
    "torch/__init__", "nvflare_decomposers/own", "plugin", "conftest",
)  # fmt: skip
PLACES = ("", "local/", "local/custom/", "startup/", "custom/", "app_north/custom/", "plugins/")

SCRIPTS = ("sub_start.sh", "start.sh", "startup/sub_start.sh", "startup/start.sh", "stop_fl.sh")


def poison(folder: Path, ran: Path, names: tuple[str, ...] | None = None) -> None:
    """Makes every file that FLARE, Python or a shell may look for leave its name in `ran`.

    Args:
        folder: a site's folder, or FLARE's, whose own files keep what else they hold.
        ran: an empty folder.
        names: files to write; None for all.
    """

    def leave(name: str) -> Path:
        return ran / name.replace("/", "-")

    def write(name: str, text: str) -> None:
        if names is None or name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def content(name: str) -> dict[str, Any]:
        found = folder / name
        tables: dict[str, Any] = json.loads(found.read_text()) if found.exists() else {}
        return tables

    for name in COMPONENTS:
        run = {"args": {"args": ["touch", str(leave(name))]}, "path": "subprocess.Popen"}
        tables = content(name)
        tables["components"] = [*tables.get("components", []), {"id": name, **run}]
        write(name, json.dumps(tables))
    for name in LOGS:
        formatter = {"()": "subprocess.Popen", "args": ["touch", str(leave(name))]}
        tables = {"version": 1} | content(name)
        write(name, json.dumps(tables | {"formatters": {"plain": formatter}}))
    for place in PLACES:
        for module in MODULES:
            name = f"{place}{module}.py"
            write(name, f"import pathlib\npathlib.Path({str(leave(name))!r}).touch()\n")
    for name in SCRIPTS:
        write(name, f"#!/bin/sh\ntouch {leave(name)}\n")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "local/resources.json", "local/log_config.json", "startup/fed_client.json",
        "startup/x__resources.json", "local/x__p_resources.json",
        "local/custom/nvflare_decomposers/own.py",
    ],
)  # fmt: skip
def test_flare_runs_what_its_own_folder_names_so_that_nobody_else_may_write_there(
    name: str, tmp_path: Path
) -> None:
    """What the next test's folder holds is no blank: where FLARE does read it, it runs."""
    federation_here(tmp_path / "f", tmp_path / "north")
    folder = write_workspace(tmp_path / "north", read_kit(tmp_path / "north"))
    (ran := tmp_path / "ran").mkdir()
    poison(folder, ran, (name,))
    words = ["-m", folder, "-s", "fed_client.json", "--set", "secure_train=true", "uid=north"]
    client = subprocess.Popen(
        [sys.executable, "-m", CLIENT, *words, "org=asyndgan"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: names_in(ran) == [name.replace("/", "-")], 60)
    finally:
        client.kill()
        client.wait()


def test_nothing_that_lies_in_a_sites_folder_besides_its_own_files_runs(
    tiny: Callable[..., Recipe], phantoms: dict[str, Path], tmp_path: Path
) -> None:
    def asyndgan(*words: object) -> str:
        done = subprocess.run(
            [COMMAND, *map(str, words)], capture_output=True, text=True, timeout=600,
            cwd=kit,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def started(*words: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([COMMAND, *map(str, words)], cwd=kit)

    def trained(run: str) -> None:
        words = ("federation", "submit", federation.path, tmp_path / "recipe.toml", "--run", run)
        asyndgan(*words, "--yes")
        order = Order.named(federation, run)
        until(lambda: order.state() in ("finished", "failed"), 400)
        assert order.state() == "finished", order.failure()

    (tmp_path / "ran").mkdir()
    kit, ran = tmp_path / "north", tmp_path / "ran"
    federation = federation_here(tmp_path / "f", kit)
    recipe = tiny("image.size=32", "masks.release=false")
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    poison(kit, ran)
    asyndgan("site", "init", kit, federation.kit("north"), "--data", phantoms["north"])
    (kit / "policy.toml").write_text(SIMULATION.to_toml())
    services = [started("federation", "start", federation.path)]
    try:
        services.append(started("site", "start", kit))
        trained("first")
        asyndgan("site", "check", kit)
        assert names_in(ran) == []
        # The kit is renewed, and somebody wrote to FLARE's own folder.
        services[-1].send_signal(signal.SIGTERM)
        assert services.pop().wait(60) == 0  # until then it holds the kit
        renew(federation)
        old = (kit / "flare" / "startup" / "client.crt").read_bytes()
        asyndgan("site", "renew", kit, federation.kit("north"))
        poison(kit / "flare", ran)
        services.append(started("site", "start", kit))
        trained("second")
        assert (kit / "flare" / "startup" / "client.crt").read_bytes() != old
        assert names_in(ran) == []
    finally:
        for service in reversed(services):
            service.send_signal(signal.SIGTERM)
        assert [service.wait(60) for service in reversed(services)] == [0] * len(services)
    assert (kit / "flare" / "log.txt").exists()
    assert len(list((kit / "runs").iterdir())) == 2


def test_code_in_the_folder_of_data_or_of_a_run_does_not_run(
    tiny: Callable[..., Recipe], phantoms: dict[str, Path], tmp_path: Path
) -> None:
    """Sites and trainings of networks have processes of their own, started from where one is."""
    sites = {name: tmp_path / "data" / name for name in ("north", "south")}
    for name, folder in sites.items():
        shutil.copytree(phantoms[name], folder)
    (tmp_path / "recipe.toml").write_text(tiny("image.size=32", "training.hold_out=0.3").to_toml())
    (ran := tmp_path / "ran").mkdir()
    pairs = [word for name, data in sites.items() for word in ("--site", f"{name}={data}")]
    run = tmp_path / "run"

    def from_within(folder: Path, *words: object) -> None:
        for module in MODULES:
            file = folder / f"{module}.py"
            file.parent.mkdir(exist_ok=True)
            leave = ran / f"{folder.name}-{module.replace('/', '-')}"
            file.write_text(f"import pathlib\npathlib.Path({str(leave)!r}).touch()\n")
        done = subprocess.run(
            [COMMAND, *map(str, words), *pairs], cwd=folder, capture_output=True, text=True,
            timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    train = ("train", tmp_path / "recipe.toml", "--out", run, "--engine", "processes")
    from_within(sites["north"], *train)
    from_within(run, "evaluate", run, "--steps", 2, "--out", tmp_path / "judged")
    assert names_in(ran) == []
