"""Recovery when a part of a federation dies: seconds until all is well, and steps lost.

    python -m lab.experiments.faults --out OUT [--document FILE]

A coordinator and four phantom sites are started with the commands that an administrator would use,
from real kits, over mutual TLS on this machine. While a tiny generator trains, one part after the
other is killed (SIGKILL), and one site is frozen for a minute. The two commands themselves are
started again after two seconds, as a service manager does it; everything else comes back by itself.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines.flare.keeper import CLIENT, SERVER
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.privacy.policy import AllowsSection, Policy
from asyndgan.recipe import Recipe
from asyndgan.runs.order import Order
from lab.experiments.common import MADE_ANEW, arguments, emptied, markdown, publish

RECIPE = """
name = "faults"
[image]
size = 32
[generator]
width = 8
blocks = 1
[discriminator]
width = 8
layers = 1
[training]
steps = 1000000
batch = 2
move = true
checkpoint_every = 100
sample_every = 100000
[quorum]
wait_s = 20.0
"""
ALLOWED = AllowsSection(fewest_patients=1, unmeasured=True)
"""What a site of the few patients here allows beyond the defaults; any number of answers."""

SITE = "north"
CALM_S = 3.0
FROZEN_S = 60.0
SERVICE_S = 2.0
"""Seconds until a service manager starts a command again."""


def processes(*words: str) -> list[int]:
    """Ids of the processes whose command line contains all these words, oldest first."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if all(word in command for word in words):
                found.append((place.stat().st_ctime, int(place.name)))
        except (OSError, UnicodeDecodeError):
            continue
    return [pid for _, pid in sorted(found)]


def children(pid: int) -> list[int]:
    """Ids of all descendants of a process."""
    own = [
        int(place.parent.name)
        for place in Path("/proc").glob("[0-9]*/stat")
        if place.exists() and int(place.read_text().rpartition(")")[2].split()[1]) == pid
    ]
    return own + [each for child in own for each in children(child)]


class Watched:
    """Watches a run through its metrics."""

    def __init__(self, order: Order) -> None:
        self.folder = order.folder
        self.log = order.federation.path / "federation.log"
        self.sites = len(order.wanted()["sites"])
        self.lowest = 0
        self.pause = 0.0

    def whole(self) -> bool:
        """Whether the newest step is less than a second old and all sites took part in it."""
        records = self.folder.metrics()
        if not records:
            return False
        age = time.time() - self.folder.metrics_file.stat().st_mtime
        self.pause = max(self.pause, age)
        self.lowest = min(self.lowest, records[-1]["step"])
        return age < 1.0 and len(records[-1]["shares"]) == self.sites

    def calm(self, seconds: float = 300.0) -> float:
        """Waits until the run was whole for `CALM_S` seconds; returns the time when that began."""
        since, end = None, time.time() + seconds
        while time.time() < end:
            if not self.whole():
                since = None
            elif since is None:
                since = time.time()
            elif time.time() - since > CALM_S:
                return since
            time.sleep(0.1)
        raise SystemExit(f"not as before within {seconds:g} s; see {self.folder.path}")

    def hit(self, blow: Callable[[], None]) -> list[str]:
        """Measures the recovery from a fault.

        Returns:
            As text: seconds until all sites were back, longest pause, steps without all sites,
            steps repeated, news; where the run has none, what the federation's log says.
        """
        self.calm()
        before, begun = self.folder.metrics()[-1]["step"], time.time()
        logged = len(self.log.read_text())
        self.lowest, self.pause = before, 0.0
        with ThreadPoolExecutor(1) as others:
            blowing = others.submit(blow)  # some faults take a while
            while not blowing.done():
                self.whole()
                time.sleep(0.1)
        blowing.result()  # raises if the fault could not be caused
        time.sleep(1.5)  # gives the run time to notice the fault
        normal = max(0.0, self.calm() - begun)
        after = [each for each in self.folder.metrics() if each["step"] > before]
        without = sum(len(each["shares"]) < self.sites for each in after)
        told = dict.fromkeys(line for each in after for line in each["news"])
        # A restarted coordinator resumes from its checkpoint and repeats the steps since then.
        anew = before - self.lowest
        said = "; ".join(line.rstrip(".") for line in told)
        if not told:  # date, time, level, text
            said = "; ".join(
                f"`federation.log`: {line.split(maxsplit=3)[-1]}"
                for line in self.log.read_text()[logged:].splitlines()
            )
        return [f"{normal:.0f} s", f"{self.pause:.1f} s", str(without), str(anew), said]


