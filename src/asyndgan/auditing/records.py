"""What synthetic records reveal of the records that a run was trained on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, final

import numpy as np
from pydantic import TypeAdapter

from asyndgan.auditing.audit import AUDIT_FILE
from asyndgan.auditing.membership import Attack, attack, holm
from asyndgan.errors import RunError
from asyndgan.judging.metrics import fraction_interval
from asyndgan.judging.records import distances, joined, split_sites
from asyndgan.painting.records import make_records
from asyndgan.received import lacking
from asyndgan.runs import RunFolder
from asyndgan.tables.cohort import read_for, table_of
from asyndgan.tables.encoding import Encoder
from asyndgan.tables.table import rows_of
from asyndgan.texts import bounded_text, parsed_json, replace_text

if TYPE_CHECKING:
    import pandas as pd

FEWEST: Final = 50
"""Fewest records of each group: with fewer an AUC says nothing."""
ALL_SITES: Final = "all sites"


@final
@dataclass(frozen=True)
class RecordsAudit:
    """What `audit.json` holds of a table.

    Attributes:
        generator_sha256: of the run's generator.
        attacks: membership at each site by the nearest synthetic record, then at all sites.
        copied: fraction of members of which some synthetic record is a copy in all columns.
        matched: the same fraction of the others, which nobody can have copied.
    """

    generator_sha256: str
    attacks: list[Attack]
    copied: float
    matched: float
    kind: Literal["table"] = "table"

    @property
    def copies_members(self) -> bool:
        """Whether members are copied more often than others, beyond chance (95 % intervals)."""
        last = self.attacks[-1]
        copied, matched = (
            fraction_interval(round(part * count), count)
            for part, count in ((self.copied, last.members), (self.matched, last.others))
        )
        return copied[0] > matched[1]


def audit_records(
    run: RunFolder,
    sites: Mapping[str, Path],
    out: Path,
    *,
    holdout: Path | None = None,
    states: Mapping[str, Path] | None = None,
) -> RecordsAudit:
    """Infers members of a run by the distance to the closest synthetic record.

    The attacker has the synthetic table and candidate records (Yeom et al. 2018 in the form of Chen
    et al. 2020, GAN-Leaks, full black box).

    Args:
        run: a finished run of a table.
        sites: table of some of its sites, by name.
        out: folder for the result.
        holdout: records of the same customers' kind that the run has not seen; None: those that the
            sites held out.
        states: as in `evaluate_records`.

    Raises:
        RunError: fewer than `FEWEST` records on one side, or a site is none of the run's.
        DataError, CohortError: a table cannot be read, or has other columns.
    """
    kept, held = split_sites(run, sites, states or {})
    others = read_for(run.recipe(), holdout, "the holdout").records if holdout else held
    if min(len(others), *map(len, kept.values())) < FEWEST:
        raise RunError(
            f"an audit compares {FEWEST} records at least with as many that the run has not seen; "
            f"there are {len(others)} of the latter. Name others with --holdout, or train with "
            "training.hold_out above 0."
        )
    encoder, made = Encoder(table_of(run.recipe())), make_records(run)
    near = {site: -distances(encoder, own, made) for site, own in kept.items()}
    if len(near) > 1:
        near[ALL_SITES] = np.concatenate(list(near.values()))
    apart = -distances(encoder, others, made)
    attacks = [attack(site, own, apart) for site, own in near.items()]
    corrected = holm([one.p_value for one in attacks])
    result = RecordsAudit(
        generator_sha256=run.facts().generator_sha256,
        attacks=[replace(a, corrected=p) for a, p in zip(attacks, corrected, strict=True)],
        copied=_copied(made, joined(kept.values())),
        matched=_copied(made, others),
    )
    out.mkdir(parents=True, exist_ok=True)
    replace_text(out / AUDIT_FILE, json.dumps(asdict(result), indent=2) + "\n")
    return result


def _copied(made: "pd.DataFrame", records: "pd.DataFrame") -> float:
    known = set(rows_of(made))
    rows = rows_of(records[list(made.columns)])
    return sum(row in known for row in rows) / len(rows)


_AUDIT: Final = TypeAdapter(RecordsAudit)


def check_released_records(run: RunFolder, audits: Sequence[Path]) -> str:
    """Checks that audits of this generator found no member and no more copies than chance makes.

    Args:
        run: run of a table, whose synthetic records are to be passed on.
        audits: folders of audits; together they cover every site of the run.

    Returns:
        The findings of the audits, for the model card.

    Raises:
        RunError: a site was not audited; or an audit cannot be read, is of another generator, or
            objects.
    """
    missing, findings = set(run.facts().sites), []
    for folder in audits:
        path = folder / AUDIT_FILE
        if fault := lacking(path, "asyndgan audit"):
            raise RunError(fault)
        try:
            audit = _AUDIT.validate_python(parsed_json(bounded_text(path, links=False)))
        except (OSError, TypeError, ValueError) as error:
            raise RunError(
                f"{path} is no audit of a table; make it anew with 'asyndgan audit'."
            ) from error
        if audit.generator_sha256 != run.generator_digest() or not audit.attacks:
            raise RunError(f"{path} is of another generator than {run.path}; audit this one.")
        if told := next(filter(None, (one.objection for one in audit.attacks)), ""):
            raise RunError(f"{run.path} may not be released: {told}.")
        if audit.copies_members:
            raise RunError(
                f"{run.path} may not be released: {audit.copied:.2%} of the members are copied in "
                f"all columns, of others {audit.matched:.2%}. Train for fewer steps."
            )
        missing -= {one.name for one in audit.attacks}
        findings += [f"{one.name}: {one.verdict}" for one in audit.attacks]
    if missing:
        raise RunError(
            f"{run.path} may not be released: no audit covers {', '.join(sorted(missing))}. Audit "
            "with --site there, and name that audit with one more --release."
        )
    return "; ".join(findings)
