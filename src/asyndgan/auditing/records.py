"""What synthetic records reveal of the records that a run was trained on."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import numpy as np

from asyndgan.auditing.audit import AUDIT_FILE
from asyndgan.auditing.membership import Attack, attack, holm
from asyndgan.errors import RunError
from asyndgan.judging.records import distances, joined, split_sites
from asyndgan.painting.records import make_records
from asyndgan.runs import RunFolder
from asyndgan.tables.cohort import read_for, table_of
from asyndgan.tables.encoding import Encoder
from asyndgan.tables.table import rows_of
from asyndgan.texts import replace_text

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
    kind: str = field(default="table")


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
