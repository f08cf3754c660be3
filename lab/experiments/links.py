"""Seconds of a step over links with delay, little bandwidth or loss, or with a slow site.

Sites of a federation on this machine are each in a network namespace of their own, whose only way
out is a process that carries IP packets between two TUN devices and delays, limits and drops them:
TCP, TLS and FLARE meet such links as they would between buildings. Needs root and Linux.
"""

import ctypes
import fcntl
import multiprocessing
import os
import random
import select
import signal
import statistics
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, final

import torch

from asyndgan.engines import SiteSetup
from asyndgan.engines.flare.keeper import keep_client, keep_server
from asyndgan.engines.flare.kits import init_federation
from asyndgan.engines.flare.localhost import CONNECTED_S, free_port, join
from asyndgan.engines.flare.service import SiteService
from asyndgan.engines.flare.transport import flare_to
from asyndgan.protocol import Exchange, away
from asyndgan.runs import load_recipe
from asyndgan.training import Coordinator

NO_WAY = (0.0, 0.0, 0.0)
LINKS = {
    "no delay": NO_WAY,
    "50 ms there and back": (0.025, 0.0, 0.0),
    "200 ms there and back": (0.1, 0.0, 0.0),
    "10 Mbit/s": (0.0, 10e6 / 8, 0.0),
    "1 % of packets lost": (0.0, 0.0, 0.01),
    "50 ms, 10 Mbit/s, 1 % lost": (0.025, 10e6 / 8, 0.01),
}
"""Seconds of delay each way, bytes a second each way (0: unlimited), fraction of lost packets."""
TINY = (
    "masks.source=own", "discriminator.kind=patch_segmentation", "discriminator.width=8",
    "discriminator.layers=2", "generator.width=8", "generator.diversity=0",
)  # fmt: skip
"""Small networks, whose messages are as long as those of large ones."""
SLOW = "one of two sites five times slower"
QUEUE_S = 0.5
"""Seconds of traffic that wait for a limited link; packets beyond are dropped."""
HOST = "10.77.1.1"
"""The coordinator's end of the first site's link."""


