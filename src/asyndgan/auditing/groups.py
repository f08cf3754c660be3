"""Whether members and other patients are alike apart from membership, without the generator.

Others of other hospitals, in another mix of hospitals or with other intensities are told from
members without any trace of membership, or hide one.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from asyndgan.auditing.distances import by_patient
from asyndgan.auditing.membership import LEVEL, holm
from asyndgan.auditing.schema import Number, Whole
from asyndgan.judging.metrics import area_under_curve
from asyndgan.lazy import Late
from asyndgan.store import Case
from asyndgan.texts import Line, SiteName

stats: Any = Late("scipy.stats")  # a second that most commands need not wait for

OTHER_MIX: Final = 0.05
"""Fraction of the others that would have to change hospital to have the members' mix, beyond what
rounding to whole patients explains, from which on the mixes differ."""

ENOUGH: Final = 10
"""Fewest members, and fewest others, whose likeness says anything."""

PERMUTATIONS: Final = 499
"""Number of random groupings that the actual one is compared with."""

ALL_MEASURES: Final = "combination of all three"
"""Name of the measure by which each patient's most similar other patient is found."""

ELSEWHERE: Final = ""
"""Site of a patient whose name fits no site of the run."""


Sites = Mapping[str, str]
"""Site of each patient; `ELSEWHERE` for other hospitals."""


@final
@dataclass(frozen=True)
class Groups:
    """How members and others differ in hospitals and in plain measures of their images."""

    members: dict[SiteName, Whole]  # by site
    # by site, `ELSEWHERE` for other hospitals; empty: not known
    others: dict[SiteName | Literal[""], Whole]
    measure: Line  # that differs most, such as "brightness of T1"
    auc: Number  # how well it tells the groups apart, 0.5 (not at all) to 1
    p_value: Number  # of that, corrected for the number of measures (Holm)

    def __post_init__(self) -> None:
        if not sum(self.members.values()) or (self.others and not sum(self.others.values())):
            raise ValueError("a group is of no patient")

    @property
    def other_mix(self) -> bool:
        """Whether the others come from other hospitals, or in another mix; no if not known."""
        if not self.others:
            return False
        ours, theirs = sum(self.members.values()), sum(self.others.values())
        sites = {*self.members, *self.others}
        moved = sum(
            abs(self.members.get(site, 0) / ours - self.others.get(site, 0) / theirs)
            for site in sites
        )
        return moved / 2 > OTHER_MIX + len(sites) / (4 * theirs)

    @property
    def other_images(self) -> bool:
        """Whether plain measures tell the groups apart; a p-value of nan counts as yes."""
        return not self.p_value >= LEVEL

    @property
    def alike(self) -> bool:
        """Whether an attack on these groups can decide."""
        return not self.other_mix and not self.other_images

    def may_explain(self, low: float) -> bool:
        """Whether the groups' differences may explain an AUC whose interval begins at `low`.

        Where names tell no hospital, an alarm must lie above what plain measures tell.
        """
        doubtful = self.other_images or (not self.others and low > 0.5)
        return self.other_mix or (doubtful and not low > self.auc)

    @property
    def verdict(self) -> str:
        """A sentence for readers without statistical training."""
        others = _told(self.others) if self.others else "not known"
        sizes = f"members: {_told(self.members)}; others: {others}"
        p_value = "p < 0.001" if self.p_value < 0.001 else f"p {self.p_value:.3f}"
        by_images = "brightness, contrast and labelled area of the images"
        measured = f"most by the {self.measure}: AUC {self.auc:.2f}, {p_value}, corrected"
        if self.other_mix:
            more = f"; {by_images} differ as well ({measured})" if self.other_images else ""
            return f"not alike, the others are of another mix of hospitals ({sizes}){more}"
        if self.other_images:
            return f"not alike, {by_images} differ ({measured}; {sizes})"
        alike = f"{by_images} do not differ significantly ({measured})"
        if not self.others:
            return (
                f"maybe not alike, as the others' names do not tell their hospitals ({sizes}); "
                f"{alike}; an attack alarms only if its interval lies above {self.auc:.2f}. Names "
                "that begin with the site's (north-p7) would tell"
            )
        few = min(sum(self.members.values()), sum(self.others.values())) < ENOUGH
        return f"{'too few to compare' if few else 'alike'} ({sizes}); {alike}"


