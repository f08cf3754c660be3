"""What masks that a generator learned are worth, beside masks of patients.

    python -m lab.experiments.masks --data DATA --runs RUN ... --out OUT [--document FILE]

RUNs are finished runs of one recipe on hippocampi, of several seeds. For each one the recipe
`masks` is trained at the same sites, from the same patients, and paints as many masks as they have
slices. The RUN then paints images from patients' masks and from learned ones. Judged on the
patients that the runs held out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from asyndgan.arrays import Mask
from asyndgan.auditing.distances import SIDE, by_patient, pairwise
from asyndgan.auditing.membership import attack
from asyndgan.intake.dataset import DataSet
from asyndgan.judging.bench import Bench, Judged
from asyndgan.judging.compare import row_of
from asyndgan.judging.metrics import ScoreArray
from asyndgan.judging.real import load_real
from asyndgan.judging.table import REAL_ALL
from asyndgan.models.budget import SegmentationBudget
from asyndgan.painting.sets import MOVED, masks_of
from asyndgan.painting.synthesise import released_masks, synthesise
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.runs.recipes import recipe_text
from asyndgan.store import Case
from asyndgan.training.segmentation import budget_for
from lab.diagnosis import components
from lab.experiments.common import arguments, markdown, publish, trained

Named = list[tuple[str, Mask]]

SITES = ("site_1", "site_2", "site_3")
MASKS = 1500
"""Masks to paint from, the same for all generators; each is painted as it is and moved twice."""

COMPARED = 1500
"""Masks whose principal components are counted."""


def recipe_of(painter: Recipe) -> Recipe:
    """The recipe `masks` for the same slices and patients."""
    own = Recipe.from_toml(recipe_text("masks"))
    same = {
        key: getattr(painter.training, key) for key in ("flip", "hold_out", "hold_out_seed", "seed")
    }
    image = painter.image.model_copy(update={"source": "masks", "modalities": ()})
    training = own.training.model_copy(update=same)
    return own.model_copy(update={"image": image, "training": training})


def about(name: str, masks: Named, labels: dict[str, int]) -> list[str]:
    """How often masks hold each label, how large it is, and in how many ways they differ."""
    drawn = torch.randperm(len(masks), generator=torch.Generator().manual_seed(7)).tolist()
    maps = torch.stack([masks[place][1] for place in drawn])
    cells = [name, f"{len(maps):,}", f"{(maps > 0).flatten(1).any(1).float().mean():.2f}"]
    for number in labels.values():
        areas = (maps == number).flatten(1).sum(1)
        found = areas[areas > 0]
        low, middle, high = np.percentile(found, [10, 50, 90]) if len(found) else (0, 0, 0)
        cells += [f"{len(found) / len(maps):.2f}", f"{low:.0f}, {middle:.0f}, {high:.0f}"]
    told = F.one_hot(maps[:COMPARED], 1 + max(labels.values())).float()
    return [*cells, f"{components(told):.0f}"]


def attacked(learned: Named, members: Sequence[Case], others: Sequence[Case], labels: int) -> str:
    """AUC of telling members by how near the nearest learned mask is, over patients."""

    def small(masks: list[Mask]) -> Tensor:
        maps = F.one_hot(torch.stack(masks), labels).movedim(-1, 1).float()
        return F.interpolate(maps, size=(SIDE, SIDE), mode="area")

    found = small([mask for _, mask in learned])

    def scores(part: Sequence[Case]) -> NDArray[np.float64]:
        cases = [case for case in part if case.mask.any()]
        near = -pairwise(small([case.mask for case in cases]), found).amin(1)
        return np.array([float(mean) for mean in by_patient(cases, near).values()])

    told = attack("nearest", scores(members), scores(others))
    return f"{told.auc:.3f} ({told.low:.3f} to {told.high:.3f})"


def painted(run: RunFolder, masks: Sequence[tuple[str, Mask]]) -> list[Case]:
    """Synthetic cases of some of the masks, drawn by chance."""
    drawn = torch.randperm(len(masks), generator=torch.Generator().manual_seed(7))[:MASKS]
    named = [masks[place] for place in drawn.tolist()]
    return [*synthesise(run, named), *synthesise(run, named, draws=MOVED, seed=1, move=True)]


def table(
    scores: Mapping[str, Mapping[str, ScoreArray]], counts: Mapping[str, int], labels: Sequence[str]
) -> str:
    """The Dice of models' seeds and patients, and the ratio to all-real, which is among them."""
    rows = []
    for model, own in scores.items():
        cells = [model, f"{counts[model]:,}"]
        for label in labels:
            row = row_of(model, label, counts[model], own[label], scores[REAL_ALL][label])
            cells.append(f"{row.dice_mean:.3f} ({row.dice_least:.3f} to {row.dice_most:.3f})")
            cells.append(f"{row.ratio:.3f} ({row.ratio_low:.3f} to {row.ratio_high:.3f})")
        rows.append(cells)
    heading = ["trained on", "cases"]
    heading += [part for label in labels for part in (f"{label} (of seeds)", "of all-real")]
    return markdown(heading, rows)


def main() -> None:
    """Trains what is missing, and writes both tables."""
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    runs = [RunFolder(path) for path in asked.runs]
    recipe, facts = runs[0].recipe(), runs[0].facts()
    folders = {site: asked.data / "hippocampus_3d" / site for site in SITES}
    sites = {site: DataSet(folder) for site, folder in folders.items()}
    real, held = load_real(sites, None, recipe, modalities=facts.modalities, labels=facts.labels)
    labels = {name: int(number) for number, name in facts.labels.items()}
    judged = Judged(held, labels, kind="validation")
    shown = {name: labels[name] for name in judged.names()}
    bench = Bench(asked.out, budget_for(recipe, SegmentationBudget()), workers=1)
    own, pooled = masks_of(real), [case for cases in real.values() for case in cases]
    rows = [[*about("patients", own, shown), ""]]
    found: dict[str, list[dict[str, ScoreArray]]] = {}
    counts = {REAL_ALL: len(pooled)}

    def score(model: str, cases: Sequence[Case]) -> None:
        found.setdefault(model, []).append(bench.scores({model: [cases]}, judged).scores[model])
        counts[model] = len(cases)

    score(REAL_ALL, pooled)
    for run in runs:
        seed = run.recipe().training.seed
        learner = trained(recipe_of(run.recipe()), folders, asked.out / f"masks-{seed}")
        drawn = synthesise(learner, released_masks(learner), draws=len(own), seed=seed)
        learned: Named = [(case.name, case.mask) for case in drawn]
        told = attacked(learned, pooled, held, 1 + max(labels.values()))
        rows.append([*about(f"learned, seed {seed}", learned, shown), told])
        kept = [(name, mask) for name, mask in learned if mask.any()]
        score("synthetic: patients' masks", painted(run, own))
        score("synthetic: learned masks", painted(run, kept))
    scores = {
        model: {name: np.concatenate([one[name] for one in seeds]) for name in judged.names()}
        for model, seeds in found.items()
    }
    heading = ["masks", "number", "with a label"]
    heading += [part for name in shown for part in (f"with {name}", "pixels (10, 50, 90 %)")]
    told = (
        f"Judged on {len({case.patient for case in held})} held-out patients; {len(runs)} "
        "trainings of both generators, one segmentation network of each set; intervals of 95 % "
        "from a BCa bootstrap over patients."
    )
    block = markdown([*heading, "components", "AUC of membership"], rows)
    publish(
        f"{block}\n\n{told}\n\n{table(scores, counts, judged.names())}", "masks", asked.document
    )


if __name__ == "__main__":
    main()