@final
class Link:
    """The only link of a new network namespace to this one; `terms` may change at any time."""

    def __init__(self, number: int) -> None:
        self.namespace = f"asyndgan-{os.getpid()}-{number}"
        _ip("netns", "add", self.namespace)
        names = [f"adg{number}{end}" for end in "ab"]
        ends = [_tun(name) for name in names]
        _ip("link", "set", names[1], "netns", self.namespace)
        for words, name, host in (
            ((), names[0], 1), (("-n", self.namespace), names[1], 2)
        ):  # fmt: skip
            _ip(*words, "address", "add", f"10.77.{number}.{host}/30", "dev", name)
            _ip(*words, "link", "set", name, "up")
        _ip("-n", self.namespace, "link", "set", "lo", "up")
        _ip("-n", self.namespace, "route", "add", "default", "dev", names[1])
        self.terms = multiprocessing.Array("d", NO_WAY)
        fork = multiprocessing.get_context("fork").Process
        self._carrier = fork(target=_carry, args=(ends, self.terms), daemon=True)
        self._carrier.start()
        for end in ends:
            os.close(end)

    def close(self) -> None:
        """Removes the link and the namespace."""
        self._carrier.kill()
        self._carrier.join()
        _ip("netns", "delete", self.namespace)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Has this thread, and what it starts, be in the namespace."""
        with Path("/proc/thread-self/ns/net").open() as here:
            _enter(f"/run/netns/{self.namespace}")
            try:
                yield
            finally:
                _set_namespace(here.fileno())


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _tun(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    packets_only = 0x1001  # IFF_TUN | IFF_NO_PI
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", name.encode(), packets_only))
    return device


def _enter(namespace: str) -> None:
    with Path(namespace).open() as there:
        _set_namespace(there.fileno())


def _set_namespace(number: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(number, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


def _carry(ends: Sequence[int], terms: Any) -> None:
    """Carries packets both ways until killed."""
    ways: list[deque[tuple[float, bytes]]] = [deque(), deque()]
    free = [0.0, 0.0]
    while True:
        now = time.monotonic()
        for way, waiting in enumerate(ways):
            while waiting and waiting[0][0] <= now:
                with suppress(OSError):
                    os.write(ends[1 - way], waiting.popleft()[1])
        due = min((waiting[0][0] for waiting in ways if waiting), default=now + 1)
        ready, _, _ = select.select(ends, [], [], max(0.0, due - now))
        for end in ready:
            way = ends.index(end)
            with suppress(BlockingIOError):
                while packet := os.read(end, 2**16):
                    now, (delay, rate, loss) = time.monotonic(), tuple(terms)
                    begins = max(now, free[way])
                    if random.random() < loss or (rate and begins - now > QUEUE_S):
                        continue
                    free[way] = begins + len(packet) / rate if rate else now
                    ways[way].append((free[way] + delay, packet))


@contextmanager
def federation(
    out: Path, data: Path, names: Sequence[str], overrides: Sequence[str]
) -> Iterator[tuple[Coordinator, list[Link], list[SiteService]]]:
    """A coordinator, and sites each behind a link of their own, ready for the first step."""
    recipe = load_recipe("default", overrides)
    with ExitStack() as ends:
        links = [Link(number) for number, _ in enumerate(names, 1)]
        for link in links:
            ends.callback(link.close)
        made = init_federation(out / "federation", host=HOST, port=free_port())
        kits = [out / "sites" / name for name in names]
        for kit in kits:
            kit.parent.mkdir(parents=True, exist_ok=True)
            made = join(made, kit)
        ends.callback(keep_server(made).close)
        services = []
        for name, kit, link in zip(names, kits, links, strict=True):
            setup = SiteSetup(name, data / name, out / "states" / name)
            services.append(SiteService(kit, partial(_same, setup)))
            ends.callback(services[-1].close)
            with link.inside():
                ends.callback(keep_client(kit).close)
        flare = flare_to(made, recipe, "run", ())
        ends.callback(flare.close)
        if missing := away(flare, names, CONNECTED_S):
            raise SystemExit(f"not connected: {', '.join(missing)}")
        exchange = Exchange(flare, recipe)
        ends.callback(exchange.close)
        yield Coordinator.begin(recipe, exchange, run="11"), links, services


def _same(setup: SiteSetup, run: str) -> SiteSetup:
    return setup


@contextmanager
def slowed(pid: int | None, times: int = 5) -> Iterator[None]:
    """Lets a process compute in one of so many slices of 20 ms alone."""
    assert pid is not None
    over = threading.Event()

    def hold() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            over.wait(0.02 * (times - 1))
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.02)

    holding = threading.Thread(target=hold)
    holding.start()
    try:
        yield
    finally:
        over.set()
        holding.join()


def of_links(
    out: Path, data: Path, overrides: Sequence[str], over: Sequence[str], rounds: int, steps: int
) -> dict[str, Any]:
    """Least and median seconds of a step over these links, which take turns within one run."""
    torch.set_num_threads(1)
    names = ["north", "south"]
    taken: dict[str, list[float]] = {name: [] for name in over}
    with federation(out, data, names, overrides) as (coordinator, links, services):
        coordinator.step()
        for _ in range(rounds):
            for name, seconds in taken.items():
                for link in links:
                    link.terms[:] = LINKS.get(name, NO_WAY)
                slow = slowed(services[0].pid()) if name == SLOW else ExitStack()
                with slow:
                    for _ in range(steps):
                        begun = time.monotonic()
                        report = coordinator.step()
                        if not report.missed:
                            seconds.append(time.monotonic() - begun)
        exchange = coordinator.roster.exchange
        moved = sum(
            counter[site, kind]
            for counter in (exchange.to_sites, exchange.from_sites)
            for site in names
            for kind in ("judge", "judgement")
        )
        a_step = moved / len(names) / coordinator.step_number
    return {
        "bytes of a site a step": a_step,
        "s": {
            name: {"least": min(each), "median": statistics.median(each), "steps": len(each)}
            for name, each in taken.items()
        },
    }  # fmt: skip
