"""Attribute inference of the site: an attacker infers at which site a patient was imaged."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, final

from torch import Tensor

from asyndgan.auditing.distances import by_patient, painting_gaps
from asyndgan.auditing.membership import LEVEL
from asyndgan.auditing.schema import Number, Whole
from asyndgan.judging.metrics import fraction_interval
from asyndgan.lazy import Late
from asyndgan.runs import RunFolder
from asyndgan.store import Case

stats: Any = Late("scipy.stats")  # a second that most commands need not wait for


@final
@dataclass(frozen=True)
class SitesGuessed:
    """How often a patient's site is guessed from the look whose paintings are most similar.

    The scanner's general appearance suffices for that: a good guess shows that the generator
    distinguishes the sites' looks, and nothing about who took part.

    Attributes:
        right: number of patients whose site was guessed correctly.
        patients: number of patients whose site is known.
        low: lower end of the 95 % interval (Clopper and Pearson) of the fraction guessed correctly.
        high: upper end.
        always: fraction that is correct if the site with most patients is always guessed.
        p_value: p-value of the one-sided test that guesses are better than that.
    """

    right: Whole
    patients: Whole
    low: Number
    high: Number
    always: Number
    p_value: Number

    @property
    def verdict(self) -> str:
        """A sentence for readers without statistical training."""
        found = (
            f"{self.right / self.patients:.0%} of {self.patients} patients right (95 % interval "
            f"{self.low:.0%} to {self.high:.0%}); always naming the largest site would be right "
            f"for {self.always:.0%}"
        )
        if self.p_value < LEVEL:
            return f"a patient's site can be guessed from the scanner's look, no alarm: {found}"
        return f"no sign that a patient's site can be guessed by the look: {found}"


def guess_sites(
    run: RunFolder, cases: Sequence[Case], gaps: Tensor | None = None
) -> SitesGuessed | None:
    """Guesses each patient's site from the look whose paintings are most similar to the images.

    Args:
        run: a finished run.
        cases: real cases.
        gaps: `painting_gaps` of them, if they are known.

    Returns:
        The result; None if the generator has no looks, sites share one, or there are patients of
        fewer than two sites.
    """
    facts = run.facts()
    sites, looks = facts.teachers, facts.looks()
    of_sites = [case.patient.rpartition("/")[0] in sites for case in cases]
    known = list(compress(cases, of_sites))
    truth = {case.patient: case.patient.rpartition("/")[0] for case in known}
    if not run.recipe().generator.style or len(looks) < 2 or len(set(truth.values())) < 2:
        return None
    gaps = painting_gaps(run, known) if gaps is None else gaps[of_sites]
    nearest = by_patient(known, gaps.min(dim=1).values)
    # Of the sites that share a look the largest is the best guess.
    likely = [max(alike, key=lambda site: float(sites[site]["share"])) for alike in looks.values()]
    right = sum(likely[int(gaps.argmin())] == truth[name] for name, gaps in nearest.items())
    always = max(Counter(truth.values()).values()) / len(truth)
    test = stats.binomtest(right, len(truth), always, alternative="greater")
    low, high = fraction_interval(right, len(truth))
    return SitesGuessed(right, len(truth), low, high, always, float(test.pvalue))
