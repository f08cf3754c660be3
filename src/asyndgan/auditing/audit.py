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
from types import MappingProxyType
from typing import Any, Final, final

import numpy as np
from matplotlib.figure import Figure
from pydantic import StrictBool

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Mask
from asyndgan.auditing.copies import NearCopies, check_once, near_copies
from asyndgan.auditing.distances import least, painting_gaps, relative_distances
from asyndgan.auditing.groups import Groups, Sites, compare_groups, in_same_mix, sites_of
from asyndgan.auditing.masks import mask_scores
from asyndgan.auditing.membership import ATTACKS, Attack, attack, holm, patient_scores
from asyndgan.auditing.reconstruction import PixelsRead
from asyndgan.auditing.schema import Whole
from asyndgan.auditing.sites import SitesGuessed, guess_sites
from asyndgan.auditing.work import Work
from asyndgan.errors import DataError
from asyndgan.judging.bench import write_whole
from asyndgan.painting.fading import AS_PAINTED, Fading
from asyndgan.painting.pictures import as_png
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
class Compared:
    """Membership attacks on two groups of patients.

    Attributes:
        groups: how the groups differ apart from membership.
        attacks: the attacks, on which a release depends.
    """

    groups: Groups
    attacks: list[Attack]

    def __post_init__(self) -> None:
        members, others = (sum(of.values()) for of in (self.groups.members, self.groups.others))
        for one in self.attacks:
            if one.name not in ATTACKS:
                raise ValueError("an attack that is not known")
            if one.members != members or others not in (0, one.others):
                raise ValueError("an attack on other patients than those of the groups")


@final
@dataclass(frozen=True)
class Audit:
    """Result of an audit.

    Attributes:
        groups: how the patients that `attacks` compare differ apart from membership.
        attacks: membership attacks, on which a release depends.
        whole: the same of all patients, if `attacks` compare only those in the same mix of
            hospitals, since the others are of another one; a release depends on it as well.
        copies: search for near copies of members, on which it depends as well.
        sites: guesses of patients' sites; None if the generator has no looks
            (`generator.style = 0`) or there are patients of fewer than two sites.
        uncompared: sites of the run whose members were not compared with the others.
        given: whether the others were given, rather than held out by the run.
        own_masks: number of the members' different masks from which the set was painted, as they
            are, mirrored, shifted, or moved as the run kept them.
        kept: membership attacks on the masks that the run's folder holds, which its coordinator
            received or gave; empty if there are none, or the set was painted from them. No release
            depends on it.
    """

    groups: Groups
    attacks: list[Attack]
    whole: Compared | None
    copies: NearCopies
    sites: SitesGuessed | None
    uncompared: list[SiteName]
    given: StrictBool = True
    own_masks: Whole = 0
    kept: list[Attack] = field(default_factory=list)

    def __post_init__(self) -> None:
        Compared(self.groups, self.attacks)  # raises if they contradict each other
        Compared(self.groups, self.kept)
        if self.copies.members != sum(self.every.groups.members.values()):
            raise ValueError("copies of other members than those of the groups")

    @property
    def every(self) -> Compared:
        """The comparison of all patients."""
        return self.whole or Compared(self.groups, self.attacks)


