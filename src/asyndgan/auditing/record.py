"""The content of `audit.json`, and the gate that releases a synthetic set by it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final, final

from pydantic import Field, StrictBool, TypeAdapter

from asyndgan.auditing.audit import AUDIT_FILE, Audit, decided
from asyndgan.auditing.membership import ATTACKS, BY_MASK
from asyndgan.auditing.reconstruction import PixelsRead
from asyndgan.auditing.release import began_elsewhere, first_refusal, said_by, unconfirmed
from asyndgan.auditing.remedies import remedies
from asyndgan.auditing.schema import Faded, Whole
from asyndgan.errors import RunError
from asyndgan.painting.fading import AS_PAINTED, Fading
from asyndgan.painting.sets import OF_SITES
from asyndgan.painting.synthesise import PAINTING_VERSION, RELEASED
from asyndgan.received import lacking
from asyndgan.runs import RunFolder
from asyndgan.runs.schema import Hex
from asyndgan.texts import Line, Name, SiteName, bounded_text, parsed_json

OTHER_MASKS: Final = "--masks OTHER, a folder of masks of nobody who took part"


@final
@dataclass(frozen=True)
class AuditRecord:
    """An audit and its subject.

    Attributes:
        audit: its findings.
        pixels: what a coordinator reads of some sites' images.
        generator: SHA-256 of the generator.
        masks: digest of the masks from which the audited set was painted.
        fading: labels that the set shows more or less clearly.
        painting_version: version of the painting.
        modalities: names of the modalities that were compared.
        canaries: start of the names of both groups; empty if they are not canaries.
        confirmed: by site of members, whether its own state confirms that they took part.
        source: description of where the masks came from; empty if not known.
        trial: that the run is a trial; empty if it is none.
    """

    audit: Audit
    pixels: list[PixelsRead]
    generator: Annotated[Hex, Field(alias="generator_sha256")]
    masks: Annotated[Hex, Field(alias="masks_sha256")]
    fading: Faded
    painting_version: Whole
    modalities: frozenset[Name]
    canaries: Line
    confirmed: Annotated[dict[SiteName, StrictBool], Field(min_length=1)]
    source: Annotated[Line, Field(alias="masks")] = ""
    trial: Line = ""

    def __post_init__(self) -> None:
        if self.confirmed.keys() != self.audit.every.groups.members.keys():
            raise ValueError("members are of other sites than those that are named")

    def __repr__(self) -> str:
        found = [("groups", self.audit.groups.verdict)]
        found += [(one.name, self.decided(one.verdict)) for one in self.audit.attacks]
        found += [(f"kept masks, {one.name}", self.decided(one.verdict)) for one in self.audit.kept]
        found += [("copies", self.decided(self.audit.copies.verdict))]
        found += [("pixels", one.verdict) for one in self.pixels]
        found += [("site", self.audit.sites.verdict)] if self.audit.sites else []
        return "\n".join(["Audit:", *(f"{name}: {verdict}" for name, verdict in found)])

    def decided(self, verdict: str) -> str:
        """A verdict on what the generator reveals, without alarm if the run is a trial."""
        return decided(verdict, self.trial)

    @property
    def painted_from(self) -> str:
        """From whose masks the audited set was painted; empty if not known or from none."""
        if not self.source or self.source.startswith("none"):
            return ""
        if not self.of_members:
            return f"the audited set was painted from masks that are no member's ({self.source})"
        equal = f"{self.audit.own_masks} of them are a member's, as it is or was sent"
        return (
            f"the audited set was painted from masks of the members ({self.source}; {equal}), so "
            "it shows the members' anatomy even if the generator remembers no image. An audit with "
            f"{OTHER_MASKS}, tells what the generator alone reveals"
        )

    @property
    def of_members(self) -> bool:
        """Whether the audited set was painted from masks of the members, as they are or moved."""
        return bool(self.audit.own_masks) or self._of_sites

    @property
    def _of_sites(self) -> bool:
        """Whether the masks came from the run's own sites, even if each of them was moved."""
        return self.source.startswith((RELEASED, OF_SITES))

    @property
    def owned(self) -> str:
        """Why the set may not be released because of its masks; empty if it may."""
        if not self.of_members:
            return ""
        return (
            "the set was painted from masks of the members, so it shows the members' anatomy. "
            f"Audit with {OTHER_MASKS}, and paint from the same masks"
        )


