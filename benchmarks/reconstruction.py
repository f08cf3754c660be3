"""What a curious coordinator reads of real images by bisection, beside what it may see anyway.

    python benchmarks/reconstruction.py --data DATA --out OUT [--document docs/evidence.md]

Recipes `paper` (with its paired term) and `default`, trained on lgg_mri at 64 pixels for a short
while. The coordinator has one batch of a site judged again and again, by telling the site that the
run stands at an earlier step, and halves the range of every pixel with every question. Attacks
begin from the first step and from a checkpoint. The table holds, in decibels (peak signal to
noise, higher is closer to the patient's real image): what was read, the stand-in's painting that a
perfect reading would give, and another image of the same mask, which the coordinator paints itself.
"""

import shutil
import tempfile
from functools import partial
from pathlib import Path

import torch

from asyndgan.engines import SiteSetup, load_cohort
from asyndgan.evaluation.attacks import RolledBack, bisected, psnr
from asyndgan.models import site_noise
from asyndgan.protocol import Endpoint, message_limit
from asyndgan.runs import RunFolder, load_recipe
from asyndgan.training import Site, scope_maps
from asyndgan.training.checkpoint import stored_steps
from common import arguments, markdown, publish, remembered, sites_of, trained

SET = "lgg_mri"
MODELS = {
    "paper": ("training.steps=300", "training.checkpoint_every=100"),
    "default": ("training.steps=1000", "training.checkpoint_every=200"),
}
QUESTIONS = 12


def read_at(run: RunFolder, data: Path, name: str, *, late: bool) -> dict[str, float]:
    """What is read of one site's batch, by the state of its first step or of a checkpoint."""
    recipe, facts = run.recipe(), run.facts()
    state = Path(tempfile.mkdtemp())
    if late:
        for path in run.site_state(name).glob("*.safetensors"):
            shutil.copy(path, state)
    cohort = load_cohort(SiteSetup(name, data, state), recipe)
    site = Site(name, cohort, recipe, folder=state)
    limit = message_limit(recipe)
    ask = RolledBack(
        Endpoint(site, limit=limit),
        run=facts.run,
        recipe=recipe.digest(),
        step=stored_steps(state)[0] if late else 0,
        images=recipe.wire.images,
        limit=limit,
    )
    real = cohort.batch(ask.card.batch, recipe.training.batch)
    read = bisected(ask, tuple(real.images.shape), questions=QUESTIONS)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        painted = run.generator()(
            scope_maps(recipe, facts.scope, real.conditions),
            site_noise(recipe, [name] * len(real.conditions), facts.scope.space, random),
        )
    found = {"read": psnr(read, real.images), "painted": psnr(painted, real.images)}
    if site.objective.target is not None:
        found["stand_in"] = psnr(site.objective.target, real.images)
    site.release.close()
    shutil.rmtree(state)
    return found


def main() -> None:
    """Trains what is missing, prints and writes the table."""
    asked = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    rows = []
    for model, overrides in MODELS.items():
        sites = sites_of(asked.data, SET)
        recipe = load_recipe(model, ["image.size=64", "training.precision=bfloat16", *overrides])
        run = trained(recipe, sites, asked.out / model)
        for late in (False, True):
            found = [
                remembered(
                    asked.out / "read.json",
                    f"{model}-{name}-{late}",
                    partial(read_at, run, sites[name], name, late=late),
                )
                for name in sites
            ]
            cells = [
                f"{min(values):.1f} to {max(values):.1f}" if values else ""
                for key in ("read", "stand_in", "painted")
                if (values := [one[key] for one in found if key in one]) or True
            ]
            rows.append([model, "of a checkpoint" if late else "of the first step", *cells])
    heading = ["recipe", "state", "read (dB)", "stand-in's painting (dB)", "painted anyway (dB)"]
    about = f"Worst to best of the four sites of {SET}, one batch each, {QUESTIONS} questions."
    publish(f"{about}\n\n{markdown(heading, rows)}", "reconstruction", asked.document)


if __name__ == "__main__":
    main()