@final
@dataclass(frozen=True)
class Audited:
    """Subject of an audit, stored with the findings.

    Attributes:
        masks: digest of the masks that the set was painted from.
        source: description of where these masks came from.
        fading: labels that the set shows more or less clearly.
        confirmed: sites whose own state confirms that the run was trained on the members.
        pixels: what a coordinator reads of their images.
        canaries: start of the names of both groups, if they are only patients put in on purpose.
        folders: the site whose data a folder holds, by the folder's name.
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

    Args:
        run: the run under audit.
        members: cases of patients named `site/patient` that the run was trained on.
        others: cases of patients of the same hospitals that it was not trained on. Where they are
            of another mix of hospitals, patients in the same mix are compared if there are enough.
        synthetic: the synthetic set to be released.
        out: folder for `audit.json` and `nearest.png`; the latter shows real images, so keep it at
            the site.
        audited: what is known of the set and the members.
        work: is told of each attack and of each painting.

    Raises:
        DataError: a group has fewer than two patients, or two patients have the same image.
    """
    for name, cases in (("members", members), ("others", others)):
        if len({case.patient for case in cases}) < 2:
            raise DataError(f"an audit needs two patients at least among the {name}.")
    real, work, audited = [*members, *others], work or Work(), audited or Audited()
    check_once(real)
    work.begin("attack: who took part, and at which site?")
    gaps = painting_gaps(run, real, work)
    kept = _kept_masks(run)
    shown = shapes_of(case.mask for case in synthetic)
    further = [] if shapes_of(kept) <= shown else kept
    scores = patient_scores(run, real, synthetic, gaps)
    by_kept: Scores = {}
    if run.recipe().condition.kind == "mask":
        by_masks, by_kept = mask_scores(members, others, [case.mask for case in synthetic], further)
        scores |= by_masks

    def told(scores: Scores) -> tuple[Compared, Compared | None]:
        return compare(scores, members, others, run.facts().sites, audited.folders)

    compared, whole = told(scores)
    work.begin("attack: are there copies of patients?")
    apart = relative_distances(real, synthetic)
    of_members, of_others = apart[: len(members)], apart[len(members) :]
    copies = near_copies(least(members, of_members), least(others, of_others))
    trial = trial_of(run.facts(), run.recipe())
    # Patients whom a site itself held out have its name.
    given = any("/" not in case.patient for case in others)
    found = Audit(
        compared.groups,
        compared.attacks,
        whole,
        copies,
        guess_sites(run, real, gaps),
        sorted(set(run.facts().sites) - set(audited_sites(members))) if given else [],
        given,
        len(_shapes_of_members(run, members, kept) & shown),
        told(by_kept)[0].attacks if further else [],
    )  # fmt: skip
    tables = _tables(run, members, found, audited, trial)
    near = of_members.min(dim=1)
    closest = near.values.argsort()[:6].tolist()
    pairs = [(members[index], synthetic[int(near.indices[index])]) for index in closest]
    write_whole(out / NEAREST_FILE, _picture(pairs, decided(found.copies.verdict, trial)))
    write_whole(out / AUDIT_FILE, json.dumps(without_nan(tables), indent=1).encode())
    return found


def _kept_masks(run: RunFolder) -> list[Mask]:
    """Masks in the run's folder: such as sites released, or such as it was given."""
    paints = run.recipe().condition.kind == "mask"
    return [mask for _, mask in released_masks(run)] if paints and run.masks.is_dir() else []


def _shapes_of_members(run: RunFolder, members: Sequence[Case], kept: Sequence[Mask]) -> set[str]:
    """Of their masks, as the audited data has them and as the run kept them, which are moved."""
    own = kept if run.recipe().sends_own_masks else ()
    return shapes_of(chain((case.mask for case in members), own))


def compare(
    scores: Scores,
    members: Sequence[Case],
    others: Sequence[Case],
    sites: Collection[str],
    folders: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Compared, Compared | None]:
    """Tells members from others, of the same mix of hospitals where there are enough such patients.

    Args:
        scores: score of each patient, by attack.
        members: cases of members, whose patients are named `site/patient`.
        others: cases of other patients.
        sites: names of the run's sites.
        folders: as in `sites_of`.

    Returns:
        The comparison that decides, and that of all patients if it is another one.
    """
    known = sites_of(members, others, sites, folders)
    whole = _compared(scores, members, others, known)
    chosen = in_same_mix(*known) if whole.groups.other_mix else None
    if chosen is None:
        return whole, None
    ours, theirs = (
        [case for case in group if case.patient in names]
        for group, names in zip((members, others), chosen, strict=True)
    )
    return _compared(scores, ours, theirs, known), whole


def _compared(
    scores: Scores, members: Sequence[Case], others: Sequence[Case], known: tuple[Sites, Sites]
) -> Compared:
    """Attacks by their scores of patients, with what else tells the groups apart."""
    groups = compare_groups(members, others, known)
    patients = [dict.fromkeys(case.patient for case in group) for group in (members, others)]
    attacks = [
        attack(name, *(np.array([own[patient] for patient in group]) for group in patients))
        for name, own in scores.items()
    ]
    corrected = holm([one.p_value for one in attacks])
    return Compared(
        groups,
        [
            replace(one, corrected=value, explained=groups.may_explain(one.low))
            for one, value in zip(attacks, corrected, strict=True)
        ],
    )


