"""Reads audits for a page: what attackers learned about the patients behind a run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final, final

from asyndgan.errors import RunError
from asyndgan.evaluation.audit import NEAREST_FILE
from asyndgan.evaluation.audit_record import AuditRecord, read_audit
from asyndgan.reports.usefulness import figure
from asyndgan.reports.words import counted, decimal, sentence, together

_QUESTIONS: Final = {
    "painting": "Was this patient in the run? Told by how like the patient's image is to what the "
    "generator paints from the patient's mask",
    "nearest": "The same, told by the synthetic image nearest to the patient's",
    "density": "The same, told by how many synthetic images are near",
}


@final
@dataclass(frozen=True)
class Attempt:
    """One attack. Places are positions from 0 to 100 on a scale of areas from 0 to 1.

    Attributes:
        question: what the attacker wants to know.
        answer: what came of it.
        alarm: whether the attacker learned something about a patient, or nobody can say.
        figure: the number behind it, as text; empty if there is none.
        beside: what to compare the number with, as text.
        low: place of the lower end of the interval of an area; None if there is none.
        high: place of its upper end.
        middle: place of the area.
    """

    question: str
    answer: str
    alarm: bool
    figure: str = ""
    beside: str = ""
    low: float | None = None
    high: float | None = None
    middle: float | None = None


@final
@dataclass(frozen=True)
class Audited:
    """Content of the page's card on one audit.

    Attributes:
        who: whose patients were compared with whom.
        doubts: sentences on what this audit cannot say.
        attempts: the attacks.
        picture: data URI of members beside the synthetic images nearest to them; empty if it is
            not to be shown.
    """

    who: str
    doubts: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    picture: str

    @property
    def alarms(self) -> int:
        """Number of attacks that learned something, or of which nobody can say."""
        return sum(attempt.alarm for attempt in self.attempts)


def audits_generator(folder: Path, generator_sha256: str) -> bool:
    """Whether an audit is of this generator.

    Raises:
        RunError: there is no audit, or none that can be read.
    """
    return read_audit(folder).generator == generator_sha256


def read_audited(folder: Path, generator_sha256: str, *, picture: bool) -> Audited:
    """Reads the results of `asyndgan audit`.

    Args:
        folder: folder that contains audit.json and nearest.png.
        generator_sha256: hash of the generator that the page is about.
        picture: include nearest.png, which shows real patients.

    Raises:
        RunError: there is no audit, none that can be read, one of another generator, or one whose
            picture cannot be read.
    """
    record = read_audit(folder)
    if record.generator != generator_sha256:
        raise RunError(
            f"{folder} audits another generator; name an audit of this run, or make it with "
            "'asyndgan audit'."
        )
    try:
        shown = figure(folder / NEAREST_FILE) if picture else ""
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder / NEAREST_FILE} is no picture; make it anew with 'asyndgan audit'."
        ) from error
    return Audited(_who(record), tuple(_doubts(record)), tuple(_attempts(record)), shown)


def _who(record: AuditRecord) -> str:
    copies = record.audit.copies
    sites = f" of {together(sorted(record.confirmed))}" if record.confirmed else ""
    return f"{counted(copies.members, 'patient')}{sites} against {copies.others} whom it never saw"


def _doubts(record: AuditRecord) -> Iterator[str]:
    if record.canaries:
        yield "Only canaries were compared, patients put in on purpose."
    if unknown := sorted(name for name, known in record.confirmed.items() if not known):
        yield f"Nothing confirms that {together(unknown)} trained with these patients."
    if record.audit.uncompared:
        yield (
            "The others were not compared with the patients of "
            f"{together(record.audit.uncompared)}, which may hold some of them too."
        )
    asked = {one.site for one in record.pixels}
    if rest := sorted({*record.confirmed} - asked):
        yield f"{together(rest)} {'was' if len(rest) == 1 else 'were'} not asked for pixels."


def _attempts(record: AuditRecord) -> Iterator[Attempt]:
    for attack in record.audit.attacks:
        yield Attempt(
            question=_QUESTIONS.get(attack.name, attack.name),
            answer=sentence(attack.verdict),
            alarm=not attack.passes,
            figure=decimal(attack.auc, 2),
            beside=f"{decimal(attack.low, 2)} to {decimal(attack.high, 2)}",
            low=_place(attack.low),
            high=_place(attack.high),
            middle=_place(attack.auc),
        )
    copies = record.audit.copies
    yield Attempt(
        "Is a synthetic image a copy of a patient's?", sentence(copies.verdict), not copies.passes
    )
    for pixels in record.pixels:
        yield Attempt(
            f"Can a coordinator that asks {pixels.site} again and again read its images?",
            sentence(pixels.verdict),
            bool(pixels.told),
            f"{fmean(pixels.asked):.1f} dB",
            f"{fmean(pixels.anyway):.1f} without",
        )
    if guessed := record.audit.sites:
        # A scanner's look tells this, and nothing about who took part: no alarm.
        yield Attempt("At which site was a patient imaged?", sentence(guessed.verdict), False)


def _place(area: float) -> float | None:
    return None if math.isnan(area) else round(100 * min(max(area, 0), 1), 2)
