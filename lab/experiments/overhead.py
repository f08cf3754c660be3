"""Overhead of the network per step: milliseconds and bytes, at 128 pixels and four sites.

    python -m lab.experiments.overhead --out OUT [--document FILE]

The engines take turns, step by step, within one run of this script: `inprocess`, where the sites
compute in threads, and `processes` and `flare`, where they compute in separate processes on the
same cores. With a tiny generator and tiny discriminators, a step consists of little but transport,
and it moves as many bytes as with large networks.
"""

import json
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines import SiteSetup, build_engine
from asyndgan.protocol import Exchange, Transport
from asyndgan.recipe import Recipe
from asyndgan.runs import load_recipe
from asyndgan.training import Coordinator
from asyndgan.wire.codec import raw_size
from lab.experiments.common import MADE_ANEW, arguments, emptied, markdown, publish

ENGINES = ("inprocess", "processes", "flare")
NETWORKS = {
    "tiny": [
        "generator.width=8", "generator.blocks=1",
        "discriminator.width=8", "discriminator.layers=2",
    ],
    "default": [],
}  # fmt: skip
OF_CODING = {
    "float32": (0, 4),
    "float16": (4, 2),
    "uint8": (0, 1),
    "int8": (4, 1),
    "int4": (4, 0.5),
}
"""Bytes per image and per value of an image (docs/architecture.md, "The wire")."""


def formula(recipe: Recipe) -> float:
    """Bytes per site and step without headers: images to the site, feedback and masks back."""
    pixels, batch = math.prod(recipe.image.size), recipe.training.batch
    values = 3 * pixels
    images, feedback = (OF_CODING[coding] for coding in (recipe.wire.images, recipe.wire.feedback))
    coded = sum(image + value * values for image, value in (images, feedback))
    return batch * (coded + pixels)


def before_zstd(payload: bytes) -> int:
    """Bytes that a message would have if its arrays were not compressed."""
    header = 8 + int.from_bytes(payload[4:8], "little")
    arrays = json.loads(payload[8:header])["arrays"].values()
    return header + sum(raw_size(tuple(array["shape"]), array["coding"]) for array in arrays)


class Counted(Transport):
    """Wraps a transport and counts the bytes that it carries, before and after compression."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.raw = self.sent = 0

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """Forwards the message, counts the bytes and returns the answer."""
        answer = self.inner.send(site, payload, timeout)
        self.raw += before_zstd(payload) + before_zstd(answer)
        self.sent += len(payload) + len(answer)
        return answer

    def sites(self) -> tuple[str, ...]:
        """The sites of the wrapped transport."""
        return self.inner.sites()

    def close(self) -> None:
        """Closes the wrapped transport."""
        self.inner.close()


@contextmanager
def running(recipe: Recipe, data: Path, out: Path) -> Iterator[dict[str, Coordinator]]:
    """A coordinator for each engine, ready for its first step."""
    with ExitStack() as ends:
        coordinators = {}
        for engine in ENGINES:
            setups = [
                SiteSetup(s.name, data / s.name, out / engine / s.name) for s in DEFAULT_SITES
            ]
            transport = Counted(build_engine(engine, setups, recipe))
            ends.callback(transport.close)
            exchange = Exchange(transport, recipe)
            ends.callback(exchange.close)
            coordinators[engine] = Coordinator.begin(recipe, exchange, run="0be4")
        yield coordinators


def main() -> None:
    """Measures, then prints and writes the tables."""
    parser = arguments(__doc__, data=False, out=MADE_ANEW)
    parser.add_argument("--steps", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    out = emptied(asked.out)
    write_phantoms(out / "data", size=128, patients_scale=0.2)
    times, moved = [], []
    for name, overrides in NETWORKS.items():
        recipe = load_recipe("default", ["image.size=128", "masks.source=own", *overrides])
        with running(recipe, out / "data", out / name) as coordinators:
            taken: dict[str, list[float]] = {engine: [] for engine in ENGINES}
            for _ in range(asked.steps if name == "tiny" else asked.steps // 4):
                for engine, coordinator in coordinators.items():
                    begun = time.perf_counter()
                    coordinator.step()
                    taken[engine].append(1000 * (time.perf_counter() - begun))
            base = statistics.median(taken["inprocess"][1:])
            for engine, of_steps in taken.items():
                median = statistics.median(of_steps[1:])
                times.append([name, engine, f"{median:.0f}", f"{median - base:+.0f}"])
            if name == "tiny":
                over = coordinators["flare"]
                counted = over.roster.exchange.transport
                assert isinstance(counted, Counted)
                before = counted.sent, counted.raw
                for _ in range(asked.steps):
                    over.step()
                sent, raw = (
                    (now - then) / asked.steps / len(DEFAULT_SITES)
                    for now, then in zip((counted.sent, counted.raw), before, strict=True)
                )
                wanted = formula(recipe)
                moved = [
                    ["formula, without headers", f"{wanted:,.0f}", ""],
                    ["protocol, before zstd", f"{raw:,.0f}", f"{raw / wanted:.4f} of the formula"],
                    ["protocol", f"{sent:,.0f}", f"{sent / wanted:.4f} of the formula"],
                ]
    publish(
        markdown(["networks", "engine", "ms a step", "above `inprocess`"], times)
        + "\n\nBytes of a site and step, both ways, over FLARE:\n\n"
        + markdown(["counted by", "bytes", ""], moved),
        "overhead",
        asked.document,
    )


if __name__ == "__main__":
    main()
