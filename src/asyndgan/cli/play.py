"""`asyndgan play`: a local page on which a person draws a label map and sees it painted."""

from pathlib import Path

from asyndgan.cli.options import FinishedRun, NoBrowser, Port, StudyOption
from asyndgan.cli.serving import serve_page


def play(
    run: FinishedRun,
    masks: Path | None = None,
    port: Port = 0,
    no_browser: NoBrowser = False,
    study: StudyOption = None,
) -> None:
    """Opens a page on which you draw a mask and see it painted.

    Serves this machine alone, until Ctrl-C. The address holds a key: whoever has it can use the
    page.

    Example:
        asyndgan play nuclei

    Masks:
        --masks FOLDER: Data set of masks to begin with. By default those that the run kept.
    """
    from asyndgan.reports.playing import Playground
    from asyndgan.runs import RunFolder

    with Playground(RunFolder(run), masks, port) as server:
        serve_page(server, browser=not no_browser)
