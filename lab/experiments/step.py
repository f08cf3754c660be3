"""Time and memory of a step, compared between variants within one run of this script.

    python -m lab.experiments.step            # prints a table
    python -m lab.experiments.step --size 128

Absolute times depend on the machine and its load; the ratios hardly do, since the variants take
turns and the medians of their rounds are compared.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from asyndgan.demo.phantoms import write_phantoms
from asyndgan.engines import SiteSetup, build_engine
from asyndgan.protocol import Exchange
from asyndgan.recipe import Recipe
from asyndgan.runs import load_recipe
from asyndgan.training import Coordinator

BASE = "default, inprocess"
VARIANTS = {
    BASE: ([], "inprocess"),
    "default, processes": ([], "processes"),
    "default, flare": ([], "flare"),
    "default, bfloat16": (["training.precision=bfloat16"], "inprocess"),
    "default, float32": (["training.precision=float32"], "inprocess"),
    "default, chunks of 4": (["training.chunk=4"], "inprocess"),
    "default, one network": (["discriminator.cross_fitted=false"], "inprocess"),
    "default, paired": (["loss.paired_l1=10"], "inprocess"),
}


def opened(recipe: Recipe, engine: str, data: Path, state: Path, ends: ExitStack) -> Coordinator:
    """A coordinator with the sites in `data`, ready for its first step, until `ends` closes it."""
    setups = [
        SiteSetup(folder.name, folder, state / folder.name)
        for folder in sorted(data.iterdir())
        if folder.name != "test"
    ]
    transport = build_engine(engine, setups, recipe)
    ends.callback(transport.close)
    exchange = Exchange(transport, recipe)
    ends.callback(exchange.close)
    return Coordinator.begin(recipe, exchange, run="be")


def peak(name: str, size: int) -> float:
    """Peak memory, in MB, of a separate process that takes five steps of one variant."""
    command = [sys.executable, "-m", "lab.experiments.step", "--size", str(size), "--peak-of", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def tell_peak(data: Path, sets: list[str]) -> None:
    """Takes five steps and prints the peak memory in MB, for `peak`."""
    with ExitStack() as ends:
        recipe, state = load_recipe("default", [*sets, "masks.source=own"]), data / ".." / "state"
        coordinator = opened(recipe, "inprocess", data, state, ends)
        for _ in range(5):
            coordinator.step()
    # `ru_maxrss` would begin with the peak of the process that started this one
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def main() -> None:
    """Measures every variant and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = f"image.size={arguments.size}"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ends:
        data = Path(folder) / "data"
        write_phantoms(data, size=arguments.size, patients_scale=0.2)
        if arguments.peak_of:
            tell_peak(data, [size, *VARIANTS[arguments.peak_of][0]])
            return
        runs = {
            name: opened(
                load_recipe("default", [size, "masks.source=own", *sets]),
                engine,
                data,
                Path(folder) / name,
                ends,
            )
            for name, (sets, engine) in VARIANTS.items()
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(arguments.rounds + 1):
            for name, coordinator in runs.items():
                begun = time.perf_counter()
                coordinator.step()
                times[name].append(time.perf_counter() - begun)
        base = statistics.median(times[BASE][1:])
        print(f"{'variant':34}{'s a step':>10}{'ratio':>8}{'peak MB':>9}")
        for name, rounds in times.items():
            median = statistics.median(rounds[1:])
            memory = peak(name, arguments.size) if VARIANTS[name][1] == "inprocess" else 0
            print(f"{name:34}{median:10.2f}{median / base:8.2f}{memory:9.0f}")


if __name__ == "__main__":
    main()