def _tables(
    run: RunFolder, members: Sequence[Case], found: Audit, audited: Audited, trial: str
) -> dict[str, Any]:
    """The content of `audit.json`; `read_audit` reads it."""
    return {
        "generator_sha256": run.generator_digest(),
        "trial": trial,
        "masks": audited.source,
        "masks_sha256": audited.masks,
        "own_masks": found.own_masks,
        "given": found.given,
        "fading": audited.fading.told(),
        "painting_version": PAINTING_VERSION,
        "modalities": list(members[0].modalities),
        "canaries": audited.canaries,
        "confirmed": {site: site in audited.confirmed for site in audited_sites(members)},
        "uncompared": found.uncompared,
        **_told(Compared(found.groups, found.attacks), trial),
        "kept": _told(Compared(found.groups, found.kept), trial)["attacks"],
        "whole": found.whole and _told(found.whole, trial),
        "copies": {**asdict(found.copies), "verdict": decided(found.copies.verdict, trial)},
        "sites": found.sites and {**asdict(found.sites), "verdict": found.sites.verdict},
        "pixels": [{**asdict(one), "verdict": one.verdict} for one in audited.pixels],
    }


def _told(compared: Compared, trial: str) -> dict[str, Any]:
    return {
        "groups": {**asdict(compared.groups), "verdict": compared.groups.verdict},
        "attacks": [
            {**asdict(one), "verdict": decided(one.verdict, trial)} for one in compared.attacks
        ],
    }


def decided(verdict: str, trial: str) -> str:
    """A verdict on what the generator reveals; of a trial run it raises no alarm.

    Args:
        verdict: begins with capitals if it is an alarm.
        trial: that the run is a trial (`trial_of`); empty if it is none.
    """
    alarm = re.match(r"[A-Z]{2,}(?: [A-Z]{2,})*", verdict)
    if not (trial and alarm):
        return verdict
    return f"of a trial run, which decides nothing: {alarm[0].lower()}{verdict[alarm.end() :]}"


def of_canaries(cases: Sequence[Case], start: str) -> list[Case]:
    """Cases of patients whose names, without their site's, start so.

    Raises:
        DataError: there are fewer than two such patients.
    """
    check_canaries((case.patient for case in cases), start)
    return [case for case in cases if case.patient.rpartition("/")[2].startswith(start)]


def check_canaries(patients: Iterable[str], start: str, *, least: int = 2) -> None:
    """Raises `DataError` if fewer names of patients, without their site's, start so."""
    names = set(patients)
    if sum(name.rpartition("/")[2].startswith(start) for name in names) < least:
        raise DataError(
            "an audit needs two patients at least of each group, and among "
            f"{counted(len(names), 'patient')} the names of fewer than {least} start with "
            f"'{start}'. Put more in on purpose, or correct --canaries."
        )


def audited_sites(members: Sequence[Case]) -> list[str]:
    """Sites of members, whose patients are named `site/patient`."""
    return sorted({case.patient.partition("/")[0] for case in members})


def _picture(pairs: Sequence[tuple[Case, Case]], caption: str) -> bytes:
    """Members' images above the synthetic images nearest to them, the nearest pair first."""
    figure = Figure(figsize=(1.5 * len(pairs) + 0.4, 3.2), layout="constrained")
    grid = figure.subplots(2, len(pairs), squeeze=False)
    for column, pair in zip(grid.T, pairs, strict=True):
        for panel, case in zip(column, pair, strict=True):
            panel.imshow(case.image[0].numpy(), cmap="gray", vmin=IMAGE_LOW, vmax=IMAGE_HIGH)
            panel.set_xticks([])
            panel.set_yticks([])
    for line, name in zip(grid, ("real", "nearest synthetic"), strict=True):
        line[0].set_ylabel(name)
    figure.suptitle(fill(caption, 14 * len(pairs)), fontsize=8)
    return as_png(figure)
