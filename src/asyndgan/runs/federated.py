"""Runs of a federation: ordered by its administrator, trained one after the other, whatever dies.

`serve` keeps FLARE's server and, in a process of its own, the run that is next. A run that ends by
a crash, or for want of sites, is begun again from its checkpoint; nobody has to type anything.
"""

import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

from asyndgan.engines.flare.jobs import Office
from asyndgan.engines.flare.keeper import keep_server
from asyndgan.engines.flare.kits import RUN_NAME, Federation
from asyndgan.engines.flare.transport import Flare
from asyndgan.errors import BusyError, QuorumError, RunError
from asyndgan.locks import held
from asyndgan.recipe import Recipe
from asyndgan.runs.folder import RunFolder
from asyndgan.runs.train import Interrupted, Progress, Watch, train_over
from asyndgan.texts import bounded_text, parsed_json
from asyndgan.training.quorum import Quorum

log = logging.getLogger(__name__)

AGAIN: Final = 75
"""Exit status of a run that should be begun again (EX_TEMPFAIL)."""

MODULE: Final = "asyndgan.runs.federated"

PAUSE_S: Final = 1.0
"""Seconds between two looks at what there is to do."""

RETURN_S: Final = 60.0
"""Seconds that a run which goes on waits for all of its sites, before a quorum will do."""


@final
class Order:
    """A run that somebody asked for.

    Args:
        federation: whose.
        name: small letters, digits and hyphens; sites keep their state under it.
    """

    def __init__(self, federation: Federation, name: str) -> None:
        self.federation = federation
        self.name = name
        self.folder = RunFolder(federation.path / "runs" / name)
        self._order_file = self.folder.path / "order.json"
        self._stop_file = self.folder.path / "stop"
        self._failed_file = self.folder.path / "failed"

    @classmethod
    def submit(
        cls, federation: Federation, name: str, recipe: Recipe, sites: tuple[str, ...]
    ) -> "Order":
        """Orders a new run, or has one go on that was stopped or has failed.

        Args:
            federation: whose.
            name: of the run.
            recipe: what to train.
            sites: without whom it does not begin; none: all that there are kits for.

        Raises:
            RunError: the name or a site is none, or there is another run of that name.
        """
        if not RUN_NAME.fullmatch(name):
            raise RunError(f"'{name}': name a run in small letters, digits and hyphens.")
        if unknown := set(sites) - set(federation.sites):
            raise RunError(
                f"there is no kit for {', '.join(sorted(unknown))}; 'asyndgan federation add' "
                "makes one."
            )
        order = cls(federation, name)
        if order._order_file.exists():
            if order.state() == "finished":
                raise RunError(f"run {name} has finished; choose another name.")
            if order.folder.recipe().digest() != recipe.digest():
                raise RunError(f"run {name} has another recipe; choose another name.")
            for file in (order._stop_file, order._failed_file):
                file.unlink(missing_ok=True)
            return order
        RunFolder.create(order.folder.path, recipe)
        wanted = {"sites": list(sites or federation.sites), "ordered": time.time()}
        order._order_file.write_text(json.dumps(wanted))
        return order

    @classmethod
    def all(cls, federation: Federation) -> list["Order"]:
        """Every run, the first ordered first."""
        orders = (federation.path / "runs").glob("*/order.json")
        found = [cls(federation, path.parent.name) for path in orders]
        return sorted(found, key=lambda order: float(order.wanted()["ordered"]))

    @classmethod
    def named(cls, federation: Federation, name: str | None) -> "Order":
        """A run by its name, or the newest.

        Raises:
            RunError: there is none.
        """
        found = [each for each in cls.all(federation) if name in (None, each.name)]
        if not found:
            raise RunError(
                f"there is no run {name or ''} in {federation.path}; order one with "
                "'asyndgan federation submit'."
            )
        return found[-1]

    def wanted(self) -> dict[str, Any]:
        """Sites, and when it was ordered."""
        try:
            return dict(parsed_json(bounded_text(self._order_file)))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{self._order_file} is no order of ours.") from error

    def state(self) -> str:
        """`ordered`, `running`, `stopped`, `failed` or `finished`."""
        begun = self.folder.facts_file.exists()
        if begun and self.folder.facts().state == "finished":
            return "finished"
        if self.stopped():
            return "stopped"
        if self._failed_file.exists():
            return "failed"
        return "running" if begun else "ordered"

    def stop(self) -> None:
        """Has it stop after its step, with a checkpoint."""
        self._stop_file.touch()

    def stopped(self) -> bool:
        """Whether somebody had it stopped."""
        return self._stop_file.exists()

    def fail(self, reason: str) -> None:
        """Notes why it cannot go on by itself."""
        self._failed_file.write_text(reason, "utf-8")

    def train(self, watch: Watch | None = None) -> None:
        """Trains, in this process, until it is finished or stopped.

        Raises:
            Interrupted: it was stopped.
            QuorumError: too few sites for longer than the recipe's patience.
            RunError, CohortError, NotFiniteError: it cannot go on by itself.
        """
        recipe = self.folder.recipe()
        transport = Flare(Office(self.federation, recipe, self.name))
        try:
            sites = self._gather(transport, recipe)
            train_over(
                self.folder, transport, engine="flare", sites=sites, stop=self.stopped, watch=watch
            )
        finally:
            transport.close()

    def _gather(self, transport: Flare, recipe: Recipe) -> list[str]:
        """Waits for the sites: at first for all, in a run that goes on for a quorum after a while.

        Returns:
            Those without whom the run does not begin.
        """
        begun = self.folder.facts_file.exists()
        wanted = [site for site in self.wanted()["sites"] if recipe.takes_part(site, 0)]
        least, since = Quorum(recipe.quorum, wanted).least, time.monotonic()
        while missing := set(wanted) - set(transport.sites()):
            late = time.monotonic() - since > RETURN_S
            if begun and late and len(wanted) - len(missing) >= least:
                return []
            if self.stopped():
                raise Interrupted(f"run {self.name} was stopped before it began.")
            time.sleep(PAUSE_S / 5)
        return wanted


