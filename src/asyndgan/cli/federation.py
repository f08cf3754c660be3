"""`asyndgan federation`: commands for the coordinator's administrator."""

import logging
import shutil
import signal
import sys
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, final

import typer
from rich.live import Live
from rich.table import Table

from asyndgan.cli.recipe import Overrides
from asyndgan.cli.terminal import Terminal
from asyndgan.cli.train import Device
from asyndgan.data.writing import written_whole
from asyndgan.engines import flare_part
from asyndgan.errors import RunError
from asyndgan.models import usable_device
from asyndgan.reports.words import duration, size
from asyndgan.runs import load_recipe

federation = typer.Typer(
    help="Runs between real machines: kits for sites, orders, and how they stand.",
    no_args_is_help=True,
    add_completion=False,
)
LOOK_S = 0.5
"""Seconds between two looks whether a run's sites have sent their cards."""

PAUSE_S = 30.0
"""Seconds without a step after which `status` reports it."""

TOLD = 4
"""Number of the latest events at sites that `status` repeats."""

Folder = Annotated[Path, typer.Argument(help="Folder of the federation, on this machine.")]
RunName = Annotated[str | None, typer.Option("--run", help="Its name; else the newest.")]
NewName = Annotated[str | None, typer.Option("--run", help="Its name; else the recipe's.")]


