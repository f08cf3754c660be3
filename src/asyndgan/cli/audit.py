"""`asyndgan audit`: what a run reveals about the patients it was trained on."""

from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.table import Table

from asyndgan.cli.evaluate import EvaluationDisplay, tell_trial
from asyndgan.cli.following import too_few
from asyndgan.cli.options import (
    AsJson,
    FinishedRun,
    NewFolder,
    Sites,
    StudyOption,
    parsed_sites,
    print_written,
)
from asyndgan.cli.terminal import Terminal

if TYPE_CHECKING:
    from asyndgan.auditing.membership import Attack
    from asyndgan.auditing.record import AuditRecord
    from asyndgan.auditing.records import RecordsAudit
    from asyndgan.kinds import Sets
    from asyndgan.runs import RunFolder


def audit(
    run: FinishedRun,
    site: Sites,
    out: NewFolder,
    holdout: Path | None = None,
    masks: Path | None = None,
    fade: list[str] | None = None,
    state: list[str] | None = None,
    canaries: str = "",
    as_json: AsJson = False,
    study: StudyOption = None,
) -> None:
    """Attacks a run to measure what it reveals about patients.

    Infers which patients the run trained on, searches for near copies of real images, and
    reconstructs pixels as a coordinator could. A hospital names only itself with
    --site. Prints a table and writes it to OUT/audit.json.

    Example:
        asyndgan audit run --site a=data/north --holdout data/test --out audit

    Output:
        --out FOLDER: Folder for the audit. It will contain real images: keep it at the site.

    Data:
        --holdout FOLDER: Data set of patients of the same hospitals, in the same mix, that the run
            did not train on. Patients' names should hold their site's (north-p7). By default the
            patients that the run held out.
        --canaries PREFIX: Attack only patients whose names begin with PREFIX: canaries, which were
            added for this purpose. Such an audit permits no release.

    Masks:
        --masks FOLDER: Data set of the masks from which the set for release is painted. By default
            the masks that the sites released, else the sites' own masks.
    """
    from asyndgan.auditing.audit import AUDIT_FILE, NEAREST_FILE
    from asyndgan.intake.dataset import told
    from asyndgan.kinds import Records, kind_of
    from asyndgan.runs import RunFolder

    console, folder, given = Terminal(stderr=as_json), RunFolder(run), parsed_sites(site)
    kind = kind_of(folder)
    how: dict[str, Any] = {
        "holdout": holdout, "states": parsed_sites(state or [], "--state"), "masks": masks,
        "fade": fade or (), "canaries": canaries,
    }  # fmt: skip
    if isinstance(kind, Records):
        with EvaluationDisplay(console, "compare records with the nearest synthetic ones"):
            found = kind.audit(given, out, **how)
        tell_records_audit(console, folder, found)
        console.say(f"{out / AUDIT_FILE}")
        return print_written(out / AUDIT_FILE, wanted=as_json)

    def tell(sites: "Sets", others: "Sets") -> None:
        console.say(told({**sites, **others}))
        tell_few(console, folder, sites, others)

    stopped = (
        f"the audit was stopped before {out / AUDIT_FILE} was written; the same command begins "
        "anew."
    )
    with EvaluationDisplay(console, "read the patients", stopped=stopped) as display:
        record = kind.audit(given, out, tell=tell, watch=display.show, **how)
    tell_audit(console, folder, record)
    console.say(f"{out / AUDIT_FILE}\n{out / NEAREST_FILE} (real patients: keep it at the site)")
    print_written(out / AUDIT_FILE, wanted=as_json)


def tell_few(console: Terminal, run: "RunFolder", sites: "Sets", holdout: "Sets") -> None:
    """Says before hours of work that an audit of so few patients will hardly permit a release."""
    members, others = (
        sum(len({*data.patients.values()}) for data in group.values()) for group in (sites, holdout)
    )
    if not holdout:
        others = round(members * run.recipe().training.hold_out)
        members -= others
    for line in too_few(members, others):
        console.say(line, style="yellow")


def tell_attacks(console: Terminal, attacks: Iterable["Attack"]) -> None:
    """Prints the table of attacks."""
    from asyndgan.reports.audited import MEANING, figures_of

    table = Table(
        "attack", "AUC", "95 % interval", "p", "p, corrected", "epsilon at least", caption=MEANING
    )
    for attack in attacks:
        table.add_row(
            attack.name, f"{attack.auc:.3f}", f"{attack.low:.3f} to {attack.high:.3f}",
            *figures_of(attack),
        )  # fmt: skip
    console.print(table)


def tell_audit(console: Terminal, run: "RunFolder", record: "AuditRecord") -> None:
    """Prints an audit's table, its result line by line, what to do, and if it permits a release."""
    from asyndgan.auditing.reconstruction import not_asked
    from asyndgan.auditing.release import release_by
    from asyndgan.auditing.remedies import remedies

    tell_trial(console, run)
    found = record.audit
    tell_attacks(console, found.attacks)
    if record.painted_from:
        console.say(f"masks: {record.painted_from}")
    console.say(f"groups: {found.groups.verdict}")
    for attack in found.attacks:
        console.say(f"{attack.name}: {record.decided(attack.verdict)}")
    for name in sorted(name for name, known in record.confirmed.items() if not known):
        console.say(
            f"members: NOT CONFIRMED that the run was trained on these patients of {name}, so no "
            "set can be released; name the folder of the site's states of the run with --state "
            f"{quote(name)}=FOLDER"
        )
    if found.uncompared:
        console.say(
            f"others: they were not compared with the members of {', '.join(found.uncompared)}, so "
            "make sure that none of them is a member there"
        )
    console.say(f"copies: {record.decided(found.copies.verdict)}")
    for one in record.pixels:
        console.say(f"pixels: {one.verdict}")
    if beyond := not_asked(run):
        console.say(f"pixels: no site was asked, for {beyond}")
    for remedy in remedies(run, found):
        console.say(f"to do: {remedy}")
    console.say(f"release: {release_by(run, record)}")


def tell_records_audit(console: Terminal, run: "RunFolder", found: "RecordsAudit") -> None:
    """Prints an audit of records, and whether it permits a release."""
    from asyndgan.auditing.audit import decided
    from asyndgan.auditing.records import release_by_records
    from asyndgan.runs.trial import trial_of

    tell_trial(console, run)
    tell_attacks(console, found.attacks)
    verdict = decided(found.attacks[-1].verdict, trial_of(run.facts(), run.recipe()))
    console.say(f"{found.attacks[-1].name}: {verdict}")
    console.say(f"copies: {found.told}")
    if found.uncompared:
        console.say(
            f"others: they were not compared with the members of {', '.join(found.uncompared)}"
        )
    console.say(f"release: {release_by_records(run, found)}")
