"""Whether case names hide that several cases are of one patient."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, final

from asyndgan.data.nnunet import patient_of

MOST_VISITS: Final = 10
"""Most volumes of one patient, on average, that a counter in their names is taken to count."""

_NUMBERED = re.compile(r"(.*\d)(\D+)\d+")  # sub01_slice_003: a numbered patient and a counter
_NAMED = re.compile(r"(.*[^\W\d_])([_. -]+)\d+")  # smith_003

_COUNTED = re.compile(r"slice|slc|frame|tile|patch|crop", re.IGNORECASE)

LEAST_NAMED: Final = 3
"""Fewest patients without a number in their names; two names may be those of two data sets."""


@final
@dataclass(frozen=True)
class Joined:
    """A pattern that joins cases whose names differ only in a counter at their end.

    Attributes:
        cases: number of cases.
        patients: number of patients by this pattern.
        pattern: the pattern.
    """

    cases: int
    patients: int
    pattern: str

    def __str__(self) -> str:
        return (
            f"{self.cases} cases look like {self.patients} patients: their names differ in a "
            "counter at the end. If they do, results and audits are wrong without "
            f"--patient-pattern {shlex.quote(self.pattern)}"
        )


def joined(names: Sequence[str], pattern: str, *, volumes: bool = False) -> Joined | None:
    """The pattern that joins slices, or visits, which `pattern` takes for patients; None: none.

    Args:
        names: of the cases.
        pattern: by which patients are found so far; see `patient_of`.
        volumes: whether each case is a volume, of which a patient has few.

    Returns:
        A pattern by which the names were grouped: there are several patients, most of whom have
        several cases. None if `pattern` already joins some of them.
    """
    if len({patient_of(name, pattern) for name in names}) <= 0.9 * len(names):
        return None
    for shape in (_NUMBERED, _NAMED):
        matches = [match for name in names if (match := shape.fullmatch(name))]
        groups = Counter(match[1] for match in matches)
        several = sum(count for count in groups.values() if count > 1)
        least = LEAST_NAMED if shape is _NAMED else 2
        if matches and all(_COUNTED.search(match[2]) for match in matches):
            least = 1
        if len(groups) < least or several < 0.5 * len(names):
            continue
        if volumes and len(matches) > MOST_VISITS * len(groups):
            continue
        glues = {match[2] for match in matches}
        glue = re.escape(glues.pop()) if len(glues) == 1 else r"\D+"
        proposed = f"(.+){glue}\\d+$"
        patients = len({patient_of(name, proposed) for name in names})
        if patients == len(groups) + len(names) - len(matches):
            return Joined(len(names), patients, proposed)
    return None


def shared_patients(patients: Iterable[str], others: Iterable[str]) -> list[str]:
    """Those of `patients` who are among `others`; capitals do not tell two people apart."""
    known = {name.casefold() for name in others}
    return sorted(name for name in patients if name.casefold() in known)