def compare_groups(
    members: Sequence[Case], others: Sequence[Case], known: tuple[Sites, Sites]
) -> Groups:
    """Compares two groups of patients, of whom `known` has the sites (`sites_of`)."""
    found: dict[str, tuple[float, float]] = {}
    measures = plain_measures(members), plain_measures(others)
    columns = []
    for name in measures[0]:
        group, other = (np.array(list(one[name].values())) for one in measures)
        column = np.concatenate([group, other])
        if not np.ptp(column):
            continue  # such as an area that all have alike
        auc = area_under_curve(group, other)
        found[name] = max(auc, 1 - auc), float(stats.mannwhitneyu(group, other).pvalue)
        columns.append((column - column.mean()) / column.std())
    if columns:
        inside = np.arange(len(columns[0])) < len({case.patient for case in members})
        found[ALL_MEASURES] = _by_nearest(np.stack(columns, 1), inside)
    p_values = [p_value for _, p_value in found.values()]
    corrected, worst = holm(p_values), int(np.argmin(p_values)) if p_values else 0
    measure, (auc, _) = [*found.items(), ("images", (0.5, 1.0))][worst]
    ours, theirs = (
        dict(Counter(of[patient] for patient in {case.patient for case in group} & of.keys()))
        for group, of in zip((members, others), known, strict=True)
    )
    return Groups(ours, theirs, measure, auc, corrected[worst] if corrected else 1.0)


def _by_nearest(measures: NDArray[np.float64], inside: NDArray[np.bool_]) -> tuple[float, float]:
    """How well the nearest other patient's group tells a patient's group: AUC and p-value.

    It finds hospitals that differ while the groups' means are alike. The p-value is that of a
    permutation test. `measures` (patient, measure) are standardised.
    """
    apart = cdist(measures, measures)
    np.fill_diagonal(apart, np.inf)

    def told(inside: NDArray[np.bool_]) -> float:
        nearer = apart[:, ~inside].min(1) - apart[:, inside].min(1)
        return area_under_curve(nearer[inside], nearer[~inside])

    random, auc = np.random.default_rng(0), told(inside)
    drawn = [told(random.permutation(inside)) for _ in range(PERMUTATIONS)]
    return max(auc, 0.5), (1 + sum(one >= auc for one in drawn)) / (1 + PERMUTATIONS)


def plain_measures(cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    """Plain measures of each patient's images, mean over the cases: measure to patient to value."""
    planes = torch.stack([case.image for case in cases]).double().flatten(2)
    labelled = torch.stack([case.mask > 0 for case in cases]).double().flatten(1)
    values = {"labelled area": labelled.mean(1)}
    for place, name in enumerate(cases[0].modalities):
        values[f"brightness of {name}"] = planes[:, place].mean(1)
        values[f"contrast of {name}"] = planes[:, place].std(1)
    return {
        name: {patient: float(mean) for patient, mean in by_patient(cases, own).items()}
        for name, own in values.items()
    }


def sites_of(
    members: Sequence[Case],
    others: Sequence[Case],
    sites: Collection[str],
    folders: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Sites, Sites]:
    """The site of each patient, as far as names tell: of members (`site/patient`), and of others.

    Another patient's name tells it by `site/`, by the name of a site or of its folder in it
    (`test-north-p3`), or if it begins as names of one site's members alone do (`TCGA_CS`). Sites of
    others are empty unless a quarter of their names tell a site, and half of them tell a site or
    begin as no member's name does.
    """
    inside = {case.patient: case.patient.partition("/")[0] for case in members}
    own: dict[str, Counter[str]] = {}
    for patient, site in inside.items():
        for start in _starts(patient.partition("/")[2]):
            own.setdefault(start, Counter())[site] += 1
    begin = {start: next(iter(of)) for start, of in own.items() if len(of) == 1 and of.total() > 1}
    if len({*inside.values()}) == 1:  # what all names begin with tells no site
        begin = {}
    named = {name: site for name, site in folders.items() if name not in sites}
    named |= {site: site for site in sites}
    outside = {case.patient: _site_in(case.patient, named, begin) for case in others}
    known = sum(site != ELSEWHERE for site in outside.values())
    told = sum(site != ELSEWHERE or not _starts(n) <= own.keys() for n, site in outside.items())
    return inside, outside if 4 * known >= len(outside) <= 2 * told else {}


def _site_in(patient: str, named: Mapping[str, str], begin: Mapping[str, str]) -> str:
    before, slash, name = patient.rpartition("/")
    if slash:
        return before
    for known in sorted(named, key=len, reverse=True):
        if re.search(rf"(?<![^\W_]){re.escape(known)}(?![^\W_])", name, re.IGNORECASE):
            return named[known]
    return next(
        (begin[start] for start in sorted(_starts(name), key=len, reverse=True) if start in begin),
        ELSEWHERE,
    )


def _starts(name: str) -> set[str]:
    """What a name begins with: up to its first digit, and up to each mark between two parts."""
    name = name.casefold()
    ends = [match.start() for match in re.finditer(r"[\W_]+", name)]
    starts = {re.split(r"[\W_]*\d", name, maxsplit=1)[0], *(name[:end] for end in ends)} - {name}
    return {start for start in starts if len(start) > 1 and re.search(r"[^\W\d_]", start)}


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(
        f"{number} {site or 'of other hospitals'}" for site, number in sorted(counts.items())
    )
