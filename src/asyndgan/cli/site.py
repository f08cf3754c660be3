"""`asyndgan site`: commands for a site's administrator."""

import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from shlex import quote
from typing import Annotated, Final, Literal, cast, get_args

import typer

from asyndgan.cli.help import Commands
from asyndgan.cli.options import AsJson, NoBrowser, Port, SafetyNumber, print_json
from asyndgan.cli.serving import log_to, serve_page
from asyndgan.cli.terminal import Terminal, have_compared
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
        asyndgan site request north
        asyndgan site init north north.json --data data/north
        asyndgan site check north
        asyndgan site start north
        asyndgan site approve north first
    """
)
MOST_ANSWERS = 20_000
"""Default limit on answers, five runs of `default`: unlimited answers would reveal more."""
MOST_RECIPES = 50
"""Default limit on different recipes: each reveals whether a site begins, and its case count."""

Kit = Annotated[
    Path, typer.Argument(metavar="KIT", help="The site's folder, with its key and its kit.")
]
Part = Literal["data", "flare"]
Choice = Literal["ask", "measured", "masks"]
CHOICES: Final = """What may runs learn here, and which begin unasked?
  ask       every run waits until you approve it
  measured  recipes for which attacks were measured run unasked, any other waits
  masks     as measured, and recipes may take label maps of patients to paint from"""
Received = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The kit, a file NAME.json that the coordinator sent."),
]


def first_policy(name: str, choice: Choice) -> Policy:
    """What `site init` writes: the default policy, with limits on answers, without losses."""
    limited = AllowsSection(
        unasked=choice != "ask",
        most_recipes=MOST_RECIPES,
        most_answers=MOST_ANSWERS,
        most_answers_per_patient=MOST_ANSWERS_PER_PATIENT,
    )
    leaves = LeavesSection(losses=False, masks="transient" if choice == "masks" else "learned")
    return Policy(name=name, leaves=leaves, allows=limited)


def _choice(given: Choice | None) -> Choice:
    """The policy that somebody at a terminal chooses; where nobody can be asked, 'ask'."""
    if given or not sys.stdin.isatty():
        return given or "ask"
    Terminal().say(CHOICES)
    while (said := typer.prompt("Policy", default="ask")) not in get_args(Choice):
        Terminal().say(f"Answer with one of {', '.join(get_args(Choice))}.")
    return cast(Choice, said)


@site.command()
def request(
    kit: Annotated[
        Path, typer.Argument(metavar="KIT", help="Folder to make, with the site's name.")
    ],
) -> None:
    """Makes the site's key, and a request for the coordinator to sign.

    The private key never leaves this folder. Called again, it writes the request of the same key.

    Example:
        asyndgan site request north
    """
    path = flare_part("member").make_request(kit)
    number = flare_part("member").read_request(path).safety_number
    then = "renew" if (kit / flare_part("service").SITE_FILE).exists() else "init"
    call = f"asyndgan site {then} {quote(str(kit))} {path.stem}.json"
    for line in (
        f"1. Send this file to the coordinator's administrator; it holds no secret: {path}",
        f"2. By telephone, read out its safety number: {number}",
        f"3. With the kit that is sent back: {call}",
    ):
        Terminal().say(line)


@site.command()
def init(
    kit: Kit,
    data: Annotated[
        Path, typer.Option(prompt="Folder of the images and masks, or table", exists=True)
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="The kit, a file NAME.json that the coordinator sent. Leave it out in a FLARE "
            "federation that others have made.",
        ),
    ] = None,
    safety_number: SafetyNumber = None,
    policy: Choice | None = None,
) -> None:
    """Takes the kit, and writes site.toml and a policy to review.

    The policy limits the numbers of answers and recipes. It lets no losses leave, by which a
    coordinator could tell who takes part.

    Example:
        asyndgan site init north north.json --data data/north

    Data:
        --data PATH: Data set of the site: a folder, or the file of a table. You are asked for it
            if you leave it out.

    Safety:
        --safety-number DIGITS: What the coordinator's administrator reads out. You are asked to
            compare it if you leave it out.
        --policy CHOICE: 'ask': every run waits until you approve it. 'measured': recipes for which
            attacks were measured run unasked, any other waits. 'masks': as measured, and recipes
            may take label maps of patients to paint from. You are asked at a terminal if you leave
            it out; by default 'ask'.
    """
    if data.is_file() and not is_table(data):
        raise DataError(f"{data} is no folder of images and masks, and no table (CSV).")
    service = flare_part("service")
    settings, rules = kit / service.SITE_FILE, kit / "policy.toml"
    if found := [str(own) for own in (settings, rules) if own.exists()]:
        raise RunError(
            f"{found[0]} is there already. Edit it, or remove it to have it written anew. To take "
            f"a new kit, call 'asyndgan site renew {quote(str(kit))} {quote(str(file))}'."
        )
    if file:
        name = _take(kit, file, safety_number)
    elif (kit / flare_part("member").KEY_FILE).exists():
        raise RunError(f"{kit} has a key, so name the kit that the coordinator made for it.")
    else:
        kit.mkdir(mode=0o700, exist_ok=True)
        kit.chmod(0o700)
        name = kit.resolve().name
    chosen = _choice(policy)
    try:
        replace_text(settings, service.example(data.absolute()))
        replace_text(rules, first_policy(name, chosen).to_toml())
    except StorageError:
        settings.unlink(missing_ok=True)  # so that the same command can be repeated
        raise
    console = Terminal()
    for line in (
        f"{settings}: where the data is.",
        f"{rules}: what may leave {name} ('{chosen}'). Go through it with whoever answers for it.",
        f"Then: asyndgan site check {quote(str(kit))}",
    ):
        console.say(line)


@site.command()
def renew(kit: Kit, file: Received, safety_number: SafetyNumber = None) -> None:
    """Takes a new kit in place of the old one.

    Example:
        asyndgan site renew north north.json

    Safety:
        --safety-number DIGITS: What the coordinator's administrator reads out. If you leave it
            out, you are asked to compare it unless it is that of the old kit.
    """
    _take(kit, file, safety_number)
    Terminal().say(f"End 'asyndgan site start {quote(str(kit))}', and start it again.")


def _take(kit: Path, file: Path, number: str | None) -> str:
    """Puts a kit that came into the site's folder; returns the site's name."""
    member = flare_part("member")
    received, place, known = member.received_kit(file, kit), kit / member.KIT_FILE, ""
    with suppress(RunError):  # there is none yet, or it is of no use
        known = member.parsed_kit(place).federation
    if number or known != received.federation:
        have_compared(
            f"the federation at {received.host}:{received.port}",
            received.federation,
            number,
            "the coordinator's administrator",
        )
    member.guard(kit)
    replace_text(place, received.to_json())
    return str(received.name)


@site.command()
def check(kit: Kit, as_json: AsJson = False) -> None:
    """Checks data, policy, certificate, connection, clock, versions and disk.

    The exit code is 1 if there is a fault.

    Example:
        asyndgan site check kit
    """
    console, checks = Terminal(), []
    for found in flare_part("checks").checks(kit):
        checks.append(found)
        if not as_json:
            mark, style = ("ok", "") if found.fine else ("fault", "bold red")
            console.say(f"{mark:7}{found.subject:13}{found.text}", style)
    if as_json:
        print_json([vars(each) for each in checks])
    raise typer.Exit(not all(each.fine for each in checks))


@site.command()
def console(
    kit: Kit,
    port: Port = 0,
    no_browser: NoBrowser = False,
) -> None:
    """Opens the steward's page: what is asked of the site, what is allowed, what has left.

    Its buttons approve, refuse and revoke recipes in the policy. Serves this machine alone, until
    Ctrl-C. The address holds a key: whoever has it can decide for the site.

    Example:
        asyndgan site console north
    """
    from asyndgan.reports.steward import StewardPage

    with StewardPage(kit, port) as server:
        log_to(kit / "console.log")
        serve_page(server, browser=not no_browser)


Run = Annotated[str, typer.Argument(metavar="RUN", help="The run that asks for the recipe.")]


@site.command()
def approve(
    kit: Kit,
    run: Run,
    such: Annotated[bool, typer.Option("--such")] = False,
) -> None:
    """Shows what a run asks for, and approves its recipe if you agree.

    'asyndgan site console' shows more, and asks for the same decision on a page.

    Example:
        asyndgan site approve north first

    Decision:
        --such: Approve further runs of the coordinator as well, of at most as many steps, whose
            recipe differs in keys alone that change nothing which a site could reveal.
    """
    _decide(kit, run, "such" if such else "approve")


@site.command()
def refuse(kit: Kit, run: Run) -> None:
    """Shows what a run asks for, and refuses its recipe, or revokes an approval, if you agree.

    Nothing leaves for it any more, and further runs like it are not approved.

    Example:
        asyndgan site refuse north first
    """
    _decide(kit, run, "refuse")


def _decide(kit: Path, run: str, action: str) -> None:
    from asyndgan.privacy.measured_recipes import outside
    from asyndgan.reports.asked import DIFFER, leaving, purpose
    from asyndgan.reports.steward import asked_recipe, decide

    policy = Policy.from_file(flare_part("service").SiteFile.of(kit).policy)
    console, recipe = Terminal(), asked_recipe(kit, run)
    if recipe is None:
        asked = ", ".join(each.run for each in flare_part("requests").kept(kit) if each.recipe)
        raise RunError(f"no run {run} has asked for a recipe here. Asked for: {asked or 'none'}.")
    name = flare_part("service").name_of(kit)
    for line in (
        purpose(recipe),
        *(f"refused so far: {reason}" for _, reason in policy.refused_by(recipe, name)),
        *(f"leaves: {line}" for line in leaving(recipe, policy)),
        *(f"{each.key} is {each.value}: {each.otherwise}" for each in outside(recipe)),
        f"digest: {recipe.digest()}",
    ):
        console.say(line)
    if action == "such":
        console.say(f"Such runs may differ in: {DIFFER}.")
    typer.confirm("Refuse it?" if action == "refuse" else "Approve it?", abort=True)
    shown = {"action": action, "policy": policy.digest(), "run": run, "digest": recipe.digest()}
    console.say(decide(kit, shown))


@site.command()
def start(kit: Kit, only: Part | None = None) -> None:
    """Takes part in runs until Ctrl-C. Run it as a service.

    Opens outgoing connections only.

    Example:
        asyndgan site start kit

    Processes:
        --only PART: Start the process with the data ('data'), or FLARE's client that needs none
            ('flare'). Run the latter where it can read the kit and the sockets alone. By default
            both; in a FLARE federation of others 'data'.
    """
    told = told_to_end()  # before seconds of imports, in which a service may be ended
    service = flare_part("service")
    member = flare_part("member")
    name, ours = service.name_of(kit), service.has_kit(kit)  # of a folder that is no kit: nothing
    if ours:
        member.guard(kit)
    elif only == "flare":
        raise RunError(f"{kit} holds no kit. Start FLARE's client as its administrator does.")
    log_to(kit / "site.log", shown=True)
    with ExitStack() as ends:
        if only != "flare":
            ends.enter_context(held(kit, f"site {name} is started already on this machine."))
            file = service.SiteFile.of(kit)
            running = service.SiteService(
                kit,
                lambda run: service.SiteFile.of(kit).setup(kit, run),
                wait_s=file.wait_s,
                notify=file.notify,
            )
            ends.callback(running.close)
        if only != "data" and ours:
            ends.callback(flare_part("keeper").keep_client(kit).close)
        Terminal().say(f"Site {name} takes part; what happens is also in {kit / 'site.log'}.")
        while not told():  # a signal may come to another thread, and wake nobody
            time.sleep(0.2)
