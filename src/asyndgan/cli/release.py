"""`asyndgan release`: paints a set that audits permit to pass on, with what catalogues read."""

from inspect import unwrap
from pathlib import Path
from typing import Annotated

import typer

import asyndgan
from asyndgan.cli.evaluate import EvaluationDisplay, tell_trial
from asyndgan.cli.options import FinishedRun, NewFolder, StudyOption
from asyndgan.cli.terminal import Terminal
from asyndgan.texts import counted


def release(
    run: FinishedRun,
    out: NewFolder,
    licence: Annotated[str, typer.Option("--licence")],
    creator: Annotated[str, typer.Option("--creator")],
    contact: Annotated[str, typer.Option("--contact")],
    audit: list[Path] | None = None,
    use: str = "",
    masks: Path | None = None,
    fade: list[str] | None = None,
    like: Path | None = None,
    study: StudyOption = None,
) -> None:
    r"""Paints the set that audits permit to pass on, ready to publish.

    Paints the audited set again. Refused if the audits do not cover all sites, or found members
    or copies. Beside the images and MODEL_CARD.md, which reports the audits, it writes what
    catalogues read: croissant.json, ro-crate-metadata.json, and manifest-sha256.txt, which
    'sha256sum -c' checks.

    Example:
        asyndgan release run --audit audit --licence CC-BY-4.0 --creator "Ward 3" \
            --contact images@ward3.example --out released

    Audits:
        --audit FOLDER: An audit of the set. Several must together cover all sites. By default
            those that the sites of a federation answered ('asyndgan federation audit').

    Publisher:
        --licence ID: Licence of the set, of the SPDX list, such as CC-BY-4.0. Ask the sites whose
            images the generator learned from.
        --creator NAME: Person or institution that answers for the set.
        --contact ADDRESS: Address of mail or of a page, where recipients ask.
        --use CODE: Permitted use, as a code of the Data Use Ontology, such as DUO:0000042.

    Masks:
        --masks FOLDER: Data set of masks that the audits named.

    Output:
        --like FOLDER: Store files as this data set of a site does, as with 'generate'.
    """
    from asyndgan.runs import RunFolder

    console, folder = Terminal(), RunFolder(run)
    with EvaluationDisplay(console, "paint cases", counted=True) as display:
        count = unwrap(asyndgan.release)(  # whose errors name arguments
            run, out, audit or (), licence=licence, creator=creator, contact=contact, use=use,
            masks=masks, fade=fade or (), like=like,
            watch=display.show,
        )  # fmt: skip
    tell_trial(console, folder)
    console.say(f"{counted(count, 'case')} in {out}, with MODEL_CARD.md and croissant.json.")
