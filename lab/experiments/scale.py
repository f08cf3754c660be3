"""How a coordinator bears many sites: its memory and time, and what a site takes over FLARE."""

import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any, final

import torch

from asyndgan.engines import SiteSetup, load_cohort
from asyndgan.protocol import Endpoint, Exchange, Transport
from asyndgan.protocol.limits import message_limit
from asyndgan.recipe import Recipe
from asyndgan.runs import load_recipe
from asyndgan.training import Coordinator, Site

SMALL = ("masks.source=own", "discriminator.kind=patch_segmentation", "discriminator.width=8",
         "discriminator.layers=2")  # fmt: skip
"""Sites' own masks and small discriminators, which do not change what the coordinator holds."""
TINY = (
    *SMALL, "image.size=16", "training.batch=1", "generator.width=8", "generator.levels=2",
    "loss.mismatch=0", "loss.as_real=false", "generator.diversity=0",
)  # fmt: skip
STEPS = 3


def memory(kind: str = "VmHWM") -> float:
    """Memory of this process in MB (10^6 bytes): VmHWM, its peak; RssAnon, RssFile, now."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{kind}:")[1].split()[0]) * 1024 / 1e6


@final
class Elsewhere(Transport):
    """Sites that one other process computes, one after the other; this one coordinates alone."""

    def __init__(self, recipe: Recipe, data: Path, names: Sequence[str]) -> None:
        self._numbers, self._lock = {name: n for n, name in enumerate(names)}, Lock()
        ours, theirs = multiprocessing.Pipe()
        self._line = ours
        start = multiprocessing.get_context("spawn").Process
        self._process = start(target=_answer, args=(theirs, recipe.to_tables(), data, names))
        self._process.start()
        theirs.close()
        self.seconds()  # waits until all are there

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """The answer of a site."""
        with self._lock:
            self._line.send_bytes(self._numbers[site].to_bytes(4, "little") + payload)
            return self._line.recv_bytes()

    def sites(self) -> tuple[str, ...]:
        """All sites."""
        return tuple(self._numbers)

    def seconds(self) -> float:
        """CPU seconds of the sites' process so far."""
        with self._lock:
            self._line.send_bytes(b"")
            return float(self._line.recv_bytes())

    def close(self) -> None:
        """Ends the sites' process."""
        self._line.close()
        self._process.join()


def _answer(line: Connection, tables: dict[str, Any], data: Path, names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    recipe = Recipe.from_tables(tables)
    cohort = load_cohort(SiteSetup("north", data, data), recipe)
    limit = message_limit(recipe)
    sites = [Endpoint(Site(name, cohort, recipe), limit=limit) for name in names]
    while True:
        try:
            asked = line.recv_bytes()
        except (EOFError, ConnectionResetError):
            return
        if asked:
            line.send_bytes(sites[int.from_bytes(asked[:4], "little")].answer(asked[4:]))
        else:
            line.send_bytes(str(time.process_time()).encode())


def in_turns(recipe: Recipe, sites: int) -> Recipe:
    """A recipe by whose timeline each of so many sites takes part in one step, as many in each."""
    steps = [number * recipe.training.steps // sites for number in range(sites)]
    turns = [
        {"site": site, "first": step, "last": step}
        for site, step in zip(named(sites), steps, strict=True)
    ]
    return Recipe.from_tables(recipe.to_tables() | {"timeline": turns})


def named(sites: int) -> list[str]:
    """Names of so many sites."""
    return [f"site-{number:04}" for number in range(sites)]


def coordinator(
    data: Path, sites: int, steps: int, overrides: Sequence[str], turns: bool = False
) -> dict[str, Any]:
    """Peak memory and CPU seconds a step of a coordinator that runs in this process."""
    torch.set_num_threads(1)
    own = [f"training.steps={steps}", "training.precision=float32"]
    recipe = load_recipe("default", [*overrides, *own])
    if turns:
        recipe = in_turns(recipe, sites)
    transport = Elsewhere(recipe, data / "north", named(sites))
    exchange = Exchange(transport, recipe)
    run = Coordinator.begin(recipe, exchange, run="be")
    before, since, theirs = memory(), time.process_time(), transport.seconds()
    reports = [run.step() for _ in range(steps)]
    found = {
        "sites": sites, "steps": steps,
        "updates": sum(report.updated for report in reports),
        "took part": len(set().union(*(report.losses for report in reports))),
        "MB before": before, "MB peak": memory(),
        "CPU s a step": (time.process_time() - since) / steps,
        "CPU s a step, all sites": (transport.seconds() - theirs) / steps,
    }  # fmt: skip
    exchange.close()
    transport.close()
    return found


def federation(out: Path, data: Path, count: int) -> dict[str, Any]:
    """Memory of a federation's processes on this machine, and seconds until it trains."""
    from asyndgan.engines.flare.localhost import Localhost
    from lab.experiments.faults import processes
    from lab.experiments.soak import KINDS

    torch.set_num_threads(1)
    recipe = load_recipe("default", [*SMALL, "image.size=64", "training.precision=float32"])
    setups = [SiteSetup(name, data / "north", out / "states" / name) for name in named(count)]
    begun = time.monotonic()
    engine = Localhost(setups, recipe, folder=out / "flare")
    try:
        connected = time.monotonic() - begun
        exchange = Exchange(engine, recipe)
        run = Coordinator.begin(recipe, exchange, run="f1")
        reports, begun = [run.step() for _ in range(STEPS)], time.monotonic()
        reports += [run.step() for _ in range(STEPS)]
        a_step = (time.monotonic() - begun) / STEPS
        compute = [pid for site in engine.sites() if (pid := engine.pid(site))]
        own = {"coordinator": [os.getpid()], "sites' compute": compute}
        memories = {
            kind: [proportional(pid) for pid in own.get(kind) or processes(*words, str(out))]
            for kind, words in KINDS.items()
        }
        exchange.close()
    finally:
        engine.close()
    return {
        "sites": count, "connected after s": connected, "s a step": a_step,
        "took part": min(len(report.losses) for report in reports),
        "MB": {kind: sum(each) for kind, each in memories.items()},
        "processes": sum(map(len, memories.values())),
    }  # fmt: skip


def proportional(pid: int) -> float:
    """Memory of a process in MB, of what it shares with others its part."""
    with Path(f"/proc/{pid}/smaps_rollup").open() as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6
