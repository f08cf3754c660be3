"""Code in a site's folders: none of it runs, and where FLARE would look for it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asyndgan.engines.flare.keeper import CLIENT
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.engines.flare.member import read_kit
from asyndgan.engines.flare.workspace import write_workspace
from poison import MODULES, names_in, poison
from waiting import until

COMMAND = str(Path(sys.executable).with_name("asyndgan"))

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="as FLARE's services")


NAMES = (
    "local/resources.json", "local/log_config.json", "startup/fed_client.json",
    "startup/x__resources.json", "local/x__p_resources.json",
    "local/custom/nvflare_decomposers/own.py",
)  # fmt: skip


def test_flare_runs_what_its_own_folder_names_so_that_nobody_else_may_write_there(tmp_path):
    """What test_services.py lays into a site's folder is no blank."""
    federation_here(tmp_path / "f", tmp_path / "north")
    folder = write_workspace(tmp_path / "north", read_kit(tmp_path / "north"))
    (ran := tmp_path / "ran").mkdir()
    poison(folder, ran, NAMES)
    words = ["-m", folder, "-s", "fed_client.json", "--set", "secure_train=true", "uid=north"]
    client = subprocess.Popen(
        [sys.executable, "-m", CLIENT, *words, "org=asyndgan"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: names_in(ran) == sorted(name.replace("/", "-") for name in NAMES))
    finally:
        client.kill()
        client.wait()


def test_code_in_the_folder_of_data_or_of_a_run_does_not_run(tiny, phantoms, tmp_path):
    """Sites and trainings of networks have processes of their own, started from where one is."""
    sites = {name: tmp_path / "data" / name for name in ("north", "south")}
    for name, folder in sites.items():
        shutil.copytree(phantoms[name], folder)
    (tmp_path / "recipe.toml").write_text(tiny("image.size=32", "training.hold_out=0.3").to_toml())
    (ran := tmp_path / "ran").mkdir()
    pairs = [word for name, data in sites.items() for word in ("--site", f"{name}={data}")]
    run = tmp_path / "run"

    def from_within(folder, *words):
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
