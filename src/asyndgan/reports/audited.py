"""Reads audits for a page: what attackers learned about the patients behind a run."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final, NamedTuple

from asyndgan.auditing.audit import NEAREST_FILE
from asyndgan.auditing.membership import Attack
from asyndgan.auditing.record import AuditRecord, read_audit
from asyndgan.auditing.release import release_by
from asyndgan.auditing.remedies import remedies
from asyndgan.errors import RunError
from asyndgan.recipe import Recipe
from asyndgan.reports.usefulness import figure
from asyndgan.reports.words import DASH, between, decimal
from asyndgan.runs import RunFolder
from asyndgan.texts import sentence

_QUESTIONS: Final = {
    "painting": "Was this patient in the run? By how near the generator's painting of the "
    "patient's mask comes to the patient's image",
    "nearest": "Was this patient in the run? By how near the nearest synthetic image is",
    "density": "Was this patient in the run? By how many synthetic images are near",
    "mask": "Was this patient in the run? By how near a mask of the set comes to the patient's",
    "picture": "Was this patient in the run? By how near a mask of the set comes to the mask that "
    "is found in the patient's image",
}

NONE: Final = "none"

MEANING: Final = (
    "p: one-sided, that chance lets members score so high; corrected: for the number of these "
    "attacks (Holm). Epsilon at least: the run's epsilon is that or more if members were drawn at "
    f"random. {NONE}: these attacks show none, and it may still be large. {DASH}: the groups are "
    "unlike, so the number means nothing."
)
"""What the numbers of `figures_of` mean."""


def guarantee(recipe: Recipe) -> str:
    """What bounds all attackers, also those whom no audit plays."""
    if recipe.privacy.kind == "none":
        return "Only differential privacy bounds every attacker, and this run has none."
    return (
        "What bounds every attacker is differential privacy; each site's ledger says how much "
        "epsilon this run has spent there."
    )


def figures_of(attack: Attack) -> tuple[str, str, str]:
    """p, corrected p and the lower bound of epsilon; dashes where they have no meaning."""
    if attack.explained:
        return DASH, DASH, DASH
    bound = decimal(attack.epsilon, 2) if attack.epsilon else NONE
    return decimal(attack.p_value, 3), decimal(attack.corrected, 3), bound


class Attempt(NamedTuple):
    """One attack: question, answer, whether the attacker learned something, or nobody can say.

    `figure` is the number behind it, and `beside` what to compare it with, as texts.
    """

    question: str
    answer: str
    learned: bool = False
    undecided: bool = False
    figure: str = ""
    beside: str = ""
    attack: Attack | None = None


class Audited(NamedTuple):
    """Content of the page's card on one audit; `picture` is a data URI, or empty."""

    record: AuditRecord
    attempts: list[Attempt]
    advice: list[str]
    release: str
    picture: str

    @property
    def unlike(self) -> bool:
        """Whether the others are unlike the members."""
        return not self.record.audit.groups.alike

    @property
    def learned(self) -> int:
        """Number of attacks that learned something about a patient."""
        return sum(attempt.learned for attempt in self.attempts)

    @property
    def undecided(self) -> int:
        """Number of attacks of which nobody can say."""
        return sum(attempt.undecided for attempt in self.attempts)


def read_audited(
    run: RunFolder, folders: Sequence[Path], *, shown: Collection[str] = ()
) -> list[Audited]:
    """Reads the results of audits of one run, which together may permit its release.

    Pictures show patients: one is left out if it may have a site's that is not among `shown`.
    Raises `RunError` if there is no audit, none that can be read, one of another generator, or one
    whose picture cannot be read.
    """
    records = [read_audit(folder) for folder in folders]
    for folder, record in zip(folders, records, strict=True):
        if record.generator != run.facts().generator_sha256:
            raise RunError(
                f"{folder} audits another generator; name an audit of this run, or make it with "
                "'asyndgan audit'."
            )
    return [
        Audited(
            record=record,
            attempts=list(_attempts(record)),
            advice=list(remedies(run, record.audit)),
            release=release_by(run, record, records[:place] + records[place + 1 :]),
            picture=_picture(folder) if {*record.confirmed} <= {*shown} else "",
        )
        for place, (folder, record) in enumerate(zip(folders, records, strict=True))
    ]


def _picture(folder: Path) -> str:
    if not (folder / NEAREST_FILE).exists():
        return ""  # a site that answered its coordinator has kept it
    try:
        return figure(folder / NEAREST_FILE)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder / NEAREST_FILE} is no picture; make it anew with 'asyndgan audit'."
        ) from error


def _attempts(record: AuditRecord) -> Iterator[Attempt]:
    found, trial = record.audit, bool(record.trial)
    for attack in found.attacks:
        yield Attempt(
            _QUESTIONS.get(attack.name, attack.name),
            sentence(record.decided(attack.verdict)),
            learned=attack.alarms and not trial,
            undecided=not attack.passes and (trial or not attack.alarms),
            figure=decimal(attack.auc, 2),
            beside=between(attack.low, attack.high, 2),
            attack=attack,
        )
    yield Attempt(
        "Is a synthetic image a copy of a patient's?",
        sentence(record.decided(found.copies.verdict)),
        learned=not (found.copies.passes or trial),
        undecided=trial and not found.copies.passes,
    )
    for pixels in record.pixels:
        yield Attempt(
            f"Can a coordinator that asks {pixels.site} again and again read its images?",
            sentence(pixels.verdict),
            learned=bool(pixels.told),
            figure=f"{fmean(pixels.asked):.1f} dB",
            beside=f"{fmean(pixels.anyway):.1f} without asking",
        )