def main() -> None:
    """Starts the federation, causes the faults, then prints and writes the table."""
    asked = arguments(__doc__, data=False, out=MADE_ANEW).parse_args()
    out = emptied(asked.out)
    write_phantoms(out / "data", size=32, patients_scale=0.1)
    names = tuple(site.name for site in DEFAULT_SITES)
    kits = {name: out / "sites" / name for name in names}
    federation = federation_here(out / "f", *kits.values())
    command = [str(Path(sys.executable).with_name("asyndgan"))]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for name, kit in kits.items():
        words = ["site", "init", str(kit), str(federation.kit(name))]
        words += ["--data", str(out / "data" / name)]
        subprocess.run([*command, *words], check=True, **quiet)
        (kit / "policy.toml").write_text(Policy(name=name, allows=ALLOWED).to_toml())
    services = {
        "coordinator": ["federation", "start", str(federation.path)],
        **{name: ["site", "start", str(kit)] for name, kit in kits.items()},
    }
    running = {name: subprocess.Popen([*command, *to], **quiet) for name, to in services.items()}
    order = Order.submit(federation, "faults", Recipe.from_toml(RECIPE), names, yes=True)
    watched = Watched(order)
    begun = time.time()
    rows = [["everything started, from nothing", f"{watched.calm() - begun:.0f} s", "", "", "", ""]]
    own, server = str(kits[SITE]), str(federation.server_kit)

    def kill(*words: str) -> Callable[[], None]:
        return lambda: os.kill(processes(*words)[0], signal.SIGKILL)

    def kill_compute() -> None:
        found = set(children(running[SITE].pid)) & set(processes("asyndgan.engines.processes"))
        os.kill(found.pop(), signal.SIGKILL)

    def freeze() -> None:
        pids = [running[SITE].pid, *children(running[SITE].pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(FROZEN_S)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    def restart(name: str, *, all_of_it: bool) -> Callable[[], None]:
        def blow() -> None:
            pid = running[name].pid
            for each in [pid, *(children(pid) if all_of_it else [])]:
                with suppress(ProcessLookupError):  # its parent's end was its own
                    os.kill(each, signal.SIGKILL)
            running[name].wait()
            time.sleep(SERVICE_S)
            running[name] = subprocess.Popen([*command, *services[name]], **quiet)

        return blow

    blows = {
        "a site's compute": kill_compute,
        "a site's FLARE client": kill(CLIENT, own),
        "FLARE's server": kill(SERVER, server),
        "the coordinator": kill("asyndgan.runs.federated", str(federation.path)),
        "`site start`": restart(SITE, all_of_it=False),
        "`federation start`": restart("coordinator", all_of_it=False),
        "all of a site (its machine restarts)": restart(SITE, all_of_it=True),
        "all of the coordinator's (the same)": restart("coordinator", all_of_it=True),
        "a site frozen for 60 s": freeze,
    }
    try:
        for name, blow in blows.items():
            rows.append([name, *watched.hit(blow)])
            print(rows[-1], flush=True)
    finally:
        for process in reversed(running.values()):
            process.terminate()
        for process in running.values():
            process.wait()
    heading = ["killed", "recovered after", "longest pause", "steps without it", "steps repeated",
               "news of the run meanwhile"]  # fmt: skip
    publish(markdown(heading, rows), "faults", asked.document)


if __name__ == "__main__":
    main()
