"""`asyndgan site`: commands for a site's administrator."""

import logging
import signal
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from asyndgan.engines import flare_part
from asyndgan.errors import RunError
from asyndgan.locks import held
from asyndgan.privacy import Policy
from asyndgan.privacy.policy import AllowsSection

site = typer.Typer(
    help="A hospital's end of a federation: kit, data and policy.",
    no_args_is_help=True,
    add_completion=False,
)
MOST_ANSWERS = 20_000
"""Default limit on answers, six runs of `default`: unlimited answers would reveal more."""
MOST_ANSWERS_PER_PATIENT = 100
"""The same for each patient: as many as were given when asking was measured."""

Kit = Annotated[Path, typer.Argument(help="The unpacked startup kit: the folder with 'startup'.")]


def first_policy(name: str) -> Policy:
    """What `site init` writes for a site: the defaults, with limits on answers."""
    limited = AllowsSection(
        most_answers=MOST_ANSWERS, most_answers_per_patient=MOST_ANSWERS_PER_PATIENT
    )
    return Policy(name=name, allows=limited)


@site.command()
def init(
    kit: Kit,
    data: Annotated[
        Path,
        typer.Option(
            prompt="Folder of the images and masks",
            help="As nnU-Net has them.",
            exists=True,
            file_okay=False,
        ),
    ],
) -> None:
    """Writes site.toml and a policy to review: the defaults, with limits on answers."""
    service = flare_part("service")
    name, kits = service.name_of(kit), flare_part("kits")
    kits.plain(kit)
    kits.guard(kit)
    file, policy = kit / service.SITE_FILE, kit / "policy.toml"
    if file.exists():
        raise RunError(f"{file} is there already; edit it.")
    # A kit comes from the coordinator, whose policy or books these would be.
    if found := [own for own in ("policy.toml", "records", "runs") if (kit / own).exists()]:
        raise RunError(
            f"{kit / found[0]} is there already. If this kit was in use, put its site.toml back "
            "and keep the rest: records say what was spent. If it has just come, this site has not "
            "written that: ask for another kit."
        )
    file.write_text(service.example(data.absolute()), "utf-8")
    policy.write_text(first_policy(name).to_toml(), "utf-8")
    console = Console()
    for line in (
        f"{file}: where the data is.",
        f"{policy}: what may leave {name}. Go through it with whoever answers for it.",
        f"Then: asyndgan site check {kit}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@site.command()
def check(kit: Kit) -> None:
    """Checks data, policy, certificate, connection, clock, versions, disk; exits 1 on a fault."""
    checks = flare_part("checks").checks
    table = Table("", "", show_header=False, box=None)
    faults = 0
    for found in checks(kit):
        faults += not found.fine
        mark = "[green]ok[/]" if found.fine else "[bold red]fault[/]"
        table.add_row(mark, found.subject, escape(found.text))
    Console().print(table)
    if faults:
        raise typer.Exit(1)


@site.command()
def start(kit: Kit) -> None:
    """Takes part in runs until Ctrl-C, by outgoing connections only; run it as a service."""
    service = flare_part("service")
    name = service.name_of(kit)  # nothing is written to a folder that is no kit
    flare_part("kits").guard(kit)

    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stopping.set())
    logging.basicConfig(
        handlers=[RotatingFileHandler(kit / "site.log", maxBytes=2**22, backupCount=1)],
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    with held(kit, f"site {name} is started already on this machine."):
        file = service.SiteFile.of(kit)
        running = service.SiteService(
            kit,
            lambda run: file.setup(kit, run),
            wait_s=file.wait_s,
        )
        client = flare_part("keeper").Kept(kit)
        Console().print(
            f"Site {running.name} takes part; what happens is in {kit / 'site.log'}.",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
        try:
            stopping.wait()
        finally:
            client.close()
            running.close()
