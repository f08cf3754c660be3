"""`asyndgan audit`: what a run reveals about whose images it was trained on."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from rich.table import Table

from asyndgan.auditing.audit import AUDIT_FILE, NEAREST_FILE
from asyndgan.auditing.reconstruction import not_asked
from asyndgan.auditing.run import audit_run
from asyndgan.cli.check import PatientPattern
from asyndgan.cli.generate import Fade
from asyndgan.cli.terminal import Terminal
from asyndgan.cli.train import States, parsed_sites
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.runs import RunFolder


def audit(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    site: Annotated[
        list[str],
        typer.Option(
            "--site",
            metavar="NAME=FOLDER",
            help="A site and the folder of its data; a hospital names itself alone.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the audit; holds real images: keep it at the site.")
    ],
    holdout: Annotated[
        Path | None,
        typer.Option(
            help="Data set of patients of the same hospitals that the run has not seen; else those "
            "that it held out."
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Data set of masks that the set to be released is painted from; else those that "
            "sites released, or their own."
        ),
    ] = None,
    fade: Fade = None,
    state: States = None,
    canaries: Annotated[
        str,
        typer.Option(
            metavar="START",
            help="Compare only patients whose names start so: those put in on purpose. Such an "
            "audit releases nothing.",
        ),
    ] = "",
    patient_pattern: PatientPattern = DEFAULT_PATIENT_PATTERN,
) -> None:
    """Infers who took part, and where; finds near copies; reads pixels as a coordinator."""
    folder, sites = RunFolder(run), parsed_sites(site)
    record = audit_run(
        folder, sites, out, holdout=holdout, masks=masks, faded=fade or (),
        states=parsed_sites(state or [], "--state"), canaries=canaries,
        patient_pattern=patient_pattern,
    )  # fmt: skip
    found = record.audit
    console = Terminal()
    table = Table("attack", "AUC", "95 % interval", "p", "epsilon at least")
    for attack in found.attacks:
        table.add_row(
            attack.name, f"{attack.auc:.3f}", f"{attack.low:.3f} to {attack.high:.3f}",
            f"{attack.p_value:.3f}", f"{attack.epsilon:.2f}",
        )  # fmt: skip
    console.print(table)
    for attack in found.attacks:
        console.print(f"{attack.name}: {attack.verdict}", soft_wrap=True)
    for name in sorted(name for name, known in record.confirmed.items() if not known):
        console.print(
            f"members: NOT CONFIRMED that {name} was trained on them; say where its states of the "
            f"run are with --state {quote(name)}=FOLDER", soft_wrap=True,
        )  # fmt: skip
    if found.uncompared:
        console.print(
            f"others: NOT COMPARED with the members of {', '.join(found.uncompared)}, so that none "
            "of them was learned from there rests on whoever named them", soft_wrap=True,
        )  # fmt: skip
    console.print(f"copies: {found.copies.verdict}", soft_wrap=True)
    for one in record.pixels:
        console.print(f"pixels: {one.verdict}", soft_wrap=True)
    if beyond := not_asked(folder):
        console.print(f"pixels: NOBODY WAS ASKED, for {beyond}", soft_wrap=True)
    if found.sites:
        console.print(f"site: {found.sites.verdict}", soft_wrap=True)
    console.print(f"{out / AUDIT_FILE}\n{out / NEAREST_FILE}", soft_wrap=True)
