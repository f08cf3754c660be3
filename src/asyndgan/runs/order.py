"""A run that was ordered in a federation: a run folder with what its administrator asks of it."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Final, Literal, final

from asyndgan.engines.federation import (
    MASKS_SUFFIX,
    Federation,
    check_run_name,
    transport_to,
)
from asyndgan.errors import BusyError, Interrupted, RunError
from asyndgan.lazy import Late
from asyndgan.locks import held
from asyndgan.protocol import Transport
from asyndgan.recipe import Recipe
from asyndgan.runs.folder import RunFolder
from asyndgan.texts import bounded_text, parsed_json, replace_text, sha256_of
from asyndgan.training.quorum import Quorum
from asyndgan.training.steps import stored_steps

if TYPE_CHECKING:
    from asyndgan.runs.train import Watch

# They import torch, for which whoever asks how a run stands need not wait.
checks: Any = Late("asyndgan.runs.checks")
learning: Any = Late("asyndgan.runs.mask_learning")
starting: Any = Late("asyndgan.runs.start")
trainer: Any = Late("asyndgan.runs.train")

log = logging.getLogger(__name__)

LOOK_S: Final = 0.2
"""Seconds between two looks for what a run waits for."""

STEWARDS_S: Final = 3.0
"""Seconds between two questions to sites whose stewards have yet to approve a run."""

RETURN_S: Final = 60.0
"""Seconds that a resumed run waits for all of its sites before a quorum is enough."""

Said = Literal["waiting", "proposal", "confirmed", "trouble", "failed"]
"""What the sites or people that a run waits for are called, what waits to be confirmed, a digest of
what was, why an attempt ended that will be repeated, and why the run cannot go on by itself."""

ANYTHING: Final = "whatever the sites' cards say"
"""What was confirmed of a run that was submitted with `--yes`."""

NOBODY: Final = "sites to be named: those it was ordered for were removed (submit it again, --site)"


@final
class Order:
    """A run that was ordered in a federation; sites keep their state under its name."""

    def __init__(self, federation: Federation, name: str) -> None:
        self.federation = federation
        self.name = name
        self.folder = RunFolder(federation.path / "runs" / name)
        self._order_file = self.folder.path / "order.json"
        self._stop_file = self.folder.path / "stop"
        self.log_file = self.folder.path / "coordinator.log"

    @classmethod
    def submit(
        cls,
        federation: Federation,
        name: str,
        recipe: Recipe,
        sites: tuple[str, ...],
        *,
        yes: bool = False,
        start: Path | None = None,
        masks: Path | None = None,
    ) -> "Order":
        """Orders a new run, or resumes one that was stopped or has failed.

        It begins when all `sites` (empty: all that have kits) are connected, with the generator of
        the finished run `start`, if any. Without a folder of `masks`, a run that learns them is
        ordered first if the recipe wants some. `yes` confirms any cards in advance.

        Raises `RunError` if the name or a site is not valid, or a run of that name is another or
        finished.
        """
        check_run_name(name, learns_masks=False)
        if not federation.sites:
            raise RunError(no_site(federation))
        order = cls(federation, name)
        # A run that was begun goes on although sites of its timeline were removed since.
        begun = order._order_file.exists()
        timeline = () if begun else (part.site for part in recipe.timeline)
        if unknown := {*sites, *timeline} - set(federation.sites):
            raise RunError(
                f"there is no kit for {', '.join(sorted(unknown))}; 'asyndgan federation add "
                f"{quote(str(federation.path))} NAME.csr' makes one."
            )
        if begun:
            if order.state() == "finished":
                raise RunError(f"run {name} has finished; choose another name.")
            if order.folder.recipe().digest() != recipe.digest():
                raise RunError(f"run {name} has another recipe; choose another name.")
            wanted = order.wanted()
            for key, given in (("start", start), ("masks", masks)):
                if given and str(given.resolve()) != wanted.get(key):
                    raise RunError(f"run {name} was ordered without {given}; choose another name.")
            if (first := order.first) and first.state() != "finished":
                cls.submit(federation, first.name, first.folder.recipe(), sites, yes=yes)
            if sites:
                order._write_wanted(wanted | {"sites": sorted(sites), "only": sorted(sites)})
            order._stop_file.unlink(missing_ok=True)
            order.say("failed", "")
            order.say("trouble", "")
            if yes:
                order.confirm(ANYTHING)
            return order
        checks.check_attended(recipe, federation.sites)
        wanted = {"sites": sorted(sites or federation.sites), "only": sorted(sites)}
        if start:
            starting.Start.of(RunFolder(start), recipe, federation.sites)
            wanted["start"] = str(start.resolve())
        if masks or not recipe.given_masks:
            checks.given_masks(recipe, masks)
        else:
            check_run_name(name, learns_masks=True)
            teaches = learning.recipe_of_masks(recipe)
            wanted["first"] = cls.submit(
                federation, name + MASKS_SUFFIX, teaches, sites, yes=yes
            ).name
        if masks:
            wanted["masks"] = str(masks.resolve())
        wanted["ordered"] = time.time()
        RunFolder.create(order.folder.path, recipe)
        if yes:
            order.confirm(ANYTHING)
        order._write_wanted(wanted)
        return order

    def _write_wanted(self, wanted: Mapping[str, Any]) -> None:
        replace_text(self._order_file, json.dumps(wanted))

    @classmethod
    def all(cls, federation: Federation) -> list["Order"]:
        """All runs, in the order of their submission; `wanted` refuses orders that are damaged."""
        found: list[tuple[float, str]] = []
        for path in (federation.path / "runs").glob("*/order.json"):
            order = cls(federation, path.parent.name)
            try:
                found.append((order.wanted()["ordered"], order.name))
            except RunError:
                found.append((path.lstat().st_mtime, order.name))
        return [cls(federation, name) for _, name in sorted(found)]

    @classmethod
    def named(cls, federation: Federation, name: str | None) -> "Order":
        """A run by its name, or the newest; raises `RunError` if there is none."""
        found = [each for each in cls.all(federation) if name in (None, each.name)]
        if not found:
            raise RunError(
                f"there is no run {f'{name} ' if name else ''}in {federation.path}; order one with "
                f"'asyndgan federation submit {quote(str(federation.path))} default'."
            )
        return found[-1]

    def wanted(self) -> dict[str, Any]:
        """`sites`, `only` those named, `ordered` (Unix time) and perhaps `start`, `masks`, `first`.

        Raises `RunError` if they are unreadable.
        """
        try:
            wanted = dict(parsed_json(bounded_text(self._order_file)))
            return wanted | {"sites": [*wanted["sites"]], "ordered": float(wanted["ordered"])}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"run {self.name} cannot be read: {self._order_file} is damaged, or no order of "
                "this package. Move the run's folder elsewhere, and submit another."
            ) from error

    def state(self) -> str:
        """`ordered`, `running`, `stopped`, `failed`, `finished`, or `unreadable` by `wanted`."""
        begun = self.folder.facts_file.exists()
        if begun and self.folder.facts().state == "finished":
            return "finished"
        if self.stopped():
            return "stopped"
        if self.said("failed"):
            return "failed"
        try:
            self.wanted()
        except RunError:
            return "unreadable"
        return "running" if begun else "ordered"

    def goes_on(self) -> bool:
        """Whether it is ordered or running, and so is trained when its turn comes."""
        return self.state() in ("ordered", "running")

    def ahead(self) -> str:
        """Name of the other run that is being trained; empty if there is none."""
        others = (each for each in Order.all(self.federation) if each.name != self.name)
        return next((each.name for each in others if each.folder.busy()), "")

    def said(self, what: Said) -> str:
        """What was said last with `say`; empty if nothing holds."""
        try:
            return bounded_text(self.folder.path / what)
        except (OSError, ValueError):
            return ""

    def say(self, what: Said, text: str) -> None:
        """Says something to other processes; an empty text takes it back."""
        if text:
            replace_text(self.folder.path / what, text)
        else:
            (self.folder.path / what).unlink(missing_ok=True)

    @property
    def first(self) -> "Order | None":
        """The run that learns the masks of this one, if any; it is trained before."""
        name = self.wanted().get("first")
        return Order(self.federation, name) if name else None

    def stop(self) -> str:
        """Requests that the run stops after its step, with a checkpoint; says what will happen."""
        running = self.state() == "running"
        soon = "stops after its step" if running else "will not go on until it is submitted"
        self._stop_file.touch()
        return f"Run {self.name} {soon}."

    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop_file.exists()

    def begun(self) -> bool:
        """Whether a checkpoint is there, so that what it paints is fixed."""
        return bool(stored_steps(self.folder.checkpoints))

    def confirm(self, text: str) -> None:
        """Lets the run begin if its proposal equals this text; `ANYTHING` permits all."""
        self.say("confirmed", sha256_of(text))

    def await_confirmation(self, text: str) -> None:
        """Waits until a person has confirmed it; raises `Interrupted` if the run is stopped."""
        self.say("trouble", "")
        for line in text.splitlines():
            log.info("%s", line)
        if self.is_confirmed(text):
            return
        self.say(
            "waiting",
            "you to confirm what it paints: 'asyndgan federation confirm "
            f"{quote(str(self.federation.path))} --run {self.name}'",
        )
        # Last, for whoever sees it may ask at once what the run waits for.
        self.say("proposal", text)
        try:
            while not self.is_confirmed(text):
                if self.stopped():
                    raise Interrupted(f"run {self.name} was stopped before it was confirmed.")
                time.sleep(LOOK_S)
        finally:
            self.say("proposal", "")
            self.say("waiting", "")

    def await_stewards(self, reason: str) -> None:
        """Says why stewards are waited for, and lets some time pass before they are asked again.

        Raises `Interrupted` if the run was stopped instead.
        """
        reason = f"{reason} At each: 'asyndgan site approve SITE {self.name}'."
        if reason != self.said("trouble"):
            log.info("%s", reason)
            self.say("trouble", reason)
        if self.stopped():
            raise Interrupted(f"run {self.name} was stopped before it was approved.")
        time.sleep(STEWARDS_S)

    def is_confirmed(self, text: str) -> bool:
        """Whether a person has agreed to this text."""
        return self.said("confirmed") in (sha256_of(ANYTHING), sha256_of(text))

    def train(self, watch: "Watch | None" = None, *, device: str = "cpu") -> None:
        """Trains in this process until the run is finished or stopped.

        A new run waits for `confirm` before its first step.

        Raises:
            BusyError: another process trains this run, or has its sites.
            Others: as `runs.train.train_over`.
        """
        recipe, first = self.folder.recipe(), self.first
        if first and first.goes_on():  # it was submitted again while this process started
            raise BusyError(f"run {first.name}, which learns its masks, comes first.")
        if first and first.state() != "finished":
            ended = f"is {first.state()}"
            if first.state() == "failed":
                ended = f"has failed. {first.said('failed').rstrip('.')}. Once that is mended"
            raise RunError(
                f"run {first.name}, which learns its masks, {ended}: submit run {self.name} again, "
                "and both go on."
            )
        # First of all: another process may train this run, or ask its sites.
        with self.folder.held(), sites_alone(self.federation):
            self.say("proposal", "")  # of a process that was killed
            only = self.wanted().get("only", ())
            transport = transport_to(self.federation, recipe, self.name, only)
            try:
                train_over = trainer.train_over  # sites connect while torch is imported
                try:
                    self.gather(transport, recipe)
                finally:
                    self.say("waiting", "")
                begun, wanted = self.begun(), self.wanted()
                start, masks = (wanted.get(key) for key in ("start", "masks"))
                masks = learning.painted_masks(first.folder) if first else masks
                train_over(
                    self.folder,
                    transport,
                    # A resumed run has had its quorum; a new one needs all of its sites.
                    sites=() if begun else self.due(recipe, transport),
                    device=device,
                    stop=self.stopped,
                    confirm=self.await_confirmation,
                    pending=self.await_stewards,
                    start=Path(start) if start else None,
                    masks=Path(masks) if masks else None,
                    watch=watch,
                    go_on=f"'asyndgan federation submit {quote(str(self.federation.path))} "
                    f"{quote(str(self.folder.recipe_file))} --run {self.name}' has it go on",
                )
            finally:
                transport.close()
        self.say("trouble", "")

    def due(self, recipe: Recipe, transport: Transport) -> list[str]:
        """Sites that take part in the next step and were not removed."""
        step = max(stored_steps(self.folder.checkpoints), default=0)
        return [
            site
            for site in self.wanted()["sites"]
            if transport.belongs(site) and recipe.takes_part(site, step)
        ]

    def gather(self, transport: Transport, recipe: Recipe) -> None:
        """Waits for all sites, or raises `Interrupted`; see `RETURN_S`."""
        begun = self.begun()
        since, told = time.monotonic(), set[str]()
        while True:
            wanted = self.due(recipe, transport)
            missing = set(wanted) - set(transport.sites())
            if not begun and not any(map(transport.belongs, self.wanted()["sites"])):
                missing = {NOBODY}
            if not missing:
                return
            late = time.monotonic() - since > RETURN_S
            least = Quorum(recipe.quorum, wanted).least
            if begun and late and len(wanted) - len(missing) >= least:
                return
            if self.stopped():
                raise Interrupted(f"run {self.name} was stopped before it began.")
            if missing != told:
                names = ", ".join(sorted(missing))
                log.info("waiting for %s", names)
                self.say("waiting", names)
                told = missing
            time.sleep(LOOK_S)


@contextmanager
def sites_alone(federation: Federation) -> Iterator[None]:
    """Has a federation's sites to itself; raises `BusyError` if another process has them."""
    runs = federation.path / "runs"
    runs.mkdir(exist_ok=True)
    with held(runs, f"the sites of {federation.path} serve another run or question; wait for it."):
        yield


def no_site(federation: Federation) -> str:
    """That a federation has no site, and how it gets one."""
    add = f"asyndgan federation add {quote(str(federation.path))} NAME.csr"
    return f"the federation has no site yet; '{add}' adds one."
