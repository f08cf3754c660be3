"""Splits the cases of a site into parts that share no patient."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from asyndgan.data.case import Case
from asyndgan.errors import DataError
from asyndgan.recipe import Recipe


def split_patients(
    patients: Sequence[str], parts: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Splits cases into parts, keeping each patient's cases together.

    The order in which patients are assigned depends only on `seed` and their names, not on the
    machine, a library's version or the order of the cases.

    Args:
        patients: patient of each case; equal strings are the same patient.
        parts: name of each part to the fraction of the cases it should get, as near as whole
            patients allow; the fractions sum to 1.
        seed: seed of the order.

    Returns:
        Part to the indices of its cases, ascending. A part with a fraction above 0 has at least one
        patient; a part with fraction 0 is empty.

    Raises:
        DataError: a fraction is negative, the fractions do not sum to 1, or there are fewer
            patients than parts to fill.
    """
    if any(not fraction >= 0 for fraction in parts.values()):
        raise DataError(f"a part has a negative fraction: {dict(parts)}. Write 0 or more.")
    if not math.isclose(sum(parts.values()), 1, abs_tol=1e-6):
        raise DataError(
            f"the fractions of {', '.join(parts) or 'no part'} sum to {sum(parts.values()):g}. "
            "Make them sum to 1."
        )
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
    for place, patient in enumerate(sorted(cases, key=lambda name: _draw(seed, name))):
        empty = filled[place:]  # the first patients fill one part each
        part = empty[0] if empty else _shortest(split, parts, filled)
        split[part] += cases[patient]
    return {part: sorted(indices) for part, indices in split.items()}


def hold_out(
    sites: Mapping[str, Sequence[Case]], *, part: float, seed: int = 0, alone: bool = False
) -> tuple[dict[str, list[Case]], list[Case]]:
    """Holds out some of each site's patients for validation.

    Args:
        sites: cases of each site, by the site's name.
        part: fraction of each site's cases to hold out, as near as whole patients allow; above 0,
            below 1.
        seed: seed of the choice of patients.
        alone: choose each patient independently of the others, as differential privacy requires;
            `part` is then the probability of each patient and is met only on average.

    Returns:
        The sites' remaining cases, and the held-out cases of all sites. In the latter, the site's
        name precedes the patient's, since two sites may use one name for two patients. Unless
        `alone`, a site with a single patient holds none out.

    Raises:
        DataError: no patient is held out: every site has only one, or `alone` chose none.
    """
    training: dict[str, list[Case]] = {}
    held_out: list[Case] = []
    for site, cases in sites.items():
        training[site], own = hold_out_of(cases, part=part, seed=seed, alone=alone)
        held_out += [replace(case, patient=f"{site}/{case.patient}") for case in own]
    if not held_out:
        raise DataError(
            "no site has a second patient, so none can be held out. Judge on test patients."
        )
    return training, held_out


def hold_out_of(
    cases: Sequence[Case], *, part: float, seed: int = 0, alone: bool = False
) -> tuple[list[Case], list[Case]]:
    """Splits one site's cases into remaining and held-out ones, as `hold_out` does.

    A `part` of 0 holds none out.
    """
    patients = [case.patient for case in cases]
    if alone:
        held = [_share(seed, patient) < part for patient in patients]
        return [case for case, out in zip(cases, held, strict=True) if not out], [
            case for case, out in zip(cases, held, strict=True) if out
        ]
    if not part or len(set(patients)) < 2:
        return list(cases), []
    split = split_patients(patients, {"training": 1 - part, "validation": part}, seed)
    return [cases[index] for index in split["training"]], [
        cases[index] for index in split["validation"]
    ]


def held_out_by(recipe: Recipe, cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
    """Splits one site's cases into those a recipe trains on and those it holds out.

    Under differential privacy each patient is chosen independently; otherwise one patient's
    presence would move others in or out.
    """
    training = recipe.training
    return hold_out_of(
        cases,
        part=training.hold_out,
        seed=training.hold_out_seed,
        alone=recipe.privacy.kind != "none",
    )


def _draw(seed: int, patient: str) -> bytes:
    return hashlib.sha256(f"{seed}:{patient}".encode("utf-8", "surrogatepass")).digest()


def _share(seed: int, patient: str) -> float:
    """A pseudo-random number in [0, 1) that depends only on the seed and the patient's name."""
    return int.from_bytes(_draw(seed, patient)[:8], "big") / 2**64


def _shortest(
    split: Mapping[str, Sequence[int]], parts: Mapping[str, float], filled: Sequence[str]
) -> str:
    """The part with the fewest cases relative to its fraction."""
    return min(filled, key=lambda part: len(split[part]) / parts[part])
