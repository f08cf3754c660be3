"""What masks that generators learned look like and are worth, beside the patients' masks.

    python -m lab.experiments.masks RUN ... --site FOLDER ... [--painter PAINTER] --out OUT
                                    [--document FILE]

RUNs are finished runs of the recipe `masks` at the same sites; of runs that are named alike but for
a seed behind a dash (`shipped-0`, `shipped-1`), one row is made. The KID is of masks drawn in fixed
colours, so it sees shapes and places as in images; that of patients is of two halves of them.
PAINTER, a run of images, paints from patients' masks and from those of each RUN. Networks that
learn from what it paints are judged on the patients that all runs held out.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
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
from asyndgan.models.budgets import SegmentationBudget
from asyndgan.painting.sets import MOVED, masks_of
from asyndgan.painting.synthesise import synthesise
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.runs.mask_learning import painted_masks
from asyndgan.store import Case
from asyndgan.store.splits import held_out_by
from asyndgan.training.segmentation import budget_for
from lab.diagnosis import components
from lab.experiments.common import arguments, markdown, publish
from lab.kid import features, kid, thousandths

PATIENTS = "patients"
PAINTED = 1500
"""Masks to paint from, the same number of every kind; each is painted as it is and moved twice."""

COMPARED = 1500
"""Masks whose principal components are counted."""

COLOURS = torch.tensor([[0, 0, 0], [90, 100, 140], [60, 200, 230], [250, 170, 40], [255, 0, 0]])


def drawn(masks: Tensor) -> Tensor:
    """Label maps (n, rows, columns) as pictures (n, 3, rows, columns) in [-1, 1]."""
    return (COLOURS[masks % len(COLOURS)].movedim(-1, 1) / 127.5 - 1).contiguous()


def shapes(masks: Tensor, label: int) -> list[str]:
    """Of one label: part of the masks with it, area (10, 50, 90 %), pieces, part at the edge."""
    places = masks == label
    own = places[places.flatten(1).any(1)]
    if not len(own):
        return ["0.00", "-", "-", "-"]
    edges = torch.cat([own[:, [0, -1]].flatten(1), own[:, :, [0, -1]].flatten(1)], 1).any(1)
    pieces = [ndimage.label(one)[1] for one in own.numpy()]
    areas = np.percentile(own.flatten(1).sum(1), [10, 50, 90])
    return [
        f"{len(own) / len(masks):.2f}", ", ".join(f"{area:.0f}" for area in areas),
        f"{sum(pieces) / len(pieces):.1f}", f"{edges.float().mean():.2f}",
    ]  # fmt: skip


def attacked(painted: Tensor, members: Sequence[Case], others: Sequence[Case], labels: int) -> str:
    """AUC of telling members by how near the nearest painted mask is, over patients."""

    def small(maps: Tensor) -> Tensor:
        told = F.one_hot(maps, labels).movedim(-1, 1).float()
        return F.interpolate(told, size=(SIDE, SIDE), mode="area")

    found = small(painted)

    def scores(part: Sequence[Case]) -> NDArray[np.float64]:
        cases = [case for case in part if case.mask.any()]
        near = -pairwise(small(torch.stack([case.mask for case in cases])), found).amin(1)
        return np.array([float(mean) for mean in by_patient(cases, near).values()])

    told = attack("nearest", scores(members), scores(others))
    return f"{told.auc:.3f} ({told.low:.3f} to {told.high:.3f})"


def parts_of(recipe: Recipe, sites: Mapping[str, Path]) -> tuple[list[Case], list[Case]]:
    """Cases of the patients that taught, and of those that were held out."""
    parts = [held_out_by(recipe, DataSet(site).cases(recipe.image)) for site in sites.values()]
    members, others = zip(*parts, strict=True)
    return [case for part in members for case in part], [case for part in others for case in part]


def looks(
    sets: Mapping[str, Sequence[Mask]],
    members: Sequence[Case],
    others: Sequence[Case],
    labels: Mapping[str, int],
) -> str:
    """A row of the patients' masks, and one of each other set's."""
    real = torch.stack([case.mask for case in members])
    mixed = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    known = features(drawn(real))
    rows = []
    for name, masks in {PATIENTS: [*real], **sets}.items():
        order = torch.randperm(len(masks), generator=torch.Generator().manual_seed(7)).tolist()
        maps = torch.stack([masks[place] for place in order])
        own = name == PATIENTS
        apart = (
            kid(known[mixed[::2]], known[mixed[1::2]]) if own else kid(known, features(drawn(maps)))
        )
        told = F.one_hot(maps[:COMPARED], 1 + max(labels.values())).float()
        member = "" if own or not others else attacked(maps, members, others, told.shape[-1])
        cells = [cell for number in labels.values() for cell in shapes(maps, number)]
        rows.append(
            [name, f"{len(maps):,}", thousandths(apart), f"{components(told):.0f}", member, *cells]
        )
    kinds = ("masks with it", "pixels (10, 50, 90 %)", "pieces", "at the edge")
    heading = ["masks", "number", "KID x 1000", "components", "AUC of membership"]
    return markdown([*heading, *(f"{name}: {kind}" for name in labels for kind in kinds)], rows)


def painted(run: RunFolder, masks: Sequence[tuple[str, Mask]]) -> list[Case]:
    """Synthetic cases of some of the masks that have a label, drawn by chance."""
    kept = [one for one in masks if one[1].any()]
    chosen = torch.randperm(len(kept), generator=torch.Generator().manual_seed(7))[:PAINTED]
    named = [kept[place] for place in chosen.tolist()]
    return [*synthesise(run, named), *synthesise(run, named, draws=MOVED, seed=1, move=True)]


def worth(
    painter: RunFolder,
    sets: Mapping[str, Sequence[tuple[str, Mask]]],
    sites: Mapping[str, Path],
    out: Path,
) -> str:
    """Dice of networks that learned from what a run paints of each set of masks."""
    recipe, facts = painter.recipe(), painter.facts()
    data = {name: DataSet(folder) for name, folder in sites.items()}
    real, held = load_real(data, None, recipe, modalities=facts.modalities, labels=facts.labels)
    judged = Judged(held, {name: int(n) for n, name in facts.labels.items()}, kind="validation")
    pooled = [case for cases in real.values() for case in cases]
    bench = Bench(out, budget_for(recipe, SegmentationBudget()), workers=1)
    sources = {PATIENTS: masks_of(real), **sets}
    contenders = {REAL_ALL: pooled, **{name: painted(painter, sources[name]) for name in sources}}
    found: dict[str, dict[str, ScoreArray]] = {}
    for name, cases in contenders.items():
        found[name] = bench.scores({name: [cases]}, judged).scores[name]
    families = {
        name: list(group) for name, group in groupby(found, key=lambda name: family(name, sets))
    }
    rows = []
    for name, group in families.items():
        cells: list[str] = [name, f"{len(contenders[group[0]]):,}"]
        for label in judged.names():
            own = np.concatenate([found[one][label] for one in group])
            row = row_of(name, label, len(held), own, found[REAL_ALL][label])
            cells.append(f"{row.dice_mean:.3f} ({row.dice_least:.3f} to {row.dice_most:.3f})")
            cells.append(f"{row.ratio:.3f} ({row.ratio_low:.3f} to {row.ratio_high:.3f})")
        rows.append(cells)
    heading = ["masks", "cases"]
    heading += [part for label in judged.names() for part in (f"{label} (of seeds)", "of all-real")]
    told = (
        f"Judged on {len({case.patient for case in held})} held-out patients, one segmentation "
        "network of each set; intervals of 95 % from a BCa bootstrap over patients."
    )
    return f"{markdown(heading, rows)}\n\n{told}"


def family(name: str, runs: Iterable[str]) -> str:
    """The name of a run without its seed."""
    before, _, seed = name.rpartition("-")
    return before if name in runs and seed.isdigit() else name


def main() -> None:
    """Paints what is missing, and writes the tables."""
    parser = arguments(__doc__, data=False)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--site", type=Path, action="append", required=True)
    parser.add_argument("--painter", type=Path, help="a run of images at the same sites")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    runs = [RunFolder(path) for path in asked.runs]
    recipe, facts = runs[0].recipe(), runs[0].facts()
    sites = {site.name: site for site in asked.site}
    sets = {run.path.name: DataSet(painted_masks(run)).masks(recipe.image) for run in runs}
    labels = {name: int(number) for number, name in facts.labels.items() if int(number)}
    alone = {name: [mask for _, mask in masks] for name, masks in sets.items()}
    blocks = [looks(alone, *parts_of(recipe, sites), labels)]
    if asked.painter:
        blocks.append(worth(RunFolder(asked.painter), sets, sites, asked.out))
    publish("\n\n".join(blocks), "masks", asked.document)


if __name__ == "__main__":
    main()
