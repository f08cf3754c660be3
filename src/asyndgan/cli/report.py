"""`asyndgan report`: one page about a run."""

from pathlib import Path
from typing import Annotated

import typer

from asyndgan.auditing.audit import AUDIT_FILE
from asyndgan.cli.terminal import Terminal
from asyndgan.cli.train import parsed_sites
from asyndgan.data import Case
from asyndgan.data.prepare import load_cases
from asyndgan.errors import RunError
from asyndgan.painting.sets import check_provenance
from asyndgan.painting.synthesise import released_masks, synthesise
from asyndgan.reports.found import is_of_generator
from asyndgan.reports.report import write_report
from asyndgan.reports.words import size
from asyndgan.runs import RunFolder


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path | None, typer.Option(help="File to write; else RUN/report.html.")] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="Show real images: of these sites beside the synthetic ones, and the "
            "evaluation's and the audit's examples. They become part of the page: for phantoms, "
            "or if you may.",
        ),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(help="What 'asyndgan evaluate' wrote; else RUN/evaluation or beside RUN."),
    ] = None,
    audit: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="What 'asyndgan audit' wrote; once for each audit. Else RUN/audit or beside RUN.",
        ),
    ] = None,
    synthetic: Annotated[
        Path | None,
        typer.Option(help="Synthetic data set to show; else painted anew from released masks."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
) -> None:
    """Writes one page about a run: images, usefulness, training, what left the sites, attacks."""
    console = Terminal(stderr=True)
    folder = RunFolder(run)
    judged = evaluation or _of_this_run(folder, "evaluation", "evaluation.json", "about")
    found = _of_this_run(folder, "audit", AUDIT_FILE)
    audits = audit or ([found] if found else [])
    page = write_report(
        folder,
        out or run / "report.html",
        synthetic=_synthetic(console, folder, synthetic),
        real=_real(folder, site or []),
        evaluation=judged,
        audits=audits,
        title=title,
    )
    about = f"with the evaluation in {judged}" if judged else "without an evaluation"
    about += (
        f", with the audit in {', '.join(map(str, audits))}" if audits else ", without an audit"
    )
    console.print(f"{page} ({size(page.stat().st_size)}), {about}")


def _of_this_run(run: RunFolder, name: str, file: str, *within: str) -> Path | None:
    """The folder with this name, in the run folder or beside it, whose file is of its generator."""
    generator = run.facts().generator_sha256
    for folder in (run.path / name, run.path.resolve().parent / name):
        if (folder / file).exists() and is_of_generator(folder / file, generator, *within):
            return folder
    return None


def _synthetic(console: Terminal, run: RunFolder, folder: Path | None) -> list[Case]:
    """Synthetic cases to show; if none can be painted, prints why and returns none."""
    facts = run.facts()
    if folder:
        check_provenance(run, folder)
        return load_cases(folder, run.recipe().image, facts.modalities, synthetic=True)
    try:
        return list(synthesise(run, released_masks(run)))
    except RunError as error:
        console.print(f"no images on the page: {error}", style="yellow")
        if not run.has_masks:
            console.print(
                "A set that was painted from other masks ('asyndgan generate --masks') can be "
                "shown: --synthetic FOLDER.",
                style="yellow",
            )  # fmt: skip
        return []


def _real(run: RunFolder, pairs: list[str]) -> dict[str, list[Case]]:
    folders = parsed_sites(pairs)
    known = run.facts().sites
    for name in folders:
        if name not in known:
            raise RunError(f"--site {name}: this run has {', '.join(known)}. Name one of them.")
    return {
        name: load_cases(path, run.recipe().image, incomplete=True)
        for name, path in folders.items()
    }
