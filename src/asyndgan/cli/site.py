"""`asyndgan site`: commands for a site's administrator."""

import logging
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from asyndgan.cli.help import Commands
from asyndgan.cli.options import AsJson, print_json
from asyndgan.cli.terminal import Terminal
from asyndgan.engines import flare_part
from asyndgan.errors import DataError, RunError, StorageError
from asyndgan.locks import held
from asyndgan.privacy import Policy
from asyndgan.privacy.policy import AllowsSection, LeavesSection
from asyndgan.recipe.planning import MOST_ANSWERS_PER_PATIENT
from asyndgan.runs.signals import told_to_end
from asyndgan.tables.schema import is_table
from asyndgan.texts import replace_text

site = Commands(
    """Takes part in a federation, as one of its sites.

    Example:
        asyndgan site init kit --data data/north
        asyndgan site check kit
        asyndgan site start kit
    """
)
MOST_ANSWERS = 20_000
"""Default limit on answers, six runs of `default`: unlimited answers would reveal more."""
MOST_RECIPES = 50
"""Default limit on different recipes: each reveals whether a site begins, and its case count."""

Kit = Annotated[
    Path,
    typer.Argument(metavar="KIT", help="The unpacked startup kit: the folder with 'kit.json'."),
]


def first_policy(name: str) -> Policy:
    """What `site init` writes for a site: the defaults, with limits on answers, without losses."""
    limited = AllowsSection(
        most_recipes=MOST_RECIPES,
        most_answers=MOST_ANSWERS,
        most_answers_per_patient=MOST_ANSWERS_PER_PATIENT,
    )
    return Policy(name=name, leaves=LeavesSection(losses=False), allows=limited)


@site.command()
def init(
    kit: Kit,
    data: Annotated[
        Path, typer.Option(prompt="Folder of the images and masks, or table", exists=True)
    ],
) -> None:
    """Writes site.toml, and a policy to review.

    The policy is the default one with limits on the numbers of answers and recipes. It lets no
    losses leave, by which a coordinator could tell who takes part.

    Example:
        asyndgan site init kit --data data/north

    Data:
        --data PATH: Data set of the site: a folder, or the file of a table. You are asked for it
            if you leave it out.
    """
    if data.is_file() and not is_table(data):
        raise DataError(f"{data} is no folder of images and masks, and no table (CSV, Parquet).")
    service, member = flare_part("service"), flare_part("member")
    name = member.read_kit(kit).name
    flare_part("kits").plain(kit)
    file, policy = kit / service.SITE_FILE, kit / "policy.toml"
    # A kit comes from the coordinator, whose policy or books these would be.
    if found := [own for own in member.DECIDED if (kit / own).exists()]:
        raise RunError(
            f"{kit / found[0]} is there already. If this kit was in use, edit its site.toml, or "
            "put that back, and keep the rest: records say what was spent. If it has just come, "
            "this site has not written that: ask for another kit."
        )
    member.refuse_links(kit)
    others = member.not_read(kit)
    member.guard(kit)
    try:
        replace_text(file, service.example(data.absolute()))
        replace_text(policy, first_policy(name).to_toml())
    except StorageError:
        file.unlink(missing_ok=True)  # so that the same command can be repeated
        raise
    console = Terminal()
    for line in (
        *([f"Neither read nor run, as no part of a kit: {others}."] if others else []),
        f"{file}: where the data is.",
        f"{policy}: what may leave {name}. Go through it with whoever answers for it.",
        f"Then: asyndgan site check {quote(str(kit))}",
    ):
        console.say(line)


@site.command()
def check(kit: Kit, as_json: AsJson = False) -> None:
    """Checks data, policy, certificate, connection, clock, versions and disk.

    The exit code is 1 if there is a fault.

    Example:
        asyndgan site check kit
    """
    checks = flare_part("checks").checks
    if as_json:
        found = [vars(each) for each in checks(kit)]
        print_json(found)
        raise typer.Exit(not all(each["fine"] for each in found))
    console, faults = Terminal(), 0
    for found in checks(kit):
        faults += not found.fine
        mark, style = ("ok", "green") if found.fine else ("fault", "bold red")
        console.say(f"{mark:7}", style, end="")
        console.say(f"{found.subject:13}{found.text}")
    if faults:
        raise typer.Exit(1)


@site.command()
def start(kit: Kit) -> None:
    """Takes part in runs until Ctrl-C. Run it as a service.

    Opens outgoing connections only.

    Example:
        asyndgan site start kit
    """
    told = told_to_end()  # before seconds of imports, in which a service may be ended
    service = flare_part("service")
    member = flare_part("member")
    name = member.read_kit(kit).name  # nothing is written to a folder that is no kit
    member.guard(kit)
    logging.basicConfig(
        handlers=[RotatingFileHandler(kit / "site.log", maxBytes=2**22, backupCount=1)],
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    with held(kit, f"site {name} is started already on this machine."):
        file = service.SiteFile.of(kit)
        running = service.SiteService(kit, lambda run: file.setup(kit, run), wait_s=file.wait_s)
        client = flare_part("keeper").keep_client(kit)
        Terminal().say(f"Site {running.name} takes part; what happens is in {kit / 'site.log'}.")
        try:
            while not told():  # a signal may come to another thread, and wake nobody
                time.sleep(0.2)
        finally:
            client.close()
            running.close()