@federation.command()
def init(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Name by which sites reach this machine.")],
    site: Annotated[list[str], typer.Option(help="Name of a site; once for each.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="The one port they use.")] = 8002,
) -> None:
    """Makes identities and a startup kit for each site."""
    kits = flare_part("kits")
    made = kits.init_federation(folder, host=host, port=port, sites=tuple(site))
    console = Terminal()
    _say(console, f"Federation in {folder}. Whoever holds its keys can make members: guard it.")
    _tell_kits(console, made, made.sites)
    _say(console, f"3. Have IT let port {port} of {host} in from the sites (TCP, mutual TLS).")
    _say(console, f"4. Here: asyndgan federation start {quote(str(folder))}")


@federation.command()
def add(folder: Folder, site: Annotated[str, typer.Argument(help="Its name.")]) -> None:
    """Makes a kit for a site that joins later; a run in progress takes it in."""
    kits = flare_part("kits")
    made = kits.add_site(kits.Federation.of(folder), site)
    _tell_kits(Terminal(), made, (site,))


@federation.command()
def remove(folder: Folder, site: Annotated[str, typer.Argument(help="Its name.")]) -> None:
    """Excludes a site from all runs within a minute; what it has taught the generator stays."""
    kits = flare_part("kits")
    kits.remove_site(kits.Federation.of(folder), site)
    _say(
        Terminal(),
        f"{site} is left out. Its certificate is good until it expires: it can connect, "
        "and is asked nothing.",
    )


@federation.command()
def renew(folder: Folder) -> None:
    """Renews certificates and kits, to be done before the old ones expire."""
    kits = flare_part("kits")
    made = kits.Federation.of(folder)
    kits.renew(made)
    _tell_kits(Terminal(), made, made.sites)
    _say(
        Terminal(),
        "A site that takes part already takes kit.json alone out of its new kit, in place of its "
        "old one, and starts again.",
    )


@federation.command()
def start(
    folder: Folder,
    device: Device = "cpu",
) -> None:
    """Serves the sites and trains ordered runs until Ctrl-C; run it as a service."""
    kits = flare_part("kits")
    from asyndgan.runs.federated import serve

    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: asked.append(number))
    made = kits.Federation.of(folder)
    startup, dates_of = made.server_kit / "startup", flare_part("checks").certificate
    if not (authority := dates_of(startup / "rootCA.pem")).fine:
        _say(
            Terminal(),
            f"The authority that signs all certificates: {authority.text}. Make a new federation "
            "with 'asyndgan federation init' and send everybody its kits.",
        )
    elif not (dates := dates_of(startup / "server.crt")).fine:
        _say(
            Terminal(),
            f"The coordinator's certificate: {dates.text}. 'asyndgan federation renew "
            f"{quote(str(folder))}' makes new ones for everybody.",
        )
    logging.basicConfig(
        handlers=[RotatingFileHandler(folder / "federation.log", maxBytes=2**22, backupCount=1)],
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    _say(
        Terminal(),
        f"Serving {', '.join(made.sites)} at {made.host}:{made.port}; what "
        f"happens is in {folder / 'federation.log'}, of each run in its coordinator.log.",
    )
    serve(made, stop=lambda: bool(asked), device=str(usable_device(device)))


@federation.command()
def submit(
    folder: Folder,
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or a TOML file.")],
    overrides: Overrides = None,
    run: NewName = None,
    site: Annotated[
        list[str] | None,
        typer.Option(help="A site without whom the run does not begin; else all with a kit."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Confirm in advance whatever the sites' cards say.")
    ] = False,
) -> None:
    """Orders a run, and has you confirm what it paints; or resumes one that was stopped."""
    kits = flare_part("kits")
    from asyndgan.runs.order import Order

    resolved = load_recipe(recipe, overrides or [])
    name = run or resolved.name.lower().replace(" ", "-")
    made = kits.Federation.of(folder)
    order = Order.submit(made, name, resolved, tuple(site or ()), yes=yes)
    _say(
        Terminal(), f"Run {order.name} is ordered: asyndgan federation status {quote(str(folder))}"
    )
    if not yes and not order.begun():
        _have_confirmed(order, ask=sys.stdin.isatty())


@federation.command()
def confirm(folder: Folder, run: RunName = None) -> None:
    """Shows what a run paints and learns from, by its sites' cards; it begins if you agree."""
    _have_confirmed(_order(folder, run), ask=True)


def _have_confirmed(order: Any, *, ask: bool) -> None:
    """Waits for the sites' cards, shows what follows from them, and asks.

    Args:
        order: order of a run that has not begun.
        ask: whether somebody is there to be asked; else how to do it later is said.
    """
    console, later = Terminal(), f"asyndgan federation confirm {quote(str(order.federation.path))}"
    _say(
        console,
        "It begins when you have confirmed what its sites' cards have it paint"
        + ("; Ctrl-C if you want to do so later" if ask else "")
        + f": {later} --run {order.name}",
    )
    if not ask:
        return
    told = ""
    while not (text := order.proposal()):
        state, reason = order.state(), order.failure()
        if state not in ("ordered", "running"):
            raise RunError(f"run {order.name} is {state}, so there is nothing to confirm. {reason}")
        if order.begun() or state == "running":
            _say(console, f"Run {order.name} has begun; there is nothing to confirm.")
            return
        ahead = order.ahead()
        waiting = order.waiting() or (f"run {ahead} to end" if ahead else "")
        news = f"waiting for {waiting}" if waiting else order.troubled()
        if news not in ("", told):
            _say(console, news)
            told = news
        time.sleep(LOOK_S)
    _say(console, text)
    if typer.confirm("Shall the run begin so?"):
        order.confirm(text)
        _say(console, f"Run {order.name} begins.")
        return
    order.stop()
    _say(
        console,
        f"Run {order.name} is stopped. Submit it again with the sites that are to take part "
        "(--site), or submit another that names what it paints (image.modalities, image.labels).",
    )


@federation.command()
def status(
    folder: Folder,
    run: RunName = None,
    watch: Annotated[bool, typer.Option(help="Draw it anew every second, until Ctrl-C.")] = False,
) -> None:
    """Shows who is connected; a run's step, each site's share, last contact, bytes and losses."""
    kits = flare_part("kits")
    from asyndgan.runs.order import Order

    made, console = kits.Federation.of(folder), Terminal(file=sys.stdout)
    if run is None and not Order.all(made):
        line = flare_part("attendance").connected(made)
        _say(console, f"{line}\nNo run is ordered: asyndgan federation submit.")
        return
    standing = Standing(Order.named(made, run))
    if not watch:
        console.print(standing.table())
        return
    with Live(console=console, refresh_per_second=2) as live:
        while True:
            live.update(standing.table())
            time.sleep(1)


@federation.command()
def stop(folder: Folder, run: RunName = None) -> None:
    """Stops a run with a checkpoint; 'submit' resumes it."""
    order = _order(folder, run)
    state = order.state()
    if state == "finished":
        raise RunError(
            f"run {order.name} is finished; there is nothing to stop. 'fetch' copies it."
        )
    order.stop()
    soon = "stops after its step" if state == "running" else "will not go on until it is submitted"
    _say(Terminal(), f"Run {order.name} {soon}.")


@federation.command()
def fetch(
    folder: Folder, out: Annotated[Path, typer.Option(help="New folder.")], run: RunName = None
) -> None:
    """Copies a run: generator, metrics, samples and released masks."""
    order = _order(folder, run)
    kept = shutil.ignore_patterns(
        "checkpoints",
        ".held",
        ".*.half",
        "order.json",
        "stop",
        "waiting",
        "trouble",
        "proposal",
        "confirmed",
    )
    with written_whole(out) as half:
        shutil.copytree(order.folder.path, half, ignore=kept)
    _say(Terminal(), f"Run {order.name} ({order.state()}) in {out}")


def _order(folder: Path, run: str | None) -> Any:
    kits = flare_part("kits")
    from asyndgan.runs.order import Order

    return Order.named(kits.Federation.of(folder), run)


def _tell_kits(console: Terminal, made: Any, sites: tuple[str, ...]) -> None:
    _say(console, "1. Send each site its kit, by a way that nobody else reads:")
    for site in sites:
        _say(console, f"     {made.kits / site}.zip")
    _say(console, "2. There: unpack it, then")
    _say(console, "     asyndgan site init FOLDER    asks for the data and writes site.toml")
    _say(console, "     asyndgan site check FOLDER")
    _say(console, "     asyndgan site start FOLDER")


@final
class Standing:
    """The current state of a run, read from its metrics as they are written.

    Args:
        order: order of the run.
    """

    def __init__(self, order: Any) -> None:
        self.order = order
        self._place = (0, 0)
        self._last: dict[str, Any] = {"step": -1, "seconds": 0.0, "sent": 0, "received": 0}
        self._seen: dict[str, dict[str, Any]] = {}
        self._told: list[str] = []

    def table(self) -> Table:
        """Returns the table of the run's current state."""
        before = self._place[0]
        records, self._place = self.order.folder.metrics_from(self._place)
        if self._place[0] != before:  # the run went back to a checkpoint: all are read again
            self._told.clear()
        for record in records:
            self._seen |= dict.fromkeys(record["shares"], record)
            self._last = record
            self._told += [f"step {record['step']}: {line}" for line in record.get("news", ())]
            del self._told[:-TOLD]
        last, steps = self._last, self.order.folder.recipe().training.steps
        table = Table(
            title=f"run {self.order.name}: {self.order.state()}, "
            f"step {last['step'] + 1} of {steps}",
            caption=f"sent to sites {size(last['sent'])}, received {size(last['received'])}"
            + f"\n{self._connected()}{self._pause()}",
            title_justify="left",
        )
        for heading in (
            "site",
            "share",
            "last seen",
            "round trip",
            "bytes",
            "on sockets",
            "losses",
        ):
            table.add_column(heading)
        for site in sorted({*self.order.wanted()["sites"], *self._seen}):
            table.add_row(site, *self._of_site(site))
        return table

    def _connected(self) -> str:
        made = flare_part("kits").Federation.of(self.order.federation.path)  # some may join
        return str(flare_part("attendance").connected(made))

    def _pause(self) -> str:
        """Latest events and why the run ended, which sites it waits for, or how long it pauses."""
        order = self.order
        said = [f"\n{line}" for line in self._told]
        at_work = order.state() in ("ordered", "running")
        waiting = order.waiting() if at_work else ""
        ahead = order.ahead() if at_work else ""
        if reason := order.failure() or (order.troubled() if at_work else ""):
            said.append(f"\n{reason} More is in {order.log_file}.")
        if waiting:
            said.append(f"\nwaiting for {waiting}")
        if ahead:
            said.append(
                f"\nbehind run {ahead}, since runs are trained one after the other; "
                f"'asyndgan federation stop --run {quote(ahead)}' lets this one go first"
            )
        elif not reason and not waiting and self._ago() > PAUSE_S:
            said.append(f"\nlast step {duration(self._ago())} ago")
        return "".join(said)

    def _ago(self) -> float:
        """Seconds since a step was recorded; 0 if none was."""
        file = self.order.folder.metrics_file
        return max(0.0, time.time() - file.stat().st_mtime) if file.exists() else 0.0

    def _of_site(self, site: str) -> tuple[str, ...]:
        if site not in self._seen:
            return "", "not yet"
        last, record = self._last, self._seen[site]
        ago = self._ago() + last["seconds"] - record["seconds"]
        trip = record.get("round_trip", {}).get(site)
        moved, carried = record.get("bytes", {}).get(site), record.get("socket", {}).get(site)
        losses = (f"{name} {value:.3f}" for name, value in record["losses"].get(site, {}).items())
        return (
            f"{record['shares'][site]:.2f}" if record is last else "away",
            "now"
            if record is last and ago <= PAUSE_S
            else f"{duration(ago)} ago, step {record['step']}",
            f"{1000 * trip:.0f} ms" if trip is not None else "",
            *(
                f"{size(both[0])} out, {size(both[1])} in" if both else ""
                for both in (moved, carried)
            ),
            " ".join(losses),
        )


def _say(console: Terminal, text: str) -> None:
    console.print(text, soft_wrap=True)
