"""What commands that serve something share: a log, and a local page."""

import logging
import tempfile
import webbrowser
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

from asyndgan.cli.terminal import Terminal

if TYPE_CHECKING:
    from asyndgan.reports.local import LocalServer


def log_to(file: Path, *, shown: bool = False) -> None:
    """Writes this process's log to a file of limited size, and shows what is our own if `shown`."""
    handlers: list[logging.Handler] = [RotatingFileHandler(file, maxBytes=2**22, backupCount=1)]
    if shown:
        handlers.append(logging.StreamHandler())
        handlers[-1].addFilter(logging.Filter("asyndgan"))
    logging.basicConfig(
        handlers=handlers, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )


def serve_page(server: "LocalServer", *, browser: bool) -> None:
    """Prints the address of a page, and serves it until Ctrl-C.

    The browser is given a file that leads there: every user of the machine may read its arguments,
    and the address is a key.
    """
    Terminal().say(server.url)
    if server.readers:
        Terminal().say(f"{server.url_of(server.readers)} for those who may only look")
    Terminal().say("Ctrl-C ends it.")
    with tempfile.TemporaryDirectory(prefix="asyndgan-") as folder:  # of this user alone
        if browser:
            leads = Path(folder) / "page.html"
            leads.write_text(f'<meta http-equiv="refresh" content="0; url={server.url}">', "utf-8")
            webbrowser.open(leads.as_uri())
        server.serve_forever()
