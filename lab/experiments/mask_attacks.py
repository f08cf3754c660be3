"""Membership inference by masks: who holds masks tells whose they are.

    python -m lab.experiments.mask_attacks --data DATA --out OUT [--document FILE]

The attacks `mask` and `picture` of an audit, on three sets of masks: the members'
own, moved as a site moves them; masks that a generator learned from the members; and masks of
strangers, of whom nobody is compared. Phantoms have ten or forty members and as many others at
each of four sites, at 32 pixels; of ten members a site other people are drawn, and masks learned
anew, for each of `SEEDS`. Gliomas are split into thirds, at 64 pixels, and no generator learns
their masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata

from asyndgan.arrays import Mask
from asyndgan.auditing.masks import mask_scores
from asyndgan.auditing.membership import attack
from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.intake.dataset import DataSet
from asyndgan.painting.synthesise import released_masks, synthesise
from asyndgan.recipe import ImageSection
from asyndgan.runs import load_recipe
from asyndgan.store import Case
from asyndgan.store.augmentation import LIKE_PATIENTS, moved
from asyndgan.store.splits import held_out_by
from lab.experiments.common import arguments, markdown, publish, sites_of, trained

SIZES = {"phantoms": 32, "lgg_mri": 64}
"""Pixels a side."""

DRAWN = 500
"""Masks that are painted, as by `asyndgan train` of so few cases."""

SEEDS = {10: 4, 40: 1}
"""Trainings, by the members of each phantom site, beside as many others."""

Held = Mapping[str, Sequence[Mask]]


def cases_of(sites: dict[str, Path], size: int) -> dict[str, list[Case]]:
    """Each site's cases."""
    image = ImageSection(size=(size, size))
    return {site: DataSet(data).cases(image) for site, data in sites.items()}


def named(site: str, cases: Sequence[Case]) -> list[Case]:
    """The cases, whose patients are named `site/patient`."""
    return [replace(case, patient=f"{site}/{case.patient}") for case in cases]


def moved_once(cases: Sequence[Case]) -> list[Mask]:
    """The cases' masks, mirrored and moved at random."""
    masks = torch.stack([case.mask for case in cases])
    random = torch.Generator().manual_seed(0)
    how = replace(LIKE_PATIENTS, flips=(-1,))
    return [*moved(torch.zeros(len(masks), 1, *masks.shape[1:]), masks, how, random)[1]]


def rows_of(
    name: str, splits: Sequence[tuple[Sequence[Case], Sequence[Case], Held]]
) -> list[list[object]]:
    """A row for each set of masks and attack, over all splits; scores are ranks within a split."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for members, others, held in splits:
        groups = [dict.fromkeys(case.patient for case in group) for group in (members, others)]
        for masks, scores in zip(held, mask_scores(members, others, *held.values()), strict=True):
            for by, own in scores.items():
                ranks = rankdata([own[one] for group in groups for one in group]).tolist()
                sides = found.setdefault((masks, by), [[], []])
                sides[0] += ranks[: len(groups[0])]
                sides[1] += ranks[len(groups[0]) :]
    rows: list[list[object]] = []
    for (masks, by), sides in found.items():
        told = attack(by, *map(np.array, sides))
        number = sum(len(held[masks]) for _, _, held in splits)
        p = f"{told.p_value:.3f}" if told.p_value >= 0.001 else "< 0.001"
        rows.append(
            [name, masks, number, by, f"{told.auc:.3f}", f"{told.low:.3f} to {told.high:.3f}", p,
             f"{told.members}, {told.others}"]
        )  # fmt: skip
    return rows


def phantoms(out: Path, number: int, seed: int) -> tuple[list[Case], list[Case], Held]:
    """Members, others and masks of phantoms, after the training of a generator of masks."""
    size = SIZES["phantoms"]
    own = [replace(site, patients=2 * number) for site in DEFAULT_SITES]
    for place, drawn in (("phantoms", seed), ("strangers", 9 + seed)):
        if not (out / place).exists():
            write_phantoms(out / place, size=size, sites=own, seed=drawn)
    sites = sites_of(out, "phantoms")
    changes = [f"image.size={size}", "training.hold_out=0.5", f"training.seed={seed}"]
    recipe = load_recipe("masks", changes)
    run = trained(recipe, sites, out / "masks")
    parts = {site: held_out_by(recipe, cases) for site, cases in cases_of(sites, size).items()}
    members, others = (
        [case for site, groups in parts.items() for case in named(site, groups[side])]
        for side in (0, 1)
    )
    strangers = cases_of({site: out / "strangers" / site for site in sites}, size)
    unknown = [case for cases in strangers.values() for case in cases]
    learned = [case.mask for case in synthesise(run, released_masks(run), draws=DRAWN)]
    held = {
        "members' own, moved": moved_once(members),
        "learned": learned,
        "strangers', moved": moved_once(unknown),
    }
    return members, others, held


def gliomas(data: Path) -> list[list[object]]:
    """Rows of gliomas, by thirds of each site's patients."""
    parts: list[list[Case]] = [[], [], []]
    random = np.random.default_rng(0)
    for site, cases in cases_of(sites_of(data, "lgg_mri"), SIZES["lgg_mri"]).items():
        names = random.permutation(sorted({case.patient for case in cases})).tolist()
        for case in cases:
            parts[names.index(case.patient) % 3] += named(site, [case])
    members, others, strangers = parts
    held = {
        "members' own, moved": moved_once(members),
        "strangers', moved": moved_once(strangers),
    }
    return rows_of("lgg_mri", [(members, others, held)])


def main() -> None:
    """Trains what is missing, and writes the table."""
    asked = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    heading = ["set", "masks", "number", "attack", "AUC", "95 % interval", "p", "members, others"]
    rows: list[list[object]] = []
    for number, seeds in SEEDS.items():
        splits = [phantoms(asked.out / f"{number}-{seed}", number, seed) for seed in range(seeds)]
        rows += rows_of(f"phantoms, {number} a site", splits)
    rows += gliomas(asked.data)
    publish(markdown(heading, rows), "mask-attacks", asked.document)


if __name__ == "__main__":
    main()
