"""How long commands take to start, and what a site's cases take in memory."""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asyndgan.engines import SiteSetup, load_cohort
from asyndgan.export.writing import write_dataset
from asyndgan.runs import load_recipe
from asyndgan.store.case import RawCase
from lab.experiments.scale import memory

ASYNDGAN = str(Path(sys.executable).with_name("asyndgan"))
PAIR = 2
"""Cases of one patient."""


def seconds_of(command: Sequence[str], rounds: int = 1) -> dict[str, float]:
    """Least wall clock and least CPU seconds of a command."""
    walls, own = [], []
    for _ in range(rounds):
        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        walls.append(time.monotonic() - begun)
        own.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"s": min(walls), "CPU s": min(own)}


def commands(rounds: int = 10) -> dict[str, dict[str, float]]:
    """Seconds of a bare interpreter, of an import, and of `--help`."""
    return {
        "`python -c pass`": seconds_of([sys.executable, "-c", "pass"], rounds),
        "`import asyndgan`": seconds_of([sys.executable, "-c", "import asyndgan"], rounds),
        "`asyndgan --help`": seconds_of([ASYNDGAN, "--help"], rounds),
    }


def pictures(count: int, side: int) -> Iterator[RawCase]:
    """Cases of three channels: a bright disc, its label, and a ramp that differs by case."""
    rows, columns = np.mgrid[:side, :side]
    for number in range(count):
        turn = 2 * np.pi * number / count
        middle = side / 2 + side / 5 * np.array([np.sin(turn), np.cos(turn)])
        disc = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < (side / 6) ** 2
        ramp = (rows + number) % 128 + 60 * disc
        channels = {name: (ramp + shift) % 256 for shift, name in enumerate("RGB")}
        patient = f"p{number // PAIR:05}"
        yield RawCase(f"{patient}_{number % PAIR}", patient, channels, disc.astype(np.int64))


def second_start(out: Path, cases: int) -> dict[str, Any]:
    """Seconds of `asyndgan train` with one tiny step, the first and the second time."""
    write_dataset(
        out / "site", pictures(cases, 64), modalities="RGB",
        labels={"background": 0, "disc": 1}, name="site",
    )  # fmt: skip
    sets = [
        "image.size=64", "masks.source=own", "training.steps=1", "training.precision=float32",
        "generator.width=8", "discriminator.width=8", "training.batch=1",
    ]  # fmt: skip
    found = {}
    for time_of_all in ("first", "second", "third"):
        command = [ASYNDGAN, "train", "demo", "--site", f"site={out / 'site'}", "--out"]
        command += [str(out / time_of_all), "--threads", "1"]
        found[time_of_all] = seconds_of([*command, *(w for key in sets for w in ("--set", key))])
    return {"cases": cases, **found}


def site(folder: Path) -> dict[str, float]:
    """MB of this process once it holds a site's cases, and has drawn batches of them."""
    torch.set_num_threads(1)
    recipe = load_recipe("default", ["image.size=128", "masks.source=own"])
    before, begun, own = memory(kind="RssAnon"), time.monotonic(), time.process_time()
    cohort = load_cohort(SiteSetup("site", folder, folder), recipe)
    cohort.members  # noqa: B018  (a site's digest reads all that is mapped)
    taken = {"s": time.monotonic() - begun, "CPU s": time.process_time() - own}
    for number in range(20):
        cohort.batch(number, 2)
    return {
        "cases": len(cohort), "MB before": before, "MB of its own": memory(kind="RssAnon"),
        "MB mapped": memory(kind="RssFile"), **taken,
    }  # fmt: skip
