"""What synthetic records reveal of the records that a run was trained on."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, final

import numpy as np
from pydantic import Field, StrictBool, TypeAdapter

from asyndgan.auditing.audit import AUDIT_FILE, decided
from asyndgan.auditing.membership import LEVEL, Attack, attack, holm
from asyndgan.auditing.release import (
    began_elsewhere,
    first_refusal,
    permitting,
    said_by,
    unconfirmed,
)
from asyndgan.auditing.run import confirmed_by
from asyndgan.auditing.schema import Whole
from asyndgan.errors import RunError
from asyndgan.judging.metrics import fraction_interval
from asyndgan.judging.records import distances, split_sites
from asyndgan.judging.table import read_result
from asyndgan.lazy import Late
from asyndgan.locks import written_alone
from asyndgan.painting.records import make_records
from asyndgan.runs import RunFolder
from asyndgan.runs.facts import Hex
from asyndgan.runs.trial import trial_of
from asyndgan.tables.cohort import read_for, table_of
from asyndgan.tables.encoding import Encoder
from asyndgan.tables.schema import refuse_for_images
from asyndgan.tables.table import check_apart, equal_records, nearly_equal
from asyndgan.texts import SiteName, replace_text

stats: Any = Late("scipy.stats")  # a second that most commands need not wait for

if TYPE_CHECKING:
    import pandas as pd

FEWEST: Final = 50
"""Fewest records of each group: with fewer an AUC says nothing."""
UNSURE: Final = 0.02
"""How far the fraction of matched others may lie above what was found, if members are copied."""
ALL_SITES: Final = "all sites"


@final
@dataclass(frozen=True)
class RecordsAudit:
    """What `audit.json` holds of a table."""

    generator_sha256: Hex  # of the run's generator
    # membership at each site by the nearest synthetic record, then at all sites
    attacks: Annotated[list[Attack], Field(min_length=1)]
    # of each attack, members of which some synthetic record is a copy in all columns
    copies: list[Whole]
    matches: Whole  # others of whom the same is true, which nobody can have copied
    near: Whole  # others of whom it is true in all columns but one, at the least
    # by site, whether its own state confirms that it was trained on these records
    confirmed: Annotated[dict[SiteName, StrictBool], Field(min_length=1)]
    uncompared: list[SiteName]  # sites of the run whose members may be among the others given
    kind: Literal["table"] = "table"

    def __post_init__(self) -> None:
        counted = zip(self.attacks, self.copies, strict=True)
        if any(not copies <= one.members or one.others < 1 for one, copies in counted):
            raise ValueError("more copies than members, or nobody to compare them with")
        if not self.matches <= self.near <= min(one.others for one in self.attacks):
            raise ValueError("more matches than others")
        if strange := {one.name for one in self.attacks} - {*self.confirmed, ALL_SITES}:
            raise ValueError(f"attacks on {len(strange)} sites that are not named")

    @property
    def matched(self) -> float:
        """Fraction of the others of which some synthetic record is a copy in all columns."""
        return self.matches / self.attacks[-1].others

    @property
    def told(self) -> str:
        """How many members are copied, beside what chance does."""
        whole = self.attacks[-1]
        return (
            f"{self.copies[-1]} of {whole.members} members equal a synthetic record in all "
            f"columns. By chance {self.matches} of {whole.others} others do, and {self.near} in "
            "all columns but one or in all"
        )

    def objections(self, decided: Callable[[str], str] = str) -> Iterator[str]:
        """Why the synthetic records may not be released; empty: they may."""
        yield from filter(None, (one.objection(decided) for one in self.attacks))
        for one, copies in zip(self.attacks, self.copies, strict=True):
            table = np.array(
                [[copies, one.members - copies], [self.matches, one.others - self.matches]]
            )
            found = (
                f"{one.name}: {copies} of {one.members} members are copied in all columns, "
                f"{self.matches} of {one.others} others"
            )
            unsure = fraction_interval(self.matches, one.others)[1] - self.matched >= UNSURE
            if stats.fisher_exact(table, alternative="greater").pvalue < LEVEL:
                yield f"{found}. Train for fewer steps"
            elif copies and unsure:
                yield f"{found}, too few to know whether chance does that. Give more with --holdout"
            elif copies and not self.near:
                yield (
                    f"{found}, and of these none even in all columns but one, so chance does not "
                    "explain it. Train for fewer steps, or give more with --holdout"
                )


def audit_records(
    run: RunFolder,
    sites: Mapping[str, Path],
    out: Path,
    *,
    holdout: Path | None = None,
    states: Mapping[str, Path] | None = None,
    **of_images: object,
) -> RecordsAudit:
    """Infers members of a run by the distance to the closest synthetic record.

    The attacker has the synthetic table and candidate records (Yeom et al. 2018 in the form of Chen
    et al. 2020, GAN-Leaks, full black box). Arguments are those of `asyndgan.audit`.

    Raises:
        RunError: an option of images is given, fewer than `FEWEST` records on one side or synthetic
            ones, a site is none of the run's, or the holdout are its records.
        DataError, CohortError: a table cannot be read, or has other columns.
    """
    with written_alone(out):
        refuse_for_images(of_images)
        split_up = split_sites(run, sites, states or {})
        kept = split_up.kept
        others = (
            read_for(run.recipe(), holdout, "the holdout").records if holdout else split_up.held
        )
        made = make_records(run)
        _check_enough(kept, others, made)
        if holdout:
            check_apart(others, [*kept.values()], "--holdout")
        encoder = Encoder(table_of(run.recipe()))
        near = {site: -distances(encoder, own, made) for site, own in kept.items()}
        if len(near) > 1:
            near[ALL_SITES] = np.concatenate(list(near.values()))
        apart = -distances(encoder, others, made)
        attacks = [attack(site, own, apart) for site, own in near.items()]
        corrected = holm([one.p_value for one in attacks])
        # A synthetic record has no more digits than the encoding keeps, however well it is copied.
        *members, strangers, written = map(encoder.as_written, (*kept.values(), others, made))
        *copies, matches = (equal_records(own, [written]) for own in (*members, strangers))
        result = RecordsAudit(
            generator_sha256=run.facts().generator_sha256,
            attacks=[replace(a, corrected=p) for a, p in zip(attacks, corrected, strict=True)],
            copies=[*copies, sum(copies)] if len(copies) > 1 else copies,
            matches=matches,
            near=nearly_equal(strangers, written),
            confirmed={
                site: confirmed_by(
                    run,
                    site,
                    states or {},
                    partial(split_up.members, site, site),
                    f"{data} does not hold the records that {site} was trained on. Name the table "
                    "that the site had.",
                )
                for site, data in sites.items()
            },
            uncompared=sorted(set(run.facts().sites) - set(sites)) if holdout else [],
        )
        out.mkdir(parents=True, exist_ok=True)
        replace_text(out / AUDIT_FILE, json.dumps(asdict(result), indent=2) + "\n")
        return result


def _check_enough(
    kept: Mapping[str, "pd.DataFrame"], others: "pd.DataFrame", made: "pd.DataFrame"
) -> None:
    groups = {**{f"of {site}": own for site, own in kept.items()}, "of no site": others}
    groups["that the generator makes by default"] = made
    if few := [f"{len(own)} {name}" for name, own in groups.items() if len(own) < FEWEST]:
        raise RunError(
            f"an audit compares {FEWEST} records at least of each site, of others and of synthetic "
            f"ones; there are {', '.join(few)}. Name others with --holdout, or train on more "
            "records, or with training.hold_out above 0. A site of so few cannot be audited."
        )


_AUDIT: Final = TypeAdapter(RecordsAudit)


def _read(folder: Path) -> RecordsAudit:
    return read_result(folder / AUDIT_FILE, _AUDIT, "audit of a table", "asyndgan audit")


def check_released_records(run: RunFolder, audits: Sequence[Path]) -> str:
    """Findings of audits, for the model card; raises `RunError` unless they permit a release."""
    found = permitting(run, audits, _read, partial(_refusal, run), _uncovered)
    return "; ".join(f"{one.name}: {one.verdict}" for audit in found for one in audit.attacks)


def release_by_records(
    run: RunFolder, audit: RecordsAudit, beside: Sequence[RecordsAudit] = ()
) -> str:
    """Whether these audits permit a release: "permitted", or "not permitted, because ..."."""
    reason = first_refusal(partial(_refusal, run), audit, beside)
    reason = reason or _uncovered(run, [audit, *beside])
    return f"not permitted, because {reason}" if reason else "permitted"


def _refusal(run: RunFolder, audit: RecordsAudit, name: str) -> str:
    """Why an audit of this name permits no release of what it covers; empty if it does."""
    strange = {one.name for one in audit.attacks} - {*run.facts().sites, ALL_SITES}
    if audit.generator_sha256 != run.generator_digest() or strange:
        return f"{name} is of another generator than {run.path}; audit this one"
    if reason := unconfirmed(audit.confirmed, name):
        return reason
    if audit.uncompared:
        return (
            f"the others of {name} were not compared with the members of "
            f"{', '.join(audit.uncompared)}, who may be among them. Audit all sites together, or "
            "leave --holdout out and audit on records that the run held out (training.hold_out)"
        )
    trial = trial_of(run.facts(), run.recipe())
    return said_by(name, next(audit.objections(lambda verdict: decided(verdict, trial)), ""))


def _uncovered(run: RunFolder, audits: Sequence[RecordsAudit]) -> str:
    covered = {one.name for each in audits for one in each.attacks}
    names = ", ".join(sorted(set(run.facts().sites) - covered))
    return began_elsewhere(run.facts()) or (
        names
        and f"no audit covers {names}. Audit with --site there, and name that audit with one "
        "more --audit"
    )
