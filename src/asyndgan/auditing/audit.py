"""Audit of what a run's generator and synthetic images reveal about its training patients.

What a coordinator reads of real images during training is the matter of `reconstruction`.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from textwrap import fill
from typing import Final, final

import numpy as np
from matplotlib.figure import Figure
from pydantic import StrictBool

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW
from asyndgan.auditing.copies import NearCopies, check_once, near_copies
from asyndgan.auditing.distances import least, painting_gaps, relative_distances
from asyndgan.auditing.groups import Groups, Sites, compare_groups, sites_of
from asyndgan.auditing.masks import mask_scores
from asyndgan.auditing.membership import ATTACKS, Attack, attack, holm, patient_scores
from asyndgan.auditing.reconstruction import PixelsRead
from asyndgan.auditing.schema import Whole
from asyndgan.errors import DataError
from asyndgan.judging.bench import write_whole
from asyndgan.judging.work import Work
from asyndgan.painting.fading import AS_PAINTED, Fading
from asyndgan.painting.pictures import as_png, flat
from asyndgan.painting.synthesise import PAINTING_VERSION, released_masks, shapes_of
from asyndgan.runs import RunFolder
from asyndgan.runs.trial import trial_of
from asyndgan.store import Case
from asyndgan.texts import SiteName, counted, without_nan

AUDIT_FILE: Final = "audit.json"
"""Name of the file in an audit's folder that holds its numbers, and no image."""

NEAREST_FILE: Final = "nearest.png"
"""Name of the picture of members beside the synthetic images nearest to them."""


Scores = Mapping[str, Mapping[str, float]]
"""Score of each patient, by attack; higher: member."""


@final
@dataclass(frozen=True)
class Audit:
    """Result of an audit.

    Attributes:
        groups: how the groups differ apart from membership.
        attacks: membership attacks, on which a release depends.
        copies: search for near copies of members, on which it depends as well.
        uncompared: sites of the run whose members were not compared with the others.
        given: whether the others were given, rather than held out by the run.
        own_masks: number of the members' different masks from which the set was painted, as they
            are, mirrored, shifted, or moved as the run kept them.
    """

    groups: Groups
    attacks: list[Attack]
    copies: NearCopies
    uncompared: list[SiteName]
    given: StrictBool = True
    own_masks: Whole = 0

    def __post_init__(self) -> None:
        members, others = (sum(of.values()) for of in (self.groups.members, self.groups.others))
        for one in self.attacks:
            if one.name not in ATTACKS:
                raise ValueError("an attack that is not known")
            if one.members != members or others not in (0, one.others):
                raise ValueError("an attack on other patients than those of the groups")
        if self.copies.members != members:
            raise ValueError("copies of other members than those of the groups")


@final
@dataclass(frozen=True)
class Audited:
    """Subject of an audit, stored with the findings; attributes as in `AuditRecord`.

    `folders` has the site whose data a folder holds, by the folder's name.
    """

    masks: str = ""
    source: str = ""
    fading: Fading = AS_PAINTED
    confirmed: Collection[str] = ()
    pixels: Sequence[PixelsRead] = ()
    canaries: str = ""
    folders: Mapping[str, str] = field(default_factory=dict)


def audit(
    run: RunFolder,
    members: Sequence[Case],
    others: Sequence[Case],
    synthetic: Sequence[Case],
    out: Path,
    audited: Audited | None = None,
    work: Work | None = None,
) -> Audit:
    """Attacks a finished run with real images of members and of others.

    Members are cases of patients named `site/patient`, others of patients of the same hospitals.
    `out` gets `audit.json`, and `nearest.png` with real images. `work` is told of each painting.
    Raises `DataError` if two patients have the same image.
    """
    real, work, audited = [*members, *others], work or Work(), audited or Audited()
    check_once(real)
    work.begin("attack: who took part?")
    gaps = painting_gaps(run, real, work)
    shown, recipe = [case.mask for case in synthetic], run.recipe()
    scores = patient_scores(run, real, synthetic, gaps)
    if recipe.condition.kind == "mask":
        scores |= mask_scores(members, others, shown)[0]
    known = sites_of(members, others, run.facts().sites, audited.folders)
    groups, attacks = compare(scores, members, others, known)
    work.begin("attack: are there copies of patients?")
    apart = relative_distances(real, synthetic)
    of_members, of_others = apart[: len(members)], apart[len(members) :]
    copies = near_copies(least(members, of_members), least(others, of_others))
    # Patients whom a site itself held out have its name.
    given = any("/" not in case.patient for case in others)
    found = Audit(
        groups,
        attacks,
        copies,
        sorted(run.facts().sites.keys() - groups.members) if given else [],
        given,
        len(_shapes_of_members(run, members) & shapes_of(shown)),
    )  # fmt: skip
    near, trial = of_members.min(dim=1), trial_of(run.facts(), recipe)
    closest = near.values.argsort()[:6].tolist()
    pairs = [(members[index], synthetic[int(near.indices[index])]) for index in closest]
    write_whole(out / NEAREST_FILE, _picture(pairs, decided(found.copies.verdict, trial)))
    write_audit(run, out, found, audited, members[0].modalities)
    return found


