"""Whether audits permit the release of a synthetic set; records share a part (`records`)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from asyndgan.auditing.audit import AUDIT_FILE
from asyndgan.auditing.membership import ATTACKS, BY_MASK
from asyndgan.auditing.record import AuditRecord, read_audit
from asyndgan.auditing.remedies import remedies
from asyndgan.errors import RunError
from asyndgan.painting.fading import AS_PAINTED, Fading
from asyndgan.painting.synthesise import PAINTING_VERSION
from asyndgan.runs import RunFolder
from asyndgan.runs.facts import RunFacts
from asyndgan.wire.messages import CASES_WITHHELD

THIS: Final = "this audit"
"""What a page calls the audit that it tells of."""


def began_elsewhere(facts: RunFacts) -> str:
    """That no audit covers sites of the run that this one started from; empty if all are here."""
    if not facts.start or not (gone := set(facts.start["sites"]) - set(facts.sites)):
        return ""
    return (
        f"its generator began with that of {facts.start['run']}, which learned from "
        f"{', '.join(sorted(gone))}, and no audit of this run covers them. Start from a run of the "
        "same sites, or train anew"
    )


class OfSites(Protocol):
    """An audit of members of some sites."""

    @property
    def confirmed(self) -> Mapping[str, bool]:
        """By site of members, whether its own state confirms that they took part."""


A = TypeVar("A", bound=OfSites)


def first_refusal(refusal: Callable[[A, str], str], audit: A, beside: Sequence[A]) -> str:
    """Why an audit, and others beside it, permit no release of what they cover; empty: they do."""
    others = ((one, _named(one)) for one in beside)
    try:
        return next(filter(None, (refusal(*each) for each in ((audit, THIS), *others))), "")
    except RunError as error:  # such as of a run that was copied without its generator
        return str(error).rstrip(".")


def _named(audit: OfSites) -> str:
    return f"the audit of {', '.join(sorted(audit.confirmed))}"


def permitting(
    run: RunFolder,
    audits: Sequence[Path],
    read: Callable[[Path], A],
    refusal: Callable[[A, str], str],
    uncovered: Callable[[RunFolder, Sequence[A]], str],
) -> list[A]:
    """Reads audits; raises `RunError` unless each, and all together, permit a release."""
    found: list[A] = []
    for folder in audits:
        found.append(read(folder))
        if reason := refusal(found[-1], f"{folder / AUDIT_FILE}"):
            raise RunError(f"{run.path} may not be released: {reason.rstrip('.')}.")
    if reason := uncovered(run, found):
        raise RunError(f"{run.path} may not be released: {reason.rstrip('.')}.")
    return found


def said_by(name: str, objection: str) -> str:
    """An audit's objection, if it has one, with the audit's name if a page tells of another."""
    return objection if name == THIS or not objection else f"{name} says {objection}"


def unconfirmed(confirmed: Mapping[str, bool], name: str) -> str:
    """That members in an audit of this name are not known to have taken part; empty if all are."""
    if sites := [site for site, known in confirmed.items() if not known]:
        return (
            f"{name} compares members of {', '.join(sites)} without knowing whether they took "
            "part. Audit where these sites' states of the run are, with --state SITE=FOLDER"
        )
    return ""


def check_released(
    run: RunFolder, masks: str | None, audits: Sequence[Path], *, fading: Fading = AS_PAINTED
) -> str:
    """Checks that audits of this generator found no member and no near copy.

    They must together cover every site of the run, and be of these masks (by their digest; None:
    not known yet) and labels that are faded.

    Returns:
        The findings of the audits, for the model card.

    Raises:
        RunError: the audits permit no release; the message says why (docs/audits.md).
    """

    def refusal(record: AuditRecord, name: str) -> str:
        if reason := _unfit(run, record, name):
            return reason
        if masks is not None and record.masks != masks:
            return (
                f"{name} is of a set that was painted from other masks; audit with the same --masks"
            )
        if record.fading != fading.told():
            return (
                f"{name} is of a set in which other labels were faded; audit with the same --fade"
            )
        if reason := unconfirmed(record.confirmed, name):
            return reason
        whose = _named(record) if len(audits) > 1 else THIS
        reason = said_by(whose, _objection(run, record))
        return reason and " ".join([f"{reason}.", *remedies(run, record.audit)])

    found = permitting(run, audits, read_audit, refusal, _uncovered)
    return ". ".join(f"{', '.join(sorted(one.confirmed))}: {_findings(one)}" for one in found)


def release_by(run: RunFolder, record: AuditRecord, beside: Sequence[AuditRecord] = ()) -> str:
    """Whether these audits permit a release: "permitted", or "not permitted, because ..."."""
    reason = first_refusal(partial(_refusal, run), record, beside)
    if any(one.masks != record.masks or one.fading != record.fading for one in beside):
        reason = reason or "the audits are of sets that were painted in different ways"
    if not reason and (reason := _uncovered(run, [record, *beside])):
        reason += f". For {', '.join(sorted(record.confirmed))} this audit permits it"
    return f"not permitted, because {reason}" if reason else "permitted"


def _refusal(run: RunFolder, record: AuditRecord, name: str) -> str:
    """Why an audit of this name permits no release of what it covers; empty if it does."""
    unfit = _unfit(run, record, name) or unconfirmed(record.confirmed, name)
    return unfit or said_by(name, _objection(run, record))


def _unfit(run: RunFolder, record: AuditRecord, name: str) -> str:
    """Why an audit of this name is none of a set that the run would paint; empty if it is one."""
    if record.generator != run.generator_digest() or not record.audit.attacks:
        return f"{name} is of another generator than {run.path}; audit this one"
    sites = run.facts().sites
    for site, count in record.audit.groups.members.items():
        if site not in sites or CASES_WITHHELD < sites[site]["cases"] < count:
            return (
                f"{name} compares {count} members of {site}, more than {run.path} has; audit anew"
            )
    if record.canaries:
        return (
            f"{name} compares canaries alone, of which no patient is one; audit without --canaries"
        )
    if record.painting_version != PAINTING_VERSION:
        return (
            f"{name} is of a set that another version painted, and this one would paint a "
            "different set; audit anew"
        )
    return ""


def _objection(run: RunFolder, record: AuditRecord) -> str:
    """The first finding for which a set may not be released; empty if there is none."""
    found, copies = record.audit, record.audit.copies
    # Of masks that are the members' own, `owned` says what to do.
    told = BY_MASK if record.of_members else ()
    objections = [
        *([] if copies.passes else [record.decided(copies.verdict)]),
        *(one.objection(record.decided) for one in found.attacks if one.name not in told),
        *([] if found.groups.alike else [f"groups {found.groups.verdict}"]),
        record.owned,
        _untried(run, record),
    ]
    return next((text for text in objections if text), "")


def _untried(run: RunFolder, record: AuditRecord) -> str:
    """Which attacks an audit of another version did not try; empty if none."""
    tried = {one.name for one in record.audit.attacks}
    paints = run.recipe().condition.kind == "mask"
    lacking = [name for name in ATTACKS if name not in tried and (paints or name not in BY_MASK)]
    names = ", ".join(lacking)
    return names and f"it lacks the attacks {names}, which this version tries; audit anew"


def _findings(record: AuditRecord) -> str:
    """What an audit that permits a release found, for the model card."""
    found = record.audit
    verdicts = [*(f"{one.name}: {one.verdict}" for one in found.attacks), found.copies.verdict]
    if uncompared := found.uncompared:
        verdicts.append(f"others not compared with the members of {', '.join(uncompared)}")
    return "; ".join(verdicts)


def _uncovered(run: RunFolder, records: Sequence[AuditRecord]) -> str:
    """Which sites of a run, or modalities of theirs, these audits leave out; empty if none."""
    lacking = {site: set(about["modalities"]) for site, about in run.facts().sites.items()}
    for record in records:
        for site in record.confirmed:
            lacking[site] = lacking.get(site, set()) - record.modalities
    names = ", ".join(
        f"{site} ({', '.join(sorted(rest))})" for site, rest in sorted(lacking.items()) if rest
    )
    return began_elsewhere(run.facts()) or (
        names
        and f"no audit covers {names}. Audit with --site there, in all modalities that the "
        "site has (so has the --holdout), and name that audit with one more --audit. A site of "
        "which single cases lack a modality cannot be audited"
    )