def serve(federation: Federation, *, stop: Callable[[], bool]) -> None:
    """Keeps FLARE's server, and trains what is ordered, until `stop` says so.

    Raises:
        RunError: another process serves this federation.
    """
    with held(federation.path, f"{federation.path} is served by another process already."):
        server = keep_server(federation)
        run: tuple[Order, subprocess.Popen[bytes]] | None = None
        try:
            while not stop():
                run = _look(federation, run)
                time.sleep(PAUSE_S)
        finally:
            if run:
                run[1].send_signal(signal.SIGTERM)  # it writes a checkpoint
                run[1].wait()
            server.close()


def _look(
    federation: Federation, run: tuple[Order, subprocess.Popen[bytes]] | None
) -> tuple[Order, subprocess.Popen[bytes]] | None:
    """Begins the next run if none is at work, and again one that crashed."""
    if run:
        order, process = run
        status = process.poll()
        if status is None:
            return run
        log.info("run %s: its process ended (%s): %s", order.name, status, order.state())
    for order in Order.all(federation):
        if order.state() in ("ordered", "running"):
            return order, begin(order)
    return None


def begin(order: Order) -> "subprocess.Popen[bytes]":
    """A process that trains a run; its words go to the run's `coordinator.log`."""
    with (order.folder.path / "coordinator.log").open("ab") as said:
        return subprocess.Popen(  # noqa: S603  (our own interpreter and module)
            [sys.executable, "-m", MODULE, str(order.federation.path), order.name],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def main(path: Path, name: str) -> int:
    """The process of one run; returns its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("nvflare", "CoreCell", "conn_manager"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    order = Order(Federation.of(path), name)
    try:
        order.train(_log_news)
    except (Interrupted, QuorumError, BusyError) as error:
        log.warning("%s", error)
        return AGAIN
    except Exception as error:
        log.exception("run %s cannot go on", name)
        order.fail(str(error))
        return 1
    return 0


def _log_news(progress: Progress) -> None:
    for line in progress.news:
        log.info("step %s: %s", progress.step, line)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
