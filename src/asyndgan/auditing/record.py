"""What `audit.json` says, and the gate that releases a synthetic set by it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from asyndgan.auditing.audit import AUDIT_FILE, Audit
from asyndgan.auditing.copies import NearCopies
from asyndgan.auditing.membership import Attack
from asyndgan.auditing.reconstruction import PixelsRead
from asyndgan.auditing.sites import SitesGuessed
from asyndgan.errors import RunError
from asyndgan.painting.fading import AS_PAINTED, Fading
from asyndgan.painting.synthesise import PAINTING_VERSION
from asyndgan.runs import RunFolder
from asyndgan.texts import bounded_text, parsed_json

MOST: Final = 10**9
"""Largest number of patients, or of steps, that is taken for one."""

LARGEST: Final = 1e15
"""A number beyond all that an audit finds."""

MOST_DECIBELS: Final = 1000.0
"""Largest ratio between images that is taken for one; rounding leaves some 130."""


@final
@dataclass(frozen=True)
class AuditRecord:
    """An audit, and what it is of.

    Attributes:
        audit: its findings.
        pixels: what a coordinator reads of some sites' images.
        generator: SHA-256 of the generator.
        masks: digest of the masks from which the audited set was painted.
        fading: labels that the set shows more or less clearly, as `Fading.told` says it.
        painting_version: version of the painting.
        modalities: names of the modalities that were compared.
        canaries: start of the names of both groups; empty if they are not canaries.
        confirmed: by site of members, whether its own state says that they took part.
    """

    audit: Audit
    pixels: list[PixelsRead]
    generator: str
    masks: str
    fading: Mapping[str, Any]
    painting_version: int
    modalities: frozenset[str]
    canaries: str
    confirmed: dict[str, bool]

    def __repr__(self) -> str:
        found = [(one.name, one.verdict) for one in self.audit.attacks]
        found += [("copies", self.audit.copies.verdict)]
        found += [("pixels", one.verdict) for one in self.pixels]
        found += [("site", self.audit.sites.verdict)] if self.audit.sites else []
        return "\n".join(["Audit:", *(f"{name}: {verdict}" for name, verdict in found)])


def read_audit(folder: Path) -> AuditRecord:
    """Reads what an audit wrote into its folder.

    Raises:
        RunError: there is no audit, or none that can be read.
    """
    path = folder / AUDIT_FILE
    try:
        tables = parsed_json(bounded_text(path, links=False))
        sites = tables["sites"]
        return AuditRecord(
            audit=Audit(
                attacks=[_stored_attack(one) for one in tables["attacks"]],
                copies=_stored_copies(tables["copies"]),
                sites=None if sites is None else _stored_sites(sites),
                uncompared=[_text(site) for site in tables["uncompared"]],
            ),
            pixels=[_stored_pixels(one) for one in tables["pixels"]],
            generator=_text(tables["generator_sha256"]),
            masks=_text(tables["masks_sha256"]),
            fading=_stored_fading(tables["fading"]),
            painting_version=_whole(tables["painting_version"]),
            modalities=frozenset(_text(name) for name in tables["modalities"]),
            canaries=_text(tables["canaries"]),
            confirmed=_stored_confirmed(tables["confirmed"]),
        )
    except (ArithmeticError, AttributeError, OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is no audit that can be read, or an earlier version's; make it anew with "
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
            another generator, other masks, other faded labels or another way of painting, nobody
            knows whether its members took part, it has too few patients, or it found members or
            near copies of them.
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
            f"{path} is of a set that an earlier version painted, and today's would be another; "
            "audit anew."
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
    findings: list[NearCopies | Attack] = [copies, *attacks]
    telling = [one for one in findings if not one.passes]
    if telling:
        raise RunError(
            f"{run.path} may not be released: {telling[0].verdict}. Audit with more patients, or "
            "others, or train for fewer steps, or under differential privacy."
        )
    verdicts = [*(f"{one.name}: {one.verdict}" for one in attacks), copies.verdict]
    if uncompared := record.audit.uncompared:
        verdicts.append(f"others not compared with the members of {', '.join(uncompared)}")
    return sorted(record.confirmed), record.modalities, "; ".join(verdicts)


def _stored_confirmed(table: Mapping[str, Any]) -> dict[str, bool]:
    if not table:
        raise ValueError("members are of no site")
    return {_text(site): known is True for site, known in table.items()}


def _stored_fading(table: Mapping[str, Any]) -> dict[str, Any]:
    return {**table, "faded": [_whole(label) for label in table["faded"]]}


def _stored_attack(table: Mapping[str, Any]) -> Attack:
    return Attack(
        name=_text(table["name"]),
        members=_whole(table["members"]),
        others=_whole(table["others"]),
        **_numbers(table, "auc", "low", "high", "p_value", "epsilon"),
    )


def _stored_copies(table: Mapping[str, Any]) -> NearCopies:
    found, members = _whole(table["found"]), _whole(table["members"])
    if found > members or not members:
        raise ValueError("more are found than there are members")
    return NearCopies(
        found=found,
        members=members,
        others=_whole(table["others"]),
        **_numbers(table, "nearest", "nearest_other", "p_value"),
    )


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
        raise ValueError("no number of patients or images")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    value.encode()  # refuses half a character, which no page or model card can hold
    return value


def _numbers(table: Mapping[str, Any], *keys: str) -> dict[str, float]:
    return {key: _number(table[key]) for key in keys}


def _number(value: object) -> float:
    """A number; nan is stored as null."""
    if value is None:
        return math.nan
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < LARGEST:
        raise ValueError("no number")
    return float(value)


def _stored_sites(table: Mapping[str, Any]) -> SitesGuessed:
    return SitesGuessed(
        right=_whole(table["right"]),
        patients=_whole(table["patients"]),
        **_numbers(table, "low", "high", "always", "p_value"),
    )


def _stored_pixels(table: Mapping[str, Any]) -> PixelsRead:
    ways = {
        key: [float(each) for each in table[key]] for key in ("read", "followed", "painted", "flat")
    }
    if not ways["read"] or len({len(each) for each in ways.values()}) != 1:
        raise ValueError("each way has a ratio for each image")
    if any(not abs(one) <= MOST_DECIBELS for way in ways.values() for one in way):
        raise ValueError("no ratio of images")
    return PixelsRead(site=_text(table["site"]), step=_whole(table["step"]), **ways)
