"""The patient of each case, by its name, and whether names hide that several are of one patient."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from string import ascii_lowercase
from typing import Final, final

from asyndgan.errors import DataError
from asyndgan.intake import limits, reading
from asyndgan.intake.misnamed import composed
from asyndgan.intake.readers import DataFileError
from asyndgan.texts import counted

PATIENCE_S: Final = 5.0
"""How long a pattern may take for all names of a data set, in seconds."""
MOST_SHOWN: Final = 200  # letters
AT_ONCE: Final = 1000  # names


@lru_cache(8)
def found_in(pattern: str, names: tuple[str, ...]) -> list[str | None]:
    """What a pattern finds at the start of names: its first group, or all if it has no group.

    Python's matcher takes exponential time for some patterns, and cannot be stopped. So it runs in
    the process that reads files. Raises `DataError` if `pattern` is not a regular expression, or
    takes longer than `PATIENCE_S`.
    """
    asked = {"pattern": pattern, "names": names, "seconds": PATIENCE_S}
    shown, example = pattern[:MOST_SHOWN], r"Write for example '(.+)_s\d+$'."
    try:
        answers = [about for about, _ in reading.read(Path(), f"{__name__}:matched", **asked)]
    except DataFileError as error:
        raise DataError(
            f"the pattern '{shown}' takes more than {PATIENCE_S:g} s for "
            f"{counted(len(names), 'name')}. Repeat nothing that itself repeats. {example}"
        ) from error
    if wrong := "".join(about.get("wrong", "") for about in answers):
        raise DataError(
            f"the pattern '{shown}' is not a regular expression ({wrong[:MOST_SHOWN]}). {example}"
        )
    return [part for about in answers for part in about["found"]]


def matched(
    _: Path, pattern: str, names: Sequence[str], seconds: float
) -> Iterator[tuple[dict[str, object], None]]:
    """What a pattern finds in each name, for `found_in`, or why it is no regular expression."""
    limits.within(seconds)
    try:
        match = re.compile(pattern).match
    except (re.error, OverflowError, RecursionError) as error:
        yield {"wrong": f"{error}"}, None
        return
    for place in range(0, len(names), AT_ONCE):
        found = map(match, names[place : place + AT_ONCE])
        yield {"found": [m and ((m[1] if m.re.groups else m[0]) or "") for m in found]}, None


_DEFAULT: Final = r"(.+?)(?:_[sz]\d+(?:_.*)?)?$"
"""The name up to `_s<number>` or `_z<number>` (how slices are named here), else the whole name."""


def patient_of(case_name: str, pattern: str = "") -> str:
    """The patient of one case; see `patients_of`."""
    return patients_of([case_name], pattern)[case_name]


def same_person(patient: str) -> str:
    """What all spellings of a patient's name have in common: capitals tell nobody apart."""
    return composed(patient).casefold()


def patients_of(case_names: Iterable[str], pattern: str = "") -> dict[str, str]:
    """The patient of each case of a data set, by the case's name.

    Args:
        case_names: as in the file names.
        pattern: regular expression, matched from the start of the name. The patient is its first
            group, the whole match if it has no group, or the whole name if it does not match.
            Empty: the name up to `_s<number>` or `_z<number>`.

    Raises:
        DataError: `pattern` is not a regular expression, or takes too long.
    """
    names = tuple(case_names)
    if not pattern:
        return patients_by(_DEFAULT, names)
    return _spelled(dict(zip(names, found_in(pattern, names), strict=True)))


def patients_by(pattern: str, case_names: Iterable[str]) -> dict[str, str]:
    """As `patients_of`, in this process: for patterns of our own, which take no time."""
    found = {name: re.match(pattern, name) for name in case_names}
    return _spelled({name: match and match[1] for name, match in found.items()})


def _spelled(groups: Mapping[str, str | None]) -> dict[str, str]:
    """Case to patient, each of whom is spelled in one way; what no pattern found is the case."""
    found = {name: group or name for name, group in groups.items()}
    # One of the set's own spellings, and not a folded one: a hash of the name chooses who is held
    # out, so that folding would choose others in every run recorded from a set with one spelling.
    spelled: dict[str, str] = {}
    for patient in sorted(set(found.values())):
        spelled.setdefault(same_person(patient), patient)
    return {name: spelled[same_person(patient)] for name, patient in found.items()}


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

LEAST_PART: Final = 0.1
"""Smallest fraction of a set's cases whose counters are noted."""

MOST_ENDS: Final = 4
"""Most ends of names that a proposed pattern lists."""


