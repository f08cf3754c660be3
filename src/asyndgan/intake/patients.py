"""Whether case names hide that several cases are of one patient."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from string import ascii_lowercase
from typing import Final, final

from asyndgan.intake.nnunet import DEFAULT_PATIENT_PATTERN, patients_by, patients_of, same_person
from asyndgan.intake.patterns import found_in
from asyndgan.texts import counted

MOST_VISITS: Final = 10
"""Most volumes of one patient, on average, that a counter in their names is taken to count."""

MOST_SLICES: Final = 20
"""The same of pictures that look like one or two patients: more may be two hospitals'."""

_SLICED = re.compile(  # anna_slice003: the counter is said to count slices
    r"(.*[^\W_])([\W_]*(?:slice|slc|sl|frame)[\W_]*)(\d+)", re.IGNORECASE
)
_NUMBERED = re.compile(r"(.*\d)(\D+)(\d+)")  # sub01_slice_003: a numbered patient and a counter
_LETTERED = re.compile(r"(.*\d)([\W_]*)([a-z])", re.IGNORECASE)  # sub01b, 007-L
_NAMED = re.compile(  # smith_003, smith_img3
    r"(.*[^\W\d_])([_. -]+(?:(?:img|image|im)[_. -]*)?)(\d+)", re.IGNORECASE
)
_SHAPES: Final = (_SLICED, _NUMBERED, _LETTERED, _NAMED)
_TAIL = re.compile(r"(?<=\d)(?:[\W_]*of[\W_]*\d+|[)\]])$", re.IGNORECASE)  # sub01_3of12, sub01 (3)
_PICTURE = re.compile(r"[\W_]*(?:(?:img|image|im)[\W_]*)?", re.IGNORECASE)
_COHORT = re.compile(r"(?:^|\D)(?:19|20)\d\d|[^\W\d_]{3,}[12]\d")  # BraTS2021, KiTS19

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

SEVERAL: Final = 3
"""Fewest cases of which it is noted that they may be one patient's."""

LEAST_PART: Final = 0.1
"""Smallest fraction of a set's cases whose counters are noted."""

MOST_ENDS: Final = 4
"""Most ends of names that a proposed pattern lists."""


@final
@dataclass(frozen=True)
class Joined:
    """A pattern that joins cases whose names differ only in a counter at their end.

    Attributes:
        cases: number of cases.
        patients: number of patients by this pattern.
        pattern: the pattern, which serves all folders of a command; empty: none does.
        sure: whether the names fit nothing else; otherwise each case may well be a patient.
        example: name of one of the cases that it joins.
    """

    cases: int
    patients: int
    pattern: str
    sure: bool
    example: str

    def __str__(self) -> str:
        people = counted(self.patients, "patient")
        if self.sure:
            said = (
                f"{self.cases} cases look like {people}: their names differ in a counter at the "
                "end. If they do, results and audits are wrong"
            )
        else:
            said = (
                f"{self.cases} cases have names such as {self.example}. Either each is a patient, "
                f"or they are of {people} and the end of the name counts slices or visits. In the "
                "second case results and audits are wrong"
            )
        if self.pattern:
            return f"{said} without --patient-pattern {shlex.quote(self.pattern)}"
        return f"{said} until the cases of all folders are named alike, so that one pattern fits"


def people_of(names: Sequence[str]) -> dict[str, str]:
    """The patient of each case, also where names have counters that only look like patients."""
    found = joined(names, DEFAULT_PATIENT_PATTERN)
    known = found.pattern if found and found.sure else ""
    return patients_by(known or DEFAULT_PATIENT_PATTERN, names)


def unfitting(names: Sequence[str], pattern: str) -> str:
    """What to say of a pattern that fits no name, so that each case is a patient; else nothing."""
    if not names or pattern == DEFAULT_PATIENT_PATTERN:
        return ""
    if any(part is not None for part in found_in(pattern, tuple(names))):
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
        A pattern by which the names were grouped: most patients in question have several cases.
        None if `pattern` joins them already.
    """
    return joined_in([(names, volumes)], pattern)[0]


def joined_in(folders: Sequence[tuple[Sequence[str], bool]], pattern: str) -> list[Joined | None]:
    """What `joined` finds in each folder, with one pattern that serves all of them.

    Args:
        folders: of each, the names and whether its cases are volumes.
        pattern: as in `joined`.
    """
    found = [_counters(names, pattern, volumes=volumes) for names, volumes in folders]
    if not any(found):
        return [None] * len(folders)
    now = [patients_of(names, pattern) for names, _ in folders]
    both = list(zip(now, found, strict=True))
    wanted = [own | (one.heads if one else {}) for own, one in both]
    every = _fitting(wanted)
    # Cases that may well be patients stay apart, where that can be had.
    certain = _fitting([own | (one.heads if one and one.sure else {}) for own, one in both])
    return [
        Joined(
            cases=len(patients),
            patients=len({same_person(patient) for patient in patients.values()}),
            pattern=(certain or every) if one.sure else every,
            sure=one.sure,
            example=min(one.heads),
        )
        if one
        else None
        for patients, one in zip(wanted, found, strict=True)
    ]


@dataclass(frozen=True)
class _Counters:
    """The patient in each name that ends in a counter, and whether it can be nothing else."""

    heads: dict[str, str]
    sure: bool


def _counters(names: Sequence[str], pattern: str, *, volumes: bool) -> _Counters | None:
    """Finds counters in the names of patients with one case."""
    patients = patients_of(names, pattern)
    cases = Counter(patients.values())
    alone = [name for name in names if cases[patients[name]] == 1]
    least = max(2, LEAST_PART * len(names))
    found = [(shape, own) for shape in _SHAPES if len(own := _repeated(shape, alone)) >= least]
    for sure, fits in ((True, partial(_is_sure, volumes=volumes)), (False, _is_doubtful)):
        for shape, own in found:
            if fits(shape, own):
                return _Counters({name: head for name, (head, _) in own.items()}, sure)
    return None


def _repeated(shape: re.Pattern[str], names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Patient and glue in the names whose kind of end mostly counts cases of one patient."""
    found = {name: parts for name in names if (parts := _counted(shape, name))}
    letters: dict[str, set[str]] = {}
    for name, (head, _) in found.items():
        letters.setdefault(same_person(head), set()).add(name[-1].lower())
    if shape is _LETTERED:
        found = {
            name: parts
            for name, parts in found.items()
            if (own := letters[same_person(parts[0])]) == {"l", "r"}
            or own == set(ascii_lowercase[: len(own)])
        }
    cases = Counter(same_person(head) for head, _ in found.values())
    ends = Counter(glue for _, glue in found.values())
    several = Counter(glue for head, glue in found.values() if cases[same_person(head)] > 1)
    return {
        name: (head, glue)
        for name, (head, glue) in found.items()
        if several[glue] >= 0.5 * ends[glue]
    }


