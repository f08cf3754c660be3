"""What a malicious coordinator can reconstruct of real images, compared with what it sees anyway.

    python -m lab.experiments.reconstruction --data DATA --out OUT
        [--document docs/results/reconstruction.md]
    python -m lab.experiments.reconstruction --data DATA --out OUT --set NAME --run RUN

First, bisection of `paper` (with its paired term) and of `default`, each trained briefly on
lgg_mri at 64 pixels. The coordinator has one batch of a site judged repeatedly by telling the site
that the run is at an earlier step. Each round of questions narrows the range of a pixel to about a
32nd. Attacks start from the first step and from a checkpoint. The table gives, as peak
signal-to-noise ratio in decibels (higher is closer to the patient's real image): the
reconstruction; what comes of the coordinator's own painting if it follows the site's feedback for
60 questions; and another image of the same mask, which the coordinator paints itself.

Second, attacks on `default` without bisection, by a coordinator that knows the initial
discriminators, as it does if a policy says `allows.known_start`. It computes a site's first step
for many real images to recognise those that the site has, and searches by gradient descent for
images that explain the answer.

With `--run`, bisection alone tries a finished training on one set.
"""

from functools import partial
from pathlib import Path
from statistics import fmean

import torch

from asyndgan.auditing.pixel_attacks import psnr
from asyndgan.auditing.reconstruction import asked_again, painted_for, read_pixels
from asyndgan.engines import SiteSetup
from asyndgan.privacy import SIMULATION, Policy
from asyndgan.privacy.policy import AllowsSection
from asyndgan.runs import RunFolder, load_recipe
from asyndgan.wire.codec import through
from lab.experiments.common import (
    arguments,
    digest_of,
    markdown,
    publish,
    remembered,
    sites_of,
    trained,
)
from lab.experiments.rehearsal import Rehearsal, inverted

SET = "lgg_mri"
MODELS = {
    "paper": ("training.steps=300", "training.checkpoint_every=100"),
    "default": ("training.steps=1000", "training.checkpoint_every=200"),
}
VERSION = 2
"""Goes up when an attack changes, so that no stored result of the earlier one is taken."""
OTHERS = 40
"""Number of other batches among which the true one is to be recognised."""
AT = ("image.size=64", "training.precision=bfloat16", "masks.source=own")


def read_at(run: RunFolder, data: Path, name: str, *, late: bool) -> dict[str, float]:
    """Bisection of one site's batch, from the state of its first step or of a checkpoint."""
    tried = read_pixels(run, SiteSetup(name, data, run.site_state(name)), late=late)
    return {key: fmean(getattr(tried, key)) for key in ("read", "followed", "painted")}


def asked_once(
    run: RunFolder, data: Path, name: str, *, known_start: bool, overrides: tuple[str, ...] = ()
) -> dict[str, float]:
    """What one answer to the first step reveals to an attacker who can compute that step."""
    recipe = load_recipe("default", [*AT, *MODELS["default"], *overrides])
    policy = Policy(
        allows=AllowsSection(known_start=known_start, unmeasured=True), leaves=SIMULATION.leaves
    )
    setup = SiteSetup(name, data, run.site_state(name))
    with asked_again(run, recipe, setup, late=False, policy=policy) as (site, ask):
        batches = [site.draws.batch(k, recipe.training.batch) for k in range(1 + OTHERS)]
        real = batches[0].images
        random = torch.Generator().manual_seed(0)
        sent = through(torch.rand(real.shape, generator=random) * 2 - 1, recipe.wire.images)
        answer = ask(sent)
    halves = batches[0].halves if recipe.discriminator.cross_fitted else None
    rehearsal = Rehearsal(recipe, name, ask.card, sent, halves)
    gaps = [float(rehearsal.mismatch(batch.images, answer).detach()) for batch in batches]
    painted = painted_for(run, name, ask.card, batches[0])
    found = inverted(rehearsal, answer, painted)
    return {
        "truth": gaps[0],
        "others": min(gaps[1:]),
        "painted": psnr(painted, real),
        "read": psnr(found, real),
    }


def first_steps(run: RunFolder, sites: dict[str, Path], out: Path) -> str:
    """The table of `asked_once`."""
    exact = (
        "wire.feedback=float32", "wire.images=float32", "training.batch=1",
        "training.precision=float32",
    )  # fmt: skip
    kinds: dict[str, tuple[bool, tuple[str, ...]]] = {
        "known, float32, batch of one": (True, exact),
        "known, default wire and batch": (True, ()),
        "the site's own (default policy)": (False, ()),
    }
    rows = []
    for kind, (known, overrides) in kinds.items():
        found = [
            remembered(
                out / "read.json",
                f"{kind}-{name}",
                partial(asked_once, run, data, name, known_start=known, overrides=overrides),
                of=[run.recipe().digest(), VERSION, digest_of(data)],
            )
            for name, data in sites.items()
        ]
        recognised = sum(one["truth"] < one["others"] for one in found)
        ranges = [
            f"{min(values):.{digits}f} to {max(values):.{digits}f}"
            for key, digits in (("truth", 3), ("others", 3), ("painted", 1), ("read", 1))
            for values in [[one[key] for one in found]]
        ]
        rows.append([kind, f"{recognised} of {len(found)}", *ranges])
    heading = ["initial discriminator", "recognised", "mismatch of the true images",
               "least of others", "painted anyway (dB)", "after descent (dB)"]  # fmt: skip
    about = f"One answer of each site's first step; {OTHERS} other batches of the same site."
    return f"{about}\n\n{markdown(heading, rows)}"


def bisected(runs: dict[str, RunFolder], sites: dict[str, Path], out: Path) -> str:
    """The table of `read_at`."""
    rows = []
    for model, run in runs.items():
        for late in (False, True):
            found = [
                remembered(
                    out / "read.json",
                    f"{model}-{name}-{late}",
                    partial(read_at, run, sites[name], name, late=late),
                    of=[run.recipe().digest(), VERSION, digest_of(sites[name])],
                )
                for name in sites
            ]
            cells = [
                f"{min(values):.1f} to {max(values):.1f}"
                for key in ("read", "followed", "painted")
                for values in [[one[key] for one in found]]
            ]
            rows.append([model, "of a checkpoint" if late else "of the first step", *cells])
    heading = ["recipe", "state", "read (dB)", "followed (dB)", "painted anyway (dB)"]
    about = f"Worst to best of {len(sites)} sites, one batch each."
    return f"{about}\n\n{markdown(heading, rows)}"


def main() -> None:
    """Runs the missing trainings and attacks, then prints and writes the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--set", default=SET, help="folder of the set that RUN learned from")
    parser.add_argument("--run", type=Path, help="finished run, in place of short trainings")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.run:
        run = RunFolder(asked.run)
        sites = {name: asked.data / asked.set / name for name in run.facts().sites}
        table = bisected({run.recipe().name: run}, sites, asked.out)
        publish(table, f"reconstruction-{asked.set}", asked.document)
        return
    sites = sites_of(asked.data, SET)
    runs = {}
    for model, overrides in MODELS.items():
        recipe = load_recipe("paper" if model == "paper" else "default", [*AT, *overrides])
        runs[model] = trained(recipe, sites, asked.out / model)
    table = bisected(runs, sites, asked.out)
    table += f"\n\n{first_steps(runs['default'], sites, asked.out)}"
    publish(table, "reconstruction", asked.document)


if __name__ == "__main__":
    main()
