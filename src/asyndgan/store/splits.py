"""Splits the cases of a site into parts that share no patient."""

import hashlib
import hmac
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Annotated, ClassVar, Final, Protocol, TypeVar, final

from pydantic import ConfigDict, Field

from asyndgan.errors import DataError
from asyndgan.recipe import Recipe


class OfPatient(Protocol):
    """A case of a patient, such as `asyndgan.store.prepared.Case`."""

    @property
    def patient(self) -> str:
        """Its patient."""

    @property
    def present(self) -> tuple[bool, ...]:
        """Whether it has each modality."""


OneCase = TypeVar("OneCase", bound=OfPatient)


@final
@dataclass(frozen=True)
class Chooser:
    """How a site chooses patients whom it holds out, and which of its two networks sees whom.

    Without a secret, the choice would tell a coordinator that tries several recipes whether a
    patient is there.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    # hexadecimal key of the choice; empty: everybody can compute it
    secret: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    # patients that always remain for training, also of those who have a modality
    least: Annotated[int, Field(ge=0)] = 0

    def draw(self, seed: int, patient: str) -> bytes:
        """32 pseudo-random bytes for a patient: SHA-256, or HMAC-SHA-256 with the secret."""
        text = f"{seed}:{patient}".encode("utf-8", "surrogatepass")
        if not self.secret:
            return hashlib.sha256(text).digest()
        return hmac.digest(bytes.fromhex(self.secret), text, "sha256")


DRAWS: Final = 64
"""Most draws of halves in which each half has every modality."""

RARE: Final = 3
"""Patients of a modality that some patients lack who always remain for training, if the site has so
many: with three of each, up to six modalities can always be divided so that each half has all."""

MOST_FOLDS: Final = 20

OPEN = Chooser()


def split_patients(
    patients: Sequence[str], parts: Mapping[str, float], seed: int, chooser: Chooser = OPEN
) -> dict[str, list[int]]:
    """Splits cases, by the patient of each, into parts that share no patient.

    The order is decided by seed, names and the chooser's secret alone. `parts`: name of each to its
    fraction of the cases, as near as whole patients allow.

    Returns:
        Part to the indices of its cases, ascending. A part with a fraction above 0 has a patient.

    Raises:
        DataError: there are fewer patients than parts to fill.
    """
    cases: dict[str, list[int]] = {}
    for index, patient in enumerate(patients):
        cases.setdefault(patient, []).append(index)
    filled = [part for part, fraction in parts.items() if fraction > 0]
    if len(cases) < len(filled):
        raise DataError(
            f"{len(cases)} patients cannot fill {len(filled)} parts ({', '.join(filled)}) without "
            "sharing one. Ask for fewer parts, or check the pattern that finds patients in names."
        )
    split: dict[str, list[int]] = {part: [] for part in parts}
    for place, patient in enumerate(sorted(cases, key=lambda name: chooser.draw(seed, name))):
        empty = filled[place:]  # the first patients fill one part each
        # Then those go where the fewest cases are, relative to the part's fraction.
        part = empty[0] if empty else min(filled, key=lambda one: len(split[one]) / parts[one])
        split[part] += cases[patient]
    return {part: sorted(indices) for part, indices in split.items()}


def halves_of(
    patients: Sequence[str],
    chooser: Chooser = OPEN,
    present: Sequence[Sequence[bool]] | None = None,
) -> list[int]:
    """The half, 0 or 1, of each case: patients in two of about equally many; 0 for one patient.

    With `present`, whether each case has each modality, they are the first of `DRAWS` draws in
    which each half has every modality; if there is none, the first draw.
    """
    if len(set(patients)) < 2:
        return [0] * len(patients)
    first = _drawn(patients, 0, chooser)
    # No draw can give both halves what a single patient has.
    if not present or any(len(group) == 1 for group in _groups(patients, present)):
        return first
    further = (_drawn(patients, seed, chooser) for seed in range(1, DRAWS))
    return next((own for own in chain([first], further) if not one_sided(present, own)), first)


def _drawn(patients: Sequence[str], seed: int, chooser: Chooser) -> list[int]:
    parts = split_patients(patients, {"first": 0.5, "second": 0.5}, seed, chooser)
    second = set(parts["second"])
    return [int(case in second) for case in range(len(patients))]


def _groups(patients: Sequence[str], present: Sequence[Sequence[bool]]) -> list[set[str]]:
    """The patients who have each modality."""
    return [
        {patient for patient, own in zip(patients, present, strict=True) if own[place]}
        for place in range(len(present[0]) if present else 0)
    ]


def one_sided(present: Sequence[Sequence[bool]], halves: Sequence[int]) -> list[int]:
    """Places of the modalities of which one half has no case while the other has some."""
    held = {
        (half, place)
        for own, half in zip(present, halves, strict=True)
        for place, has in enumerate(own)
        if has
    }
    return [
        place
        for place in range(len(present[0]) if present else 0)
        if ((0, place) in held) != ((1, place) in held)
    ]


def hold_out_of(
    cases: Sequence[OneCase],
    *,
    part: float,
    seed: int = 0,
    alone: bool = False,
    chooser: Chooser = OPEN,
) -> tuple[list[OneCase], list[OneCase]]:
    """Splits one site's cases into remaining and held-out ones: a `part` of them, below 1.

    At least `chooser.least` patients remain, also of those who have one of the modalities and,
    where the choice is secret, `RARE` of those who have one that others lack: whether enough do,
    and in both halves, depends on the site alone and not on `part`, if `least` is 3 or more. If
    nobody else can be held out, one who can be spared is.

    If `alone`, each patient is chosen independently with probability `part`, and only `least`
    remain: differential privacy requires it.

    With a `part` of 1 / n (n up to `MOST_FOLDS`), n seeds from a multiple of n choose each patient
    of a site with at least n once; the chooser may spare some of them.
    """
    if not part:
        return list(cases), []
    patients = [case.patient for case in cases]
    folds = math.floor(min(MOST_FOLDS, 1 / part + 1e-9))
    seed, fold = divmod(seed, folds)
    if alone:
        at = {name: int.from_bytes(chooser.draw(seed, name)[:8]) / 2**64 for name in patients}
        held = {name for name in patients if fold * part <= at[name] < (fold + 1) * part}
    else:
        held = _fold(patients, part, fold, folds, seed, chooser)
    in_order = sorted(set(patients), key=lambda name: chooser.draw(seed, name))
    least = []
    for group in (set(patients), *_groups(patients, [case.present for case in cases])):
        rare = RARE if chooser.secret and not alone and len(group) < len(in_order) else 0
        least.append((group, min(max(chooser.least, rare), len(group))))
    for group, most in least:
        chosen = group & held
        spared = most - len(group - chosen)
        held -= set([name for name in in_order if name in chosen][: max(0, spared)])
    if not alone and not held and len(in_order) > 1:
        spare = (
            name for name in in_order if all(len(group - {name}) >= most for group, most in least)
        )
        held = set(islice(spare, 1))
    return [case for case in cases if case.patient not in held], [
        case for case in cases if case.patient in held
    ]


def _fold(
    patients: Sequence[str], part: float, fold: int, folds: int, seed: int, chooser: Chooser
) -> set[str]:
    """The patients of one fold: its share of those whom the folds before leave; none of one."""
    rest = list(patients) if len(set(patients)) > 1 else []
    whole = folds * part > 1 - 1e-9  # then every patient is in a fold
    held: set[str] = set()
    for before in range(fold + 1):
        share = part / (1 - before * part)
        if not rest or (before and (share > 1 - 1e-9 or len(set(rest)) == 1)):
            held, rest = set(rest), []
            continue
        split = split_patients(rest, {"rest": 1 - share, "fold": share}, seed, chooser)
        held = {rest[index] for index in split["fold"]}
        # Somebody with most of the cases must not leave later folds without patients.
        later = folds - before - 1 if whole else 0
        short = max(0, min(later - len(set(rest) - held), len(held) - 1))
        held -= set(sorted(held, key=lambda name: chooser.draw(seed, name))[len(held) - short :])
        rest = [name for name in rest if name not in held]
    return held


def held_out_by(
    recipe: Recipe, cases: Sequence[OneCase], chooser: Chooser = OPEN
) -> tuple[list[OneCase], list[OneCase]]:
    """Splits one site's cases into those a recipe trains on and those it holds out."""
    training = recipe.training
    return hold_out_of(
        cases,
        part=training.hold_out,
        seed=training.hold_out_seed,
        alone=recipe.privacy.kind != "none",
        chooser=chooser,
    )