def write_audit(
    run: RunFolder, out: Path, found: Audit, audited: Audited, modalities: Sequence[str]
) -> None:
    """Writes `audit.json`, which `read_audit` reads, with the names of what was compared."""
    trial, sites = trial_of(run.facts(), run.recipe()), sorted(found.groups.members)
    tables = {
        "generator_sha256": run.generator_digest(),
        "trial": trial,
        "masks": audited.source,
        "masks_sha256": audited.masks,
        "own_masks": found.own_masks,
        "given": found.given,
        "fading": audited.fading.told(),
        "painting_version": PAINTING_VERSION,
        "modalities": list(modalities),
        "canaries": audited.canaries,
        "confirmed": {site: site in audited.confirmed for site in sites},
        "uncompared": found.uncompared,
        "groups": {**asdict(found.groups), "verdict": found.groups.verdict},
        "attacks": [
            {**asdict(one), "verdict": decided(one.verdict, trial)} for one in found.attacks
        ],
        "copies": {**asdict(found.copies), "verdict": decided(found.copies.verdict, trial)},
        "pixels": [{**asdict(one), "verdict": one.verdict} for one in audited.pixels],
    }
    write_whole(out / AUDIT_FILE, json.dumps(without_nan(tables), indent=1).encode())


def _shapes_of_members(run: RunFolder, members: Sequence[Case]) -> set[str]:
    """Of their masks, as the audited data has them and as the run kept them, which are moved."""
    own = released_masks(run) if run.recipe().sends_own_masks and run.masks.is_dir() else ()
    return shapes_of(chain((case.mask for case in members), (mask for _, mask in own)))


def compare(
    scores: Scores, members: Sequence[Case], others: Sequence[Case], known: tuple[Sites, Sites]
) -> tuple[Groups, list[Attack]]:
    """Attacks by their scores of patients, with what else tells the groups apart."""
    groups = compare_groups(members, others, known)
    patients = [dict.fromkeys(case.patient for case in group) for group in (members, others)]
    attacks = [
        attack(name, *(np.array([own[patient] for patient in group]) for group in patients))
        for name, own in scores.items()
    ]
    corrected = holm([one.p_value for one in attacks])
    return groups, [
        replace(one, corrected=value, explained=groups.may_explain(one.low))
        for one, value in zip(attacks, corrected, strict=True)
    ]


def decided(verdict: str, trial: str) -> str:
    """A verdict on what the generator reveals; without its alarm if `trial` is not empty."""
    alarm = re.match(r"[A-Z]{2,}(?: [A-Z]{2,})*", verdict)
    if not (trial and alarm):
        return verdict
    return f"of a trial run, which decides nothing: {alarm[0].lower()}{verdict[alarm.end() :]}"


def check_two(group: str, patients: Iterable[str], canaries: str = "", least: int = 2) -> None:
    """Raises `DataError` if a group has fewer patients whose names start so, but for their site."""
    names = {name for name in patients if _starts_so(name, canaries)}
    if len(names) < least:
        started = f" whose names start with '{canaries}'" if canaries else ""
        raise DataError(
            f"an audit needs {least} patients at least among the {group}{started}; there "
            f"{'is' if len(names) == 1 else 'are'} {counted(len(names), 'patient')}. Name more."
        )


def of_canaries(cases: Sequence[Case], start: str) -> list[Case]:
    """Cases of patients whose names, without their site's, start so."""
    return [case for case in cases if _starts_so(case.patient, start)]


def _starts_so(patient: str, start: str) -> bool:
    return patient.rpartition("/")[2].startswith(start)


def _picture(pairs: Sequence[tuple[Case, Case]], caption: str) -> bytes:
    """Members' images above the synthetic images nearest to them, the nearest pair first."""
    figure = Figure(figsize=(1.5 * len(pairs) + 0.4, 3.2), layout="constrained")
    grid = figure.subplots(2, len(pairs), squeeze=False)
    for column, pair in zip(grid.T, pairs, strict=True):
        for panel, case in zip(column, pair, strict=True):
            panel.imshow(flat(case).image[0].numpy(), cmap="gray", vmin=IMAGE_LOW, vmax=IMAGE_HIGH)
            panel.set_xticks([])
            panel.set_yticks([])
    for line, name in zip(grid, ("real", "nearest synthetic"), strict=True):
        line[0].set_ylabel(name)
    figure.suptitle(fill(caption, 14 * len(pairs)), fontsize=8)
    return as_png(figure)
