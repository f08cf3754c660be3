"""`asyndgan report`: one page about a run."""

from pathlib import Path

from asyndgan.cli.options import FinishedRun, StudyOption, parsed_sites
from asyndgan.cli.terminal import Terminal
from asyndgan.reports.words import counted, size


def report(
    run: FinishedRun,
    out: Path | None = None,
    site: list[str] | None = None,
    evaluation: Path | None = None,
    audit: list[Path] | None = None,
    synthetic: Path | None = None,
    study: StudyOption = None,
) -> None:
    """Writes one HTML page about a run.

    It shows images, usefulness, training, what left the sites, and attacks. Its commands hold the
    paths as you typed them.

    Example:
        asyndgan report run --evaluation evaluation --audit audit

    Output:
        --out FILE: File to write. By default RUN/report.html.

    Data:
        --site NAME=FOLDER: Show real images of this site, and the examples of the evaluation and
            the audit. They become part of the page: use it for phantoms, or if you may share the
            images.
        --evaluation FOLDER: Result of 'asyndgan evaluate'. By default RUN/evaluation, or the folder
            'evaluation' beside RUN.
        --audit FOLDER: Result of 'asyndgan audit'. By default RUN/audit, or the folder 'audit'
            beside RUN, or what the sites of a federation answered.
        --synthetic FOLDER: Synthetic data set to show. By default images are painted from the
            released masks.
    """
    from asyndgan.cli.evaluate import EvaluationDisplay
    from asyndgan.judging.asked import newest_evaluations
    from asyndgan.reports.of_run import report_run
    from asyndgan.runs import RunFolder

    console = Terminal(stderr=True)

    def tell(what: str) -> None:
        console.say(what, style="yellow")

    with EvaluationDisplay(console, "paint and draw the page"):
        page, judged, audits = report_run(
            RunFolder(run), out, sites=parsed_sites(site or []), evaluation=evaluation,
            audits=audit or [], synthetic=synthetic, tell=tell,
        )  # fmt: skip
    at_sites, _ = newest_evaluations(RunFolder(run))
    shown = [f"the evaluation in {judged}"] if judged else []
    shown += [f"the evaluations of {counted(len(at_sites), 'site')}"] if at_sites else []
    about = f"with {' and '.join(shown)}" if shown else "without an evaluation"
    about += (
        f", with the audit in {', '.join(map(str, audits))}" if audits else ", without an audit"
    )
    console.print(f"{page} ({size(page.stat().st_size)}), {about}")
