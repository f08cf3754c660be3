"""Reads audits for a page: what attackers learned about the patients behind a run."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final, NamedTuple

from asyndgan.auditing.audit import NEAREST_FILE
from asyndgan.auditing.membership import Attack
from asyndgan.auditing.record import AuditRecord, read_audit, release_by
from asyndgan.auditing.remedies import remedies
from asyndgan.errors import RunError
from asyndgan.recipe import Recipe
from asyndgan.reports.usefulness import figure
from asyndgan.reports.words import DASH, between, decimal, sentence
from asyndgan.runs import RunFolder

_QUESTIONS: Final = {
    "painting": "Was this patient in the run? By how near the generator's painting of the "
    "patient's mask comes to the patient's image",
    "nearest": "Was this patient in the run? By how near the nearest synthetic image is",
    "density": "Was this patient in the run? By how many synthetic images are near",
    "mask": "Was this patient in the run? By how near a mask of {held} comes to the patient's mask",
    "picture": "Was this patient in the run? By how near a mask of {held} comes to the mask that "
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
    """One attack.

    Attributes:
        question: what the attacker wants to know.
        answer: what came of it.
        learned: whether the attacker learned something about a patient.
        undecided: whether nobody can say.
        figure: the number behind it, as text; empty if there is none.
        beside: what to compare the number with, as text.
        attack: the attack on membership, if it was one.
    """

    question: str
    answer: str
    learned: bool = False
    undecided: bool = False
    figure: str = ""
    beside: str = ""
    attack: Attack | None = None


class Audited(NamedTuple):
    """Content of the page's card on one audit.

    Attributes:
        record: the audit.
        attempts: the attacks.
        advice: what to do about them, the first thing first.
        release: whether this audit permits a release, and why not.
        picture: data URI of members beside the synthetic images nearest to them; empty if it is
            not to be shown.
    """

    record: AuditRecord
    attempts: list[Attempt]
    advice: list[str]
    release: str
    picture: str

    @property
    def unlike(self) -> bool:
        """Whether the others are unlike the members."""
        return not self.record.audit.every.groups.alike

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

    Args:
        run: the run that the page is about.
        folders: each contains audit.json and nearest.png.
        shown: sites whose real images may be on the page. A picture, which shows patients, is left
            out if it may have another site's.

    Raises:
        RunError: there is no audit, none that can be read, one of another generator, or one whose
            picture cannot be read.
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
    try:
        return figure(folder / NEAREST_FILE)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder / NEAREST_FILE} is no picture; make it anew with 'asyndgan audit'."
        ) from error


def _attempts(record: AuditRecord) -> Iterator[Attempt]:
    found, trial = record.audit, bool(record.trial)
    every = [(attack, "the set") for attack in found.attacks]
    for attack, held in [*every, *((attack, "the run's folder") for attack in found.kept)]:
        yield Attempt(
            _QUESTIONS.get(attack.name, attack.name).format(held=held),
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
    if found.sites:
        # A scanner's look tells this, and nothing about who took part: no alarm.
        yield Attempt("At which site was a patient imaged?", sentence(found.sites.verdict))