_RECORD: Final = TypeAdapter(AuditRecord)


def read_audit(folder: Path) -> AuditRecord:
    """Reads what an audit wrote into its folder.

    Raises:
        RunError: there is no audit, or none that has finished or can be read.
    """
    path = folder / AUDIT_FILE
    if fault := lacking(path, "asyndgan audit"):
        raise RunError(fault)
    try:
        tables = parsed_json(bounded_text(path))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} is no whole file ({error}), such as one that was cut off while it was copied; "
            "take the original, or make it anew with 'asyndgan audit'."
        ) from error
    try:
        return _RECORD.validate_python({**tables, "audit": tables})
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{path} is no audit that can be read, or another version's; make it anew with "
            "'asyndgan audit', or remove it."
        ) from error


def check_released(
    run: RunFolder, masks: str, audits: Sequence[Path], *, fading: Fading = AS_PAINTED
) -> str:
    """Checks that audits of this generator and these masks found no member and no near copy.

    Args:
        run: run whose synthetic set is to be released.
        masks: digest of the masks that the set is painted from.
        audits: folders of audits; together they cover every site of the run.
        fading: labels that the set shows more or less clearly.

    Returns:
        The findings of the audits, for the model card.

    Raises:
        RunError: a site, or a modality of one, was not audited; or an audit cannot be read, is of
            another generator, other masks, other faded labels or another way of painting, its
            members are not confirmed, it has too few patients or others who are unlike the members,
            any attack by itself, without correction for their number, found members, near copies
            were found, or the set was painted from masks of members.
    """
    findings, records = [], []
    for folder in audits:
        record, name = read_audit(folder), f"{folder / AUDIT_FILE}"
        records.append(record)
        reason = _unfit(run, record, name)
        if not reason and record.masks != masks:
            reason = (
                f"{name} is of a set that was painted from other masks; audit with the same --masks"
            )
        if not reason and record.fading != fading.told():
            reason = (
                f"{name} is of a set in which other labels were faded; audit with the same --fade"
            )
        reason = reason or unconfirmed(record.confirmed, name)
        if not reason and (reason := _objection(run, record)):
            reason = ". ".join([reason, *remedies(run, record.audit)]).rstrip(".")
        if reason:
            raise RunError(f"{run.path} may not be released: {reason}.")
        findings.append(f"{', '.join(sorted(record.confirmed))}: {_findings(record)}")
    if reason := _uncovered(run, records):
        raise RunError(f"{run.path} may not be released: {reason}.")
    return ". ".join(findings)


def release_by(run: RunFolder, record: AuditRecord, beside: Sequence[AuditRecord] = ()) -> str:
    """Whether `check_released` permits a release by this audit and others, and why not.

    Returns:
        "permitted", or "not permitted, because ...".
    """
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
    for site, count in record.audit.every.groups.members.items():
        # A site whose policy tells no number of its cases says one.
        if site not in sites or 1 < sites[site]["cases"] < count:
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
    whole = found.whole.attacks if found.whole else []
    # Of masks that are the members' own, `owned` says what to do.
    told = BY_MASK if record.of_members else ()
    objections = [
        *([] if copies.passes else [record.decided(copies.verdict)]),
        *(one.objection(record.decided) for one in found.attacks if one.name not in told),
        # Leaving patients out to make the groups alike must not permit what all of them forbid.
        *(
            replace(one, explained=False).objection(record.decided)
            for one in whole
            if one.name not in told
        ),
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
        "site has (so has the --holdout), and name that audit with one more --release. A site of "
        "which single cases lack a modality cannot be audited"
    )
