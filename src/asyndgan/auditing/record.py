"""The content of `audit.json`, and the gate that releases a synthetic set by it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, final

from pydantic import Field, StrictBool, TypeAdapter

from asyndgan.auditing.audit import AUDIT_FILE, Audit
from asyndgan.auditing.reconstruction import PixelsRead
from asyndgan.auditing.remedies import remedies
from asyndgan.auditing.schema import Faded, Text, Whole
from asyndgan.errors import RunError
from asyndgan.painting.fading import AS_PAINTED, Fading
from asyndgan.painting.synthesise import PAINTING_VERSION
from asyndgan.received import lacking
from asyndgan.runs import RunFolder
from asyndgan.texts import bounded_text, parsed_json


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
    """

    audit: Audit
    pixels: list[PixelsRead]
    generator: Annotated[Text, Field(alias="generator_sha256")]
    masks: Annotated[Text, Field(alias="masks_sha256")]
    fading: Faded
    painting_version: Whole
    modalities: frozenset[Text]
    canaries: Text
    confirmed: Annotated[dict[Text, StrictBool], Field(min_length=1)]

    def __repr__(self) -> str:
        found = [("groups", self.audit.groups.verdict)]
        found += [(one.name, one.verdict) for one in self.audit.attacks]
        found += [("copies", self.audit.copies.verdict)]
        found += [("pixels", one.verdict) for one in self.pixels]
        found += [("site", self.audit.sites.verdict)] if self.audit.sites else []
        return "\n".join(["Audit:", *(f"{name}: {verdict}" for name, verdict in found)])


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
        tables = parsed_json(bounded_text(path, links=False))
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
            or any attack by itself, without correction for their number, found members, or near
            copies were found.
    """
    findings: list[str] = []
    lacking = {site: set(about["modalities"]) for site, about in run.facts().sites.items()}
    for audited in audits:
        sites, compared, found = _passed(run, masks, fading, audited)
        findings.append(f"{', '.join(sites)}: {found}")
        for site in sites:
            lacking[site] = lacking.get(site, set()) - compared
    if names := ", ".join(
        f"{site} ({', '.join(sorted(rest))})" for site, rest in sorted(lacking.items()) if rest
    ):
        raise RunError(
            f"{run.path} may not be released: no audit covers {names}. Audit with --site there, "
            "in all modalities that the site has (so has the --holdout), and name that audit with "
            "one more --release. A site of which single cases lack a modality cannot be audited."
        )
    return ". ".join(findings)


def _passed(
    run: RunFolder, masks: str, fading: Fading, folder: Path
) -> tuple[list[str], frozenset[str], str]:
    """Sites, modalities and findings of an audit that permits a release; see `check_released`."""
    record, path = read_audit(folder), folder / AUDIT_FILE
    attacks, copies = record.audit.attacks, record.audit.copies
    if record.generator != run.generator_digest() or not attacks:
        raise RunError(f"{path} is of another generator than {run.path}; audit this one.")
    if record.canaries:
        raise RunError(
            f"{path} compares canaries alone, of which no patient is one; audit without --canaries."
        )
    if record.painting_version != PAINTING_VERSION:
        raise RunError(
            f"{path} is of a set that another version painted, and this one would paint a "
            "different set; audit anew."
        )
    if record.masks != masks:
        raise RunError(
            f"{path} is of a set that was painted from other masks; audit with the same --masks."
        )
    if record.fading != fading.told():
        raise RunError(
            f"{path} is of a set in which other labels were faded; audit with the same --fade."
        )
    if unconfirmed := [site for site, known in record.confirmed.items() if not known]:
        raise RunError(
            f"{path} compares members of {', '.join(unconfirmed)} without knowing whether they "
            "took part. Audit where these sites' states of the run are, with --state SITE=FOLDER."
        )
    whole = record.audit.whole.attacks if record.audit.whole else []
    objections = [
        *([] if copies.passes else [copies.verdict]),
        *(one.objection for one in attacks),
        # Leaving patients out to make the groups alike must not permit what all of them forbid.
        *(replace(one, explained=False).objection for one in whole),
        *([] if record.audit.groups.alike else [f"groups {record.audit.groups.verdict}"]),
    ]
    if telling := [text for text in objections if text]:
        raise RunError(
            f"{run.path} may not be released: {telling[0]}. {' '.join(remedies(run, record.audit))}"
        )
    verdicts = [*(f"{one.name}: {one.verdict}" for one in attacks), copies.verdict]
    if uncompared := record.audit.uncompared:
        verdicts.append(f"others not compared with the members of {', '.join(uncompared)}")
    return sorted(record.confirmed), record.modalities, "; ".join(verdicts)
