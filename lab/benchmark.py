"""Scale and speed, measured on this machine.

    python -m lab.benchmark OUT [PART ...] [--cores 0] [--document FILE]

Measures all parts, or the ones named: sites, federation, links (Linux, as root), recipes, cores,
starts and cases. Each is written into lab/results/performance.json once it is measured; then the
tables of docs/performance.md are written anew. OUT/PART is deleted first. Ratios are of
one run, in which what is compared takes turns or follows at once. CPU seconds hardly depend on
what else the machine does, wall clock does: so the load of the machine stands beside each part.

What a part needs is imported in it: a process that measures imports this module too.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "lab/results/performance.json"
DOCUMENT = ROOT / "docs/performance.md"
PIXELS = (64, 128, 256)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that is called in a new process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(function, *arguments).result()


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Has this process, and those that it starts, compute on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def phantoms(out: Path, size: int) -> Path:
    """Phantoms of two sites in this size."""
    from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms

    write_phantoms(out, size=size, sites=DEFAULT_SITES[:2], patients_scale=0.1)
    return out


def sites(out: Path) -> Any:
    """A coordinator's memory and time by the number of sites, up to a thousand."""
    from lab.experiments import scale

    data = phantoms(out / "data", 64)
    default = [*scale.SMALL, "image.size=64"]
    return {
        "default": [apart(scale.coordinator, data, n, 1, default) for n in (2, 16, 64)],
        "turns": apart(scale.coordinator, data, 1000, 100, scale.TINY, True),
        "all": [apart(scale.coordinator, data, n, 1, scale.TINY) for n in (100, 1000)],
    }


def federation(out: Path) -> Any:
    """What sites of a federation take on this machine, all of them."""
    from lab.experiments import scale

    data = phantoms(out / "data", 64)
    return [apart(scale.federation, out / str(n), data, n) for n in (2, 4, 8)]


def over_links(out: Path) -> Any:
    """Seconds of a step over links, of tiny networks and of `default`."""
    from lab.experiments import links

    data = phantoms(out / "data", 64)
    default = ["image.size=64", "masks.source=own", "training.precision=float32"]
    every = [*links.LINKS]
    some, tiny = [every[0], every[-1], links.SLOW], [*default, *links.TINY]
    return {
        "tiny": apart(links.of_links, out / "tiny", data, tiny, every, 5, 4),
        "default": apart(links.of_links, out / "default", data, default, some, 3, 4),
    }


def recipes(out: Path) -> Any:
    """The parts of a step of each recipe, and the machine's peak."""
    from lab.experiments import steps

    data = {size: phantoms(out / str(size), size) for size in PIXELS}
    return {
        "peak": apart(steps.peak),
        "rows": [
            apart(steps.of_recipe, data[size], name, size, 3 if size == PIXELS[0] else 1)
            for name in steps.RECIPES
            for size in PIXELS
        ],
    }


def cores(out: Path) -> Any:
    """A step on one core and on two, in turns."""
    from lab.experiments import steps

    data, found = phantoms(out / "data", 64), []
    every = sorted(range(os.cpu_count() or 1))[:2]
    for name, sites in (("default", 2), ("default", 4), ("demo", 4), ("masks", 4)):
        for number in (1, 2, 1, 2):
            with on_cores({*every[:number]}):
                found.append({"cores": number, **apart(steps.seconds, data, name, sites, 6)})
    return found


def started(out: Path) -> Any:
    """Seconds of commands, and of a training's start."""
    from lab.experiments import starts

    return {"commands": starts.commands(), "training": starts.second_start(out, 1000)}


def cases(out: Path) -> Any:
    """Memory of a site by its number of cases; the second time, from its store."""
    from asyndgan.export.writing import write_dataset
    from lab.experiments import starts

    found = []
    for count in (100, 1000, 10000):
        write_dataset(
            out / str(count), starts.pictures(count, 128), modalities="RGB",
            labels={"background": 0, "disc": 1}, name="site",
        )  # fmt: skip
        first, second = (apart(starts.site, out / str(count)) for _ in range(2))
        found.append({"first": first, "second": second})
    return found


PARTS = {
    "sites": sites, "federation": federation, "links": over_links, "recipes": recipes,
    "cores": cores, "starts": started, "cases": cases,
}  # fmt: skip


def measured(part: str, out: Path) -> dict[str, Any]:
    """A part's figures, and how busy the machine was."""
    shutil.rmtree(out, ignore_errors=True)
    before, begun = os.getloadavg()[0], time.monotonic()
    found = PARTS[part](out)
    return {
        "found": found, "took s": round(time.monotonic() - begun),
        "load before and after": [round(before, 1), round(os.getloadavg()[0], 1)],
        "cores": len(os.sched_getaffinity(0)),
        "about": f"{processor()}; asyndgan {version('asyndgan')}, torch {version('torch')}, "
        f"Python {platform.python_version()}",
    }  # fmt: skip


def processor() -> str:
    """Name of the processor, with the number of its cores."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return platform.processor()


def main(words: Sequence[str] | None = None) -> None:
    """Measures the parts, then writes results and tables."""
    from asyndgan.texts import replace_text
    from lab.evidence import replace_block
    from lab.performance import estimate, tables_of

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    asked = parser.parse_args(words)
    if unknown := {*asked.parts} - {*PARTS}:
        parser.error(f"no part is called {', '.join(sorted(unknown))}: name some of {[*PARTS]}.")
    for part in asked.parts or PARTS:
        found = measured(part, asked.out.resolve() / part)
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known[part] = found
        if {"links", "recipes"} <= {*known}:
            known["estimate"] = estimate(known)
        replace_text(RESULTS, json.dumps(known, indent=1))
    text = asked.document.read_text("utf-8")
    for name, block in tables_of(json.loads(RESULTS.read_text())).items():
        text = replace_block(text, name, block)
    replace_text(asked.document, text)


if __name__ == "__main__":
    main()
