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

MOST_SLICES: Final = 20
"""The same of pictures that look like one or two patients: more may be two hospitals'."""

_SLICED = re.compile(  # anna_slice003: the counter is said to count slices
    r"(.*[^\W_])([\W_]*(?:slice|slc|sl|frame)[\W_]*)\d+", re.IGNORECASE
)
_NUMBERED = re.compile(r"(.*\d)(\D+)\d+")  # sub01_slice_003: a numbered patient and a counter
_NAMED = re.compile(  # smith_003, smith_img3
    r"(.*[^\W\d_])([_. -]+(?:(?:img|image|im)[_. -]*)?)\d+", re.IGNORECASE
)

LEAST_NAMED: Final = 3
"""Fewest patients without a number in their names; two names may be those of two data sets."""

_DAY, _MONTH, _YEAR = "(?:0[1-9]|[12]\\d|3[01])", "(?:0[1-9]|1[0-2])", "(?:19|20)\\d\\d"
_DATE = re.compile(
    rf"(?<!\d)(?:{_YEAR}([-_.]?){_MONTH}\1{_DAY}|{_DAY}([-_.]){_MONTH}\2{_YEAR})(?!\d)"
)
_PLACE = re.compile(  # site1, centre_03: the number of a hospital or a device
    r"(?:site|hosp\w*?|cent(?:er|re)|clinic|klinik|inst\w*?|scanner|vendor|dataset|cohort|batch|group)"
    r"[\W_]*\d+[\W_]*",
    re.IGNORECASE,
)
_PERSON: Final = frozenset({"p", "pt", "pat", "patient", "sub", "subj", "subject", "case", "id"})
"""What people write before the number of a patient."""


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


def unfitting(names: Sequence[str], pattern: str) -> str:
    """What to say of a pattern that fits no name, so that each case is a patient; else nothing."""
    if not names or any(re.match(pattern, name) for name in names):
        return ""
    return (
        f"--patient-pattern {shlex.quote(pattern)} fits none of the {len(names)} names, such as "
        f"{names[0]}: each case counts as a patient"
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
    for shape in (_SLICED, _NUMBERED, _NAMED):
        matches = [match for name in names if (match := _counted(shape, name))]
        groups = Counter(match[1] for match in matches)
        several = sum(count for count in groups.values() if count > 1)
        people = {_DATE.sub("", group) for group in groups}  # a day has many patients
        if len(people) < (LEAST_NAMED if shape is _NAMED else 2) or several < 0.5 * len(names):
            continue
        most = MOST_VISITS if volumes else MOST_SLICES
        few = volumes or len(people) < LEAST_NAMED
        if shape is not _SLICED and few and len(matches) > most * len(people):
            continue
        glues = {match[2] for match in matches}
        glue = re.escape(glues.pop()) if len(glues) == 1 else r"\D+"
        proposed = f"(.+){glue}\\d+$"
        patients = len({patient_of(name, proposed) for name in names})
        if patients == len(groups) + len(names) - len(matches):
            return Joined(len(names), patients, proposed)
    return None


def _counted(shape: re.Pattern[str], name: str) -> re.Match[str] | None:
    """The match of a name that ends in a counter, and in no date and no patient's number."""
    match = shape.fullmatch(name)
    if match is None or any(date.end() == len(name) for date in _DATE.finditer(name)):
        return None
    person = re.sub(r"[\W_]", "", match[2]).lower() in _PERSON
    place = _PLACE.fullmatch(_DATE.sub("", match[1]).strip("_-. "))
    return None if person or place else match


def shared_patients(patients: Iterable[str], others: Iterable[str]) -> list[str]:
    """Those of `patients` who are among `others`; capitals do not tell two people apart."""
    known = {name.casefold() for name in others}
    return sorted(name for name in patients if name.casefold() in known)