@final
@dataclass(frozen=True)
class Joined:
    """A pattern that joins cases whose names differ only in a counter at their end; empty: none."""

    cases: int
    patients: int  # by this pattern
    pattern: str

    def __str__(self) -> str:
        said = (
            f"{self.cases} cases look like {counted(self.patients, 'patient')}: their names differ "
            "in a counter at the end. If they are, results and audits are wrong"
        )
        if self.pattern:
            return f"{said} without this in dataset.json: {_key(self.pattern)}"
        return f"{said} until the cases are named alike, so that one pattern fits"


def _key(pattern: str) -> str:
    """The line of dataset.json that has a data set's patients found by a pattern."""
    return f'"patient_pattern": {json.dumps(pattern)}'


def people_of(names: Sequence[str]) -> dict[str, str]:
    """The patient of each case, also where names have counters that only look like patients."""
    found = joined(names, "")
    return patients_by((found and found.pattern) or _DEFAULT, names)


def doubts(names: Sequence[str], pattern: str, *, volumes: bool) -> Iterator[str]:
    """What to say of a pattern that finds nobody, or by which slices may pass for patients."""
    if names and pattern and not any(found := found_in(pattern, tuple(names))):
        fits = "fits, but names no patient in" if "" in found else "fits none of"
        yield (
            f"{_key(pattern)} in dataset.json {fits} the {len(names)} names, such as "
            f"{names[0]}: each case counts as a patient"
        )
    if slices := joined(names, pattern, volumes=volumes):
        yield str(slices)


def joined(names: Sequence[str], pattern: str, *, volumes: bool = False) -> Joined | None:
    """The pattern that joins slices, or visits, which `pattern` takes for patients; None: none.

    Args:
        names: of the cases.
        pattern: by which patients are found so far; see `patients_of`.
        volumes: whether each case is a volume, of which a patient has few.

    Returns:
        A pattern by which the names were grouped: most patients in question have several cases.
        None if `pattern` joins them already.
    """
    known = patients_of(names, pattern)
    cases = Counter(known.values())
    alone = [name for name in names if cases[known[name]] == 1]
    for shape in _SHAPES:
        heads = _repeated(shape, alone)
        if len(heads) < max(2, LEAST_PART * len(names)) or not _counts(shape, heads, volumes):
            continue
        patients = known | heads
        return Joined(
            cases=len(patients),
            patients=len({same_person(patient) for patient in patients.values()}),
            pattern=_fitting(patients),
        )
    return None


def _repeated(shape: re.Pattern[str], names: Iterable[str]) -> dict[str, str]:
    """The patient in the names whose kind of end mostly counts cases of one patient."""
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
    return {name: head for name, (head, glue) in found.items() if several[glue] >= 0.5 * ends[glue]}


def _counts(shape: re.Pattern[str], heads: Mapping[str, str], volumes: bool) -> bool:
    """Whether there are so many patients, with so few cases each, that the ends are counters."""
    people = {same_person(_DATE.sub("", head)) for head in heads.values()}  # a day has many
    if len(people) < (LEAST_NAMED if shape is _NAMED else 2):
        return False
    most = MOST_VISITS if volumes else MOST_SLICES
    few = volumes or len(people) < LEAST_NAMED
    return shape is _SLICED or not few or len(heads) <= most * len(people)


def _counted(shape: re.Pattern[str], name: str) -> tuple[str, str] | None:
    """Patient and glue of a name that ends in a counter, and in no date and no patient's number."""
    tail = _TAIL.search(name)
    match = shape.fullmatch(name[: tail.start()] if tail else name)
    if match is None or any(date.end() == len(name) for date in _DATE.finditer(name)):
        return None
    person = re.sub(r"[\W_]", "", match[2]).lower() in _PERSON
    place = _PLACE.fullmatch(_DATE.sub("", match[1]).strip("_-. "))
    return None if person or place else (match[1], match[2])


def _fitting(patients: Mapping[str, str]) -> str:
    """A pattern that finds these patients, by case name; empty: none."""
    ends = sorted(
        {
            _as_pattern(name.removeprefix(patient))
            for name, patient in patients.items()
            if name.startswith(patient) and name != patient
        }
    )
    if not ends:
        return ""
    listed = ends[0] if len(ends) == 1 else f"(?:{'|'.join(ends)})"
    few = [listed] if len(ends) <= MOST_ENDS else []
    for end in (*few, r"\D+\d+"):
        for start in (".+", r".*\d", ".+?"):
            proposed = f"({start}){end}$"
            if _same_groups(patients, patients_by(proposed, patients)):
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
