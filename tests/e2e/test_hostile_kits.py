"""Where FLARE looks for code in its own folder; of a site's folders: test_services.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from asyndgan.engines.flare.keeper import CLIENT
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.engines.flare.member import read_kit, write_workspace
from poison import names_in, poison
from waiting import until

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