def _is_sure(
    shape: re.Pattern[str], found: Mapping[str, tuple[str, str]], *, volumes: bool
) -> bool:
    """Whether there are so many patients, with so few cases each, that the ends are counters."""
    people = {same_person(_DATE.sub("", head)) for head, _ in found.values()}  # a day has many
    if len(people) < (LEAST_NAMED if shape is _NAMED else 2):
        return False
    most = MOST_VISITS if volumes else MOST_SLICES
    few = volumes or len(people) < LEAST_NAMED
    return shape is _SLICED or not few or len(found) <= most * len(people)


def _is_doubtful(shape: re.Pattern[str], found: Mapping[str, tuple[str, str]]) -> bool:
    """Whether the names can be those of one or two patients' slices as well as of patients."""
    if shape is _NAMED or len(found) < SEVERAL:
        return False  # case_001 is how patients are named
    return shape is _SLICED or all(
        _PICTURE.fullmatch(glue) and _is_person(head) for head, glue in found.values()
    )


def _is_person(head: str) -> bool:
    """Whether a name's start, such as P7 or HN00, is one patient's, and no data set's (KiTS19)."""
    match = re.fullmatch(r"(?:.*[\W_])?([^\W\d_]*)[\W_]?(\d+)", _DATE.sub("", head).rstrip("_-. "))
    if match is None:
        return False
    if match[1].lower() in _PERSON:
        return True
    return len(match[2]) > 1 and not _COHORT.search(match[1] + match[2])


def _counted(shape: re.Pattern[str], name: str) -> tuple[str, str] | None:
    """Patient and glue of a name that ends in a counter, and in no date and no patient's number."""
    tail = _TAIL.search(name)
    match = shape.fullmatch(name[: tail.start()] if tail else name)
    if match is None or any(date.end() == len(name) for date in _DATE.finditer(name)):
        return None
    person = re.sub(r"[\W_]", "", match[2]).lower() in _PERSON
    place = _PLACE.fullmatch(_DATE.sub("", match[1]).strip("_-. "))
    return None if person or place else (match[1], match[2])


def _fitting(folders: Iterable[Mapping[str, str]]) -> str:
    """A pattern that finds these patients, by case name, in each of the folders; empty: none."""
    wanted = list(folders)
    rests = {
        (patient, name[len(patient) :])
        for group in wanted
        for name, patient in group.items()
        if name.startswith(patient) and name != patient
    }
    ends = sorted({_as_pattern(rest) for _, rest in rests})
    forms = sorted({_as_pattern(patient) for patient, _ in rests})
    if not ends:
        return ""
    listed = ends[0] if len(ends) == 1 else f"(?:{'|'.join(ends)})"
    few = [listed] if len(ends) <= MOST_ENDS else []
    starts = [".+", r".*\d", ".+?", *(["|".join(forms)] if len(forms) <= MOST_ENDS else [])]
    for end in (*few, r"\D+\d+"):
        for start in starts:
            proposed = f"({start}){end}$"
            if all(_same_groups(group, patients_by(proposed, group)) for group in wanted):
                return proposed
    return ""


def _as_pattern(text: str) -> str:
    """A pattern of a text and of its like with other numbers, or with another single letter."""
    letter = re.fullmatch(r"([\W_]*)[a-zA-Z]", text)
    if letter:
        return re.escape(letter[1]) + "[a-zA-Z]"
    return re.sub(r"\d+", r"\\d+", re.escape(text))


def _same_groups(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two ways to find patients join the same cases."""
    pairs = {(same_person(patient), same_person(other[name])) for name, patient in one.items()}
    return len(pairs) == len({own for own, _ in pairs}) == len({own for _, own in pairs})


def shared_patients(patients: Iterable[str], others: Iterable[str]) -> list[str]:
    """Those of `patients` who are among `others`; capitals do not tell two people apart."""
    known = {same_person(name) for name in others}
    return sorted(name for name in patients if same_person(name) in known)
