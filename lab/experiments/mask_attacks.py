"""Membership inference by masks: who holds masks tells whose they are.

    python -m lab.experiments.mask_attacks --data DATA --out OUT [--document FILE]

The attacks `mask` and `picture` of an audit, on three sets of masks: the members'
own, moved as a site moves them; masks that a generator learned from the members; and masks of
strangers, of whom nobody is compared. Phantoms have ten or forty members and as many others at
each of four sites, at 32 pixels; gliomas are split into thirds, at 64 pixels, and no generator
learns their
masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from asyndgan.arrays import Mask
from asyndgan.auditing.masks import mask_scores
from asyndgan.auditing.membership import attack
from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.intake.dataset import DataSet
from asyndgan.painting.synthesise import released_masks, synthesise
from asyndgan.recipe import ImageSection
from asyndgan.runs import load_recipe
from asyndgan.store import Case
from asyndgan.store.moves import LIKE_PATIENTS, moved
from asyndgan.store.splits import held_out_by
from lab.experiments.common import arguments, markdown, publish, sites_of, trained

SIZES = {"phantoms": 32, "lgg_mri": 64}
"""Pixels a side."""

DRAWN = 500
"""Masks that are painted, as by `asyndgan train` of so few cases."""

MEMBERS = (10, 40)
"""Members of each phantom site, beside as many others."""


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
    name: str, members: Sequence[Case], others: Sequence[Case], held: Mapping[str, Sequence[Mask]]
) -> list[list[object]]:
    """A row for each set of masks and attack."""
    rows: list[list[object]] = []
    patients = [dict.fromkeys(case.patient for case in group) for group in (members, others)]
    for masks, scores in zip(held, mask_scores(members, others, *held.values()), strict=True):
        for by, own in scores.items():
            found = attack(by, *(np.array([own[one] for one in group]) for group in patients))
            p = f"{found.p_value:.3f}" if found.p_value >= 0.001 else "< 0.001"
            rows.append(
                [name, masks, len(held[masks]), by, f"{found.auc:.3f}",
                 f"{found.low:.3f} to {found.high:.3f}", p, f"{found.members}, {found.others}"]
            )  # fmt: skip
    return rows


def phantoms(out: Path, number: int) -> list[list[object]]:
    """Rows of phantoms, so many members a site, after the training of a generator of masks."""
    size = SIZES["phantoms"]
    own = [replace(site, patients=2 * number) for site in DEFAULT_SITES]
    for place, seed in (("phantoms", 0), ("strangers", 9)):
        if not (out / place).exists():
            write_phantoms(out / place, size=size, sites=own, seed=seed)
    sites = sites_of(out, "phantoms")
    recipe = load_recipe("masks", [f"image.size={size}", "training.hold_out=0.5"])
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
    return rows_of(f"phantoms, {number} a site", members, others, held)


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
    return rows_of("lgg_mri", members, others, held)


def main() -> None:
    """Trains what is missing, and writes the table."""
    asked = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    heading = ["set", "masks", "number", "attack", "AUC", "95 % interval", "p", "members, others"]
    rows = [row for number in MEMBERS for row in phantoms(asked.out / str(number), number)]
    rows += gliomas(asked.data)
    publish(markdown(heading, rows), "mask-attacks", asked.document)


if __name__ == "__main__":
    main()
