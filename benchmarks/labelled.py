"""What the sites' own labels of synthetic images are worth, beside the masks they were painted of.

    python benchmarks/labelled.py --data DATA --runs RUNS --out OUT [--document FILE]

Each site trains a segmentation network on its real images and labels all synthetic images by it.
The networks' probabilities are averaged by the sites' numbers of images; the most probable label
counts. RUNS holds the generators of the suite `search-generators` on hippocampi, three seeds each.
Judged on the patients that the runs held out: nothing here was chosen by `test`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from asyndgan.arrays import Mask
from asyndgan.data import Case
from asyndgan.data.dataset import DataSet
from asyndgan.judging.bench import Bench, Judged
from asyndgan.judging.compare import row_of
from asyndgan.judging.metrics import ScoreArray
from asyndgan.judging.real import load_real
from asyndgan.judging.table import REAL_ALL
from asyndgan.models.budget import SegmentationBudget
from asyndgan.painting.sets import MOVED, masks_of
from asyndgan.painting.synthesise import synthesise
from asyndgan.runs import RunFolder
from asyndgan.training.segmentation import budget_for, train_segmenter
from common import arguments, markdown, publish

GENERATORS = ("topdown", "default")
SEEDS = range(3)
SITES = ("site_1", "site_2", "site_3")
MASKS = 1500
"""Masks to paint from, the same for all generators; each is painted as it is and moved twice."""


@torch.no_grad()
def labelled(cases: Sequence[Case], networks: Mapping[nn.Module, float]) -> list[Case]:
    """The cases with the most probable label of these networks, each with its weight, as masks."""

    def probable(images: Tensor) -> Tensor:
        told = [weight * network(images).softmax(1) for network, weight in networks.items()]
        return torch.stack(told).sum(0).argmax(1)

    masks = [probable(part) for part in torch.stack([case.image for case in cases]).split(64)]
    return [replace(case, mask=mask) for case, mask in zip(cases, torch.cat(masks), strict=True)]


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
    """Trains what is missing, and writes the table."""
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the generators' runs")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    runs = {
        f"{name}, seed {seed}": RunFolder(asked.runs / f"{name}-{seed}")
        for name in GENERATORS
        for seed in SEEDS
    }
    first = next(iter(runs.values()))
    recipe, facts = first.recipe(), first.facts()
    sites = {site: DataSet(asked.data / "hippocampus_3d" / site) for site in SITES}
    real, held = load_real(sites, None, recipe, modalities=facts.modalities, labels=facts.labels)
    labels = {name: int(number) for number, name in facts.labels.items()}
    judged = Judged(held, labels, kind="validation")
    budget = budget_for(recipe, SegmentationBudget())
    pooled = [case for own in real.values() for case in own]
    networks = {
        train_segmenter(own, classes=max(labels.values()) + 1, budget=budget, seed=0): len(own)
        / len(pooled)
        for own in real.values()
    }
    bench = Bench(asked.out, budget, workers=1)

    def scored(model: str, cases: list[Case]) -> dict[str, ScoreArray]:
        return bench.scores({model: [cases]}, judged).scores[model]

    sets = {REAL_ALL: pooled} | {f"real: {site}": list(own) for site, own in real.items()}
    scores = {model: scored(model, own) for model, own in sets.items()}
    counts = {model: len(own) for model, own in sets.items()}
    for name in GENERATORS:
        found: dict[str, list[dict[str, ScoreArray]]] = {}
        for seed in SEEDS:
            cases = painted(runs[f"{name}, seed {seed}"], masks_of(real))
            for way, own in (("their masks", cases), ("by the sites", labelled(cases, networks))):
                model = f"{name}: {way}"
                found.setdefault(model, []).append(scored(model, own))
                counts[model] = len(own)
        for model, seeds in found.items():
            scores[model] = {
                label: np.concatenate([one[label] for one in seeds]) for label in judged.names()
            }
    about = (
        f"Judged on {len({case.patient for case in held})} held-out patients; three seeds of each "
        "generator, one segmentation network of each set; intervals of 95 % from a BCa bootstrap "
        "over patients."
    )
    publish(f"{about}\n\n{table(scores, counts, judged.names())}", "labelled", asked.document)


if __name__ == "__main__":
    main()
