"""A federation while strangers hold connections to its port: what begins, goes on and is answered.

    python -m lab.experiments.strangers --out OUT [--strangers 200]
        [--document FILE]

A coordinator and two phantom sites are started with the commands that an administrator would use.
Each quantity is measured without strangers, and then while `crowd.py` holds connections that never
say who they are and opens those anew that the server closes.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines.flare.kits import Federation
from asyndgan.engines.flare.localhost import federation_here, free_port
from asyndgan.engines.flare.member import read_kit
from asyndgan.engines.flare.workspace import write_workspace
from asyndgan.privacy.policy import Policy
from asyndgan.recipe import Recipe
from asyndgan.runs.order import Order
from lab.experiments.common import MADE_ANEW, arguments, emptied, markdown, publish
from lab.experiments.faults import ALLOWED, RECIPE

COMMAND = str(Path(sys.executable).with_name("asyndgan"))
WATCHED_S = 30.0
"""Seconds in which the steps of a run are counted."""

GIVEN_UP_S = 120.0
"""Seconds after which nobody waits any longer."""

ASKED = 5
"""How often `status` is asked."""


def until(true: Callable[[], bool], seconds: float = GIVEN_UP_S) -> float:
    """Waits `seconds` at most; returns how long, or infinity if it did not come true."""
    begun = time.monotonic()
    while not true():
        if time.monotonic() - begun > seconds:
            return float("inf")
        time.sleep(0.05)
    return time.monotonic() - begun


def begun_after(federation: Federation, name: str) -> tuple[float, float]:
    """Seconds from the order of a run until its sites have their jobs, and until its first step."""
    order = Order.submit(federation, name, Recipe.from_toml(RECIPE), (), yes=True)
    sites = federation.sites
    connected = until(lambda: _text(order.log_file).count("is connected") == len(sites))
    return connected, connected + until(lambda: bool(order.folder.metrics()))


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def steps(order: Order) -> tuple[float, float]:
    """Steps a second of a run at work, and its longest pause in seconds."""
    first, last, pause = len(order.folder.metrics()), time.monotonic(), 0.0
    end, seen = last + WATCHED_S, first
    while (now := time.monotonic()) < end:
        if (found := len(order.folder.metrics())) > seen:
            seen, last = found, now
        pause = max(pause, now - last)
        time.sleep(0.2)
    return (seen - first) / WATCHED_S, pause


def status(federation: Federation) -> tuple[float, bool]:
    """Longest time in seconds that `status` took, and whether it always said who is connected."""
    longest, told = 0.0, True
    for _ in range(ASKED):
        begun = time.monotonic()
        try:
            done = subprocess.run(
                [COMMAND, "federation", "status", str(federation.path)],
                capture_output=True, text=True, timeout=GIVEN_UP_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return float("inf"), False
        longest = max(longest, time.monotonic() - begun)
        told = told and "connected: north, south" in done.stdout
    return longest, told


def stopped(order: Order) -> float:
    """Seconds from the request to stop until the run's process has ended."""
    order.stop()
    return until(lambda: not order.folder.busy())


def measured(federation: Federation, order: Order, name: str) -> list[str]:
    """One column of the table; `order` is at work, and a run of this name is ordered after it."""
    pace, pause = steps(order)
    asked, told = status(federation)
    ended = stopped(order)
    connected, begins = begun_after(federation, name)
    texts = [
        f"{pace:.1f}", f"{pause:.1f} s", f"{asked:.1f} s", "yes" if told else "no",
        f"{ended:.1f} s", f"{connected:.1f} s", f"{begins:.1f} s",
    ]  # fmt: skip
    late = f"not within {GIVEN_UP_S:.0f} s"
    return [late if text == "inf s" else text for text in texts]


def main() -> None:
    """Starts the federation and the strangers, then prints and writes the table."""
    parser = arguments(__doc__, data=False, out=MADE_ANEW)
    parser.add_argument("--strangers", type=int, default=200, help="how many connections")
    asked = parser.parse_args()
    out = emptied(asked.out)
    sites = DEFAULT_SITES[:2]
    write_phantoms(out / "data", size=32, sites=sites, patients_scale=0.1)
    names = tuple(site.name for site in sites)
    port = free_port()
    kits = {name: out / "sites" / name for name in names}
    federation = federation_here(out / "f", *kits.values(), port=port)
    federation_here(out / "other" / "f", out / "other" / "north", port=port)
    startup = write_workspace(out / "other/north", read_kit(out / "other/north")) / "startup"
    foreign = [str(startup / name) for name in ("client.crt", "client.key")]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen([COMMAND, "federation", "start", str(federation.path)], **quiet)]
    for name, kit in kits.items():
        words = ["site", "init", str(kit), str(federation.kit(name))]
        words += ["--data", str(out / "data" / name)]
        subprocess.run([COMMAND, *words], check=True, **quiet)
        (kit / "policy.toml").write_text(Policy(name=name, allows=ALLOWED).to_toml())
        running.append(subprocess.Popen([COMMAND, "site", "start", str(kit)], **quiet))
    try:
        begun_after(federation, "first")
        alone = measured(federation, Order.named(federation, "first"), "second")
        crowd = subprocess.Popen(
            [sys.executable, "-m", "lab.experiments.crowd", str(port),
             str(asked.strangers), *foreign],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        running.append(crowd)
        assert crowd.stdout
        crowd.stdout.readline()
        print(alone, flush=True)
        among = measured(federation, Order.named(federation, "second"), "third")
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait()
    rows = zip(
        ("steps a second of a run at work", "its longest pause", "`status` takes at most",
         "and says who is connected", "a run that is told to stop has ended after",
         "the sites of a run that is ordered have their jobs after",
         "it takes its first step after"),
        alone, among, strict=True,
    )  # fmt: skip
    heading = ["", "without strangers", f"{asked.strangers} strangers"]
    publish(markdown(heading, rows), "strangers", asked.document)


if __name__ == "__main__":
    main()
