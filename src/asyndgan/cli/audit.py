"""`asyndgan audit`: what a run reveals about the patients it was trained on."""

from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from rich.table import Table

from asyndgan.cli.evaluate import EvaluationDisplay, tell_trial
from asyndgan.cli.options import FinishedRun, NewFolder, Sites, StudyOption, parsed_sites
from asyndgan.cli.tables import tell_records_audit
from asyndgan.cli.terminal import Terminal
from asyndgan.intake.nnunet import DEFAULT_PATIENT_PATTERN

if TYPE_CHECKING:
    from asyndgan.auditing.membership import Attack
    from asyndgan.auditing.record import AuditRecord
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
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    study: StudyOption = None,
) -> None:
    """Attacks a run to measure what it reveals about patients.

    Infers which patients the run trained on and at which site, searches for near copies of real
    images, and reconstructs pixels as a coordinator could. A hospital names only itself with
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
    from asyndgan.auditing.records import audit_records
    from asyndgan.auditing.run import audit_run
    from asyndgan.intake.dataset import DataSet, told
    from asyndgan.runs import RunFolder
    from asyndgan.runs.sites import RunSites
    from asyndgan.tables.schema import refuse_for_images

    console, folder = Terminal(), RunFolder(run)
    given, states = parsed_sites(site), parsed_sites(state or [], "--state")
    if folder.recipe().table:
        refuse_for_images(
            {"masks": masks, "fade": fade, "canaries": canaries,
             "patient_pattern": patient_pattern != DEFAULT_PATIENT_PATTERN}
        )  # fmt: skip
        with EvaluationDisplay(console, "compare records with the nearest synthetic ones"):
            found = audit_records(folder, given, out, holdout=holdout, states=states)
        tell_records_audit(console, folder, found)
        return console.say(f"{out / AUDIT_FILE}")
    sites = RunSites.opened(folder, given, states=states, patient_pattern=patient_pattern)
    others = DataSet(holdout, patient_pattern) if holdout else None
    console.say(told({**sites.data, **({"hold-out set": others} if others else {})}))
    stopped = (
        f"the audit was stopped before {out / AUDIT_FILE} was written; the same command begins "
        "anew."
    )
    with EvaluationDisplay(
        console, "read the patients", whole="The audit", stopped=stopped
    ) as display:
        record = audit_run(
            sites, out, holdout=others, masks=masks, faded=fade or (), canaries=canaries,
            watch=display.show,
        )  # fmt: skip
    tell_audit(console, folder, record)
    console.say(f"{out / AUDIT_FILE}\n{out / NEAREST_FILE} (real patients: keep it at the site)")


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
    from asyndgan.auditing.record import release_by
    from asyndgan.auditing.remedies import remedies

    tell_trial(console, run)
    found = record.audit
    tell_attacks(console, found.attacks)
    if record.painted_from:
        console.say(f"masks: {record.painted_from}")
    if found.whole:
        console.say(
            f"all patients: {found.whole.groups.verdict}; so the table compares only patients in "
            "the same mix of hospitals, drawn at random"
        )
    console.say(f"groups: {found.groups.verdict}")
    for attack in found.attacks:
        console.say(f"{attack.name}: {record.decided(attack.verdict)}")
    for attack in found.kept:
        console.say(f"kept masks, {attack.name}: {record.decided(attack.verdict)}")
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
    if found.sites:
        console.say(f"site: {found.sites.verdict}")
    for remedy in remedies(run, found):
        console.say(f"to do: {remedy}")
    console.say(f"release: {release_by(run, record)}")
