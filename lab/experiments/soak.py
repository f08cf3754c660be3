"""Checks a long run over FLARE for leaks of memory, open files and threads.

    python -m lab.experiments.soak --out OUT [--steps 3000] [--document FILE]

Four phantom sites and a tiny generator run in a federation on this machine, with metrics,
TensorBoard and checkpoints as in any run. For each kind of process, resident memory, open files and
threads are compared between the last third of the samples and the first.
"""

import os
import statistics
from pathlib import Path

import torch

from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines import SiteSetup
from asyndgan.engines.flare.keeper import CLIENT, SERVER
from asyndgan.engines.flare.localhost import Localhost
from asyndgan.recipe import Recipe
from asyndgan.runs import Progress, RunFolder
from asyndgan.runs.train import train_over
from lab.experiments.common import MADE_ANEW, arguments, emptied, markdown, publish
from lab.experiments.faults import RECIPE, processes

EVERY = 25
SKIPPED = 0.1
"""Fraction of the steps before the first sample, in which libraries load and buffers fill."""

KINDS = {
    "coordinator": (),
    "FLARE's server": (SERVER, "federation/server"),
    "sites' clients": (CLIENT,),
    "sites' compute": ("asyndgan.engines.processes",),
}


def sample(pids: list[int]) -> tuple[float, int, int]:
    """Sums of megabytes, open files and threads over these processes."""
    memory, files, threads = 0.0, 0, 0
    for pid in pids:
        place = Path("/proc") / str(pid)
        words = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        memory += int(words["VmRSS"].split()[0]) / 1024
        threads += int(words["Threads"])
        files += len(list((place / "fd").iterdir()))
    return memory, files, threads


def main() -> None:
    """Trains and takes samples, then prints and writes the table."""
    parser = arguments(__doc__, data=False, out=MADE_ANEW)
    parser.add_argument("--steps", type=int, default=3000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    out = emptied(asked.out)
    write_phantoms(out / "data", size=32, patients_scale=0.1)
    recipe = Recipe.from_toml(RECIPE, [f"training.steps={asked.steps}"])
    setups = [SiteSetup(s.name, out / "data" / s.name, out / s.name) for s in DEFAULT_SITES]
    engine = Localhost(setups, recipe, folder=out / "flare")
    here = str(out / "flare")
    samples: dict[str, list[tuple[float, int, int]]] = {kind: [] for kind in KINDS}

    def look(progress: Progress) -> None:
        if progress.step < SKIPPED * asked.steps or progress.step % EVERY:
            return
        compute = [pid for site in engine.sites() if (pid := engine.pid(site))]
        own = {"coordinator": [os.getpid()], "sites' compute": compute}
        for kind, words in KINDS.items():
            samples[kind].append(sample(own.get(kind) or processes(*words, here)))

    try:
        folder = RunFolder.create(out / "run", recipe)
        with folder.held():
            train_over(folder, engine, sites=engine.sites(), watch=look, go_on="again")
    finally:
        engine.close()
    rows = []
    for kind, found in samples.items():
        third = len(found) // 3
        first, last = found[:third], found[-third:]
        mean = [
            [statistics.mean(one[k] for one in part) for k in range(3)] for part in (first, last)
        ]
        rows.append(
            [
                kind,
                f"{mean[0][0]:.1f} MB",
                f"{mean[1][0]:.1f} MB",
                f"{mean[1][0] / mean[0][0]:.3f}",
                f"{mean[0][1]:.1f}, {mean[1][1]:.1f}",
                f"{mean[0][2]:.1f}, {mean[1][2]:.1f}",
            ]
        )
    heading = ["processes", "first third", "last third", "ratio", "open files", "threads"]
    publish(
        f"{asked.steps} steps, four sites.\n\n{markdown(heading, rows)}", "soak", asked.document
    )


if __name__ == "__main__":
    main()
