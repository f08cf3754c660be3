"""A job for a FLARE that others run: their provisioning, their scripts, their simulator."""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from nvflare.lighter.entity import Project
from nvflare.lighter.impl.cert import CertBuilder
from nvflare.lighter.impl.static_file import StaticFileBuilder
from nvflare.lighter.impl.workspace import WorkspaceBuilder
from nvflare.lighter.provisioner import Provisioner

from asyndgan.engines.flare.localhost import free_port
from asyndgan.engines.flare.sockets import SOCKETS
from asyndgan.errors import RunError
from asyndgan.privacy import SIMULATION
from asyndgan.runs import RunFolder
from asyndgan.runs.mask_learning import learned_masks
from asyndgan.runs.train import train
from asyndgan.training.checkpoint import read
from commands import asyndgan, command
from waiting import until

HERE = Path(sys.executable).parent
ADMIN = "admin@example.org"
LOCAL = {
    "class_allow_list": ["asyndgan.engines.flare.app.", "asyndgan.runs.coordination."],
    "allow_log_streaming": False,
}
"""What docs/federation-reference.md has a site's administrator write."""

GIVEN = ("masks.source=given", "masks.release=false")
STREAMING = ("log_receiver", "site_log_streamer")

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="as FLARE's services")


def exported(folder: Path, recipe: Path, run: str) -> Path:
    asyndgan(
        "federation", "export", recipe, "--to", folder, "--site", "north", "--site", "south",
        "--run", run,
    )  # fmt: skip
    assert folder.stat().st_mode & 0o77 == 0  # it holds keys
    return folder


def provisioned(folder: Path) -> Path:
    """A federation as FLARE makes it, with our app allowed in its `local/resources.json`."""
    project = Project("others", "")
    ports = {"fed_learn_port": free_port(), "admin_port": free_port()}
    project.set_server("localhost", "others", ports)
    for site in ("north", "south"):
        project.add_client(site, "others", {})
    project.add_admin(ADMIN, "others", {"role": "project_admin"})
    builders = [WorkspaceBuilder(), StaticFileBuilder(scheme="grpc"), CertBuilder()]
    context = Provisioner(str(folder), builders).provision(project)
    made = Path(context["current_prod_dir"])
    for kit in ("localhost", "north", "south"):
        local = made / kit / "local"
        resources = json.loads((local / "resources.json.default").read_text())
        if kit == "localhost":  # else in a folder that all servers of a machine share
            persistor = resources["snapshot_persistor"]["args"]["storage"]["args"]
            persistor["root_dir"] = str(folder / "snapshots")
            for component in resources["components"]:
                if component["id"] == "job_manager":
                    component["args"]["uri_root"] = str(folder / "jobs")
        resources |= LOCAL
        resources["components"] = [c for c in resources["components"] if c["id"] not in STREAMING]
        (local / "resources.json").write_text(json.dumps(resources))
    return made


def same_generator(*runs: RunFolder) -> bool:
    ours, theirs = (read(each.generator_file)[0] for each in runs)
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


def run_below(folder: Path, name: str) -> RunFolder | None:
    """A run in some workspace of FLARE, once it has finished."""
    for facts in folder.rglob(f"{name}/run.json"):
        if facts.exists() and '"finished"' in facts.read_text():
            return RunFolder(facts.parent)
    return None


def test_a_job_trains_in_a_provisioned_flare_and_in_the_simulator_as_in_one_process(
    tiny, phantoms, tmp_path
):
    recipe, file, sockets = tiny("image.size=32"), tmp_path / "recipe.toml", tmp_path / "s"
    file.write_text(recipe.to_toml())
    learned, other = tiny("image.size=32", *GIVEN), tmp_path / "learned.toml"
    other.write_text(learned.to_toml())
    sockets.mkdir(mode=0o700)
    path = f"{HERE}{os.pathsep}{os.environ['PATH']}"
    known = os.environ | {SOCKETS: str(sockets), "OMP_NUM_THREADS": "1", "PATH": path}
    with ExitStack() as ends:

        def started(*words):
            nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            at = {"env": known, "start_new_session": True, "cwd": tmp_path}
            process = subprocess.Popen([*map(str, words)], **at, **nowhere)

            def end():
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

            ends.callback(end)

        for site, data in phantoms.items():
            kit = tmp_path / site
            asyndgan("site", "init", kit, "--data", data)
            (kit / "policy.toml").write_text(SIMULATION.to_toml())
            assert command("site", "check", kit).returncode == 0
            started(HERE / "asyndgan", "site", "start", kit)
        until(lambda: {path.name for path in sockets.iterdir()} == {"north", "south"}, 120)

        made = provisioned(tmp_path / "others")
        for name in ("localhost", *phantoms):
            started("bash", made / name / "startup" / "sub_start.sh")
        job = exported(tmp_path / "job", other, "one")

        def submitted(place):
            submit = ["job", "submit", "-j", place, "--startup-kit", made / ADMIN]
            words = [str(word) for word in (HERE / "nvflare", *submit)]
            done = subprocess.run(words, env=known, capture_output=True, timeout=120)
            return done.returncode == 0

        for place, run in ((tmp_path / "job-masks", "one-masks"), (job, "one")):
            until(partial(submitted, place), 600)
            until(partial(run_below, made / "localhost", run), 600)
        over_flare = run_below(made / "localhost", "one")

        simulated = tmp_path / "simulated"
        (simulated / "local").mkdir(parents=True)
        (simulated / "local" / "resources.json").write_text(
            json.dumps({"format_version": 2, **LOCAL})
        )
        job = exported(tmp_path / "job2", file, "two")
        started(HERE / "nvflare", "simulator", job, "-w", simulated, "-c", "north,south", "-t", 2)
        until(lambda: run_below(simulated, "two"), 600)
        in_simulator = run_below(simulated, "two")
    assert over_flare and in_simulator
    assert same_generator(in_simulator, train(recipe, phantoms, tmp_path / "whole"))
    masks = learned_masks(learned, phantoms, tmp_path / "learned")
    assert same_generator(over_flare, train(learned, phantoms, tmp_path / "learned", masks=masks))
    for site in phantoms:
        asyndgan("ledger", "verify", tmp_path / site / "records" / "ledger.jsonl")


def test_a_job_that_cannot_be_run_is_not_written(tmp_path):
    words = ("federation", "export", "demo", "--site", "north", "--to", tmp_path / "job")
    with pytest.raises(RunError, match="'One Run': name a run in"):
        asyndgan(*words, "--run", "One Run")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "file").touch()
    with pytest.raises(RunError, match="is not empty"):
        asyndgan(*words)
    assert [path.name for path in tmp_path.iterdir()] == ["job"]
