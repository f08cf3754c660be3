"""What a step of a shipped recipe consists of, and how fast the machine could compute it."""

import statistics
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any, final

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from asyndgan.arrays import CPU
from asyndgan.engines import InProcess, SiteSetup, set_up
from asyndgan.protocol import Endpoint, Exchange, Transport
from asyndgan.protocol.limits import message_limit
from asyndgan.recipe import Recipe
from asyndgan.runs import load_recipe
from asyndgan.training import Coordinator
from asyndgan.training.compute import measured_threads
from asyndgan.wire.codec import Coding
from asyndgan.wire.messages import ANSWERS, REQUESTS, pack, unpack

RECIPES = ("default", "demo", "paper", "masks")
LEVELS = {64: 4, 128: 5, 256: 6}
"""`generator.levels` by pixels, as a plan sets it."""
CONVOLUTIONS = ((32, 128), (64, 64), (128, 32), (256, 16), (256, 32))
"""Channels and pixels a side of those of which the fastest is the machine's peak."""


@final
class Clock:
    """Adds up the CPU seconds that methods take in the threads that call them."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def on(self, owner: object, method: str) -> None:
        """Times a method of an object from now on."""
        inner = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            begun = time.thread_time()
            try:
                return inner(*arguments, **named)
            finally:
                self.seconds[method] += time.thread_time() - begun

        setattr(owner, method, timed)


@final
class Remembered(Transport):
    """Keeps the last request to an endpoint, and its answer."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.last = b"", b""

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """The endpoint's answer."""
        answer = self.endpoint.answer(payload)
        self.last = payload, answer
        return answer

    def sites(self) -> tuple[str, ...]:
        """The one site."""
        return ("north",)


def recipe_at(name: str, size: int) -> Recipe:
    """A shipped recipe at a size in pixels, painting from sites' own masks, in float32."""
    own = [] if name == "masks" else ["masks.source=own", f"generator.levels={LEVELS[size]}"]
    own = own[:1] if name in ("demo", "paper") else own
    return load_recipe(name, [f"image.size={size}", "training.precision=float32", *own])


def of_recipe(data: Path, name: str, size: int, steps: int) -> dict[str, Any]:
    """CPU seconds of a step's parts with one site on one thread, least of several steps; bytes."""
    torch.set_num_threads(1)
    recipe, clock, parts = recipe_at(name, size), Clock(), list[dict[str, float]]()
    endpoint = set_up(SiteSetup("north", data / "north", data / "states"), recipe)
    transport = Remembered(endpoint)
    exchange = Exchange(transport, recipe)
    coordinator = Coordinator.begin(recipe, exchange, run="57e9")
    clock.on(coordinator, "paint")
    clock.on(endpoint.handler, "handle")
    clock.on(endpoint.handler.release, "let_out")
    for _ in range(steps + 1):
        clock.seconds.clear()
        whole, own = time.process_time(), time.thread_time()
        coordinator.step()
        whole, own = time.process_time() - whole, time.thread_time() - own
        taken = clock.seconds
        judge = taken["handle"] - taken["let_out"]
        update = own - taken["paint"]
        parts.append({"paint": taken["paint"], "judge": judge, "code": whole - own - judge,
                      "update": update})  # fmt: skip
    least = {part: min(step[part] for step in parts[1:]) for part in parts[0]}
    limit, coding = message_limit(recipe), dict[str, Coding](images="float32", feedback="float32")
    asked, answer = transport.last
    plain = (
        pack(unpack(asked, REQUESTS, limit=limit), coding),
        pack(unpack(answer, ANSWERS, limit=limit), coding),
    )
    (member,) = coordinator.members.values()
    with FlopCounterMode(display=False) as counter:
        painting = coordinator.paint(coordinator.generator, {"north": member.conditions[:1]})
        painting.backward(torch.ones_like(painting.images))
    exchange.close()
    return {
        "recipe": name, "pixels": size, "batch": recipe.training.batch, "CPU s": least,
        "bytes": len(asked) + len(answer), "bytes in float32": sum(map(len, plain)),
        "generator's floating point operations": counter.get_total_flops()
        * recipe.training.batch,
    }  # fmt: skip


def peak(rounds: int = 12) -> float:
    """Floating point operations a CPU second of the fastest 3 x 3 convolution, one thread."""
    torch.set_num_threads(1)
    fastest = 0.0
    with torch.no_grad():
        for channels, side in CONVOLUTIONS:
            images = torch.rand(2, channels, side, side).contiguous(
                memory_format=torch.channels_last
            )
            weights = torch.rand(channels, channels, 3, 3)
            operations = 2 * 9 * channels**2 * side**2 * len(images)
            for _ in range(rounds):
                begun = time.thread_time()
                F.conv2d(images, weights, padding=1)
                fastest = max(fastest, operations / (time.thread_time() - begun))
    return fastest


def seconds(data: Path, name: str, sites: int, steps: int) -> dict[str, Any]:
    """Wall clock of a step of a shipped recipe at 64 pixels, as many threads as pay."""
    recipe = recipe_at(name, 64)
    names = [f"site-{number}" for number in range(sites)]
    threads = measured_threads(recipe, recipe.training.batch * len(names), "float32", CPU)
    torch.set_num_threads(threads)
    with ExitStack() as ends:
        transport = InProcess(
            {n: set_up(SiteSetup(n, data / "north", data / n), recipe) for n in names}
        )
        ends.callback(transport.close)
        exchange = Exchange(transport, recipe)
        ends.callback(exchange.close)
        coordinator, taken = Coordinator.begin(recipe, exchange, run="2c"), []
        for _ in range(steps + 1):
            begun = time.monotonic()
            coordinator.step()
            taken.append(time.monotonic() - begun)
    least, median = min(taken[1:]), statistics.median(taken[1:])
    about = {"recipe": name, "sites": sites, "threads": threads}
    return about | {"least s": least, "median s": median}
