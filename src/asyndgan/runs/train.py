"""Trains a run from its first step to its last, across interruptions."""

import json
import logging
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch.utils.tensorboard import SummaryWriter

from asyndgan import __version__
from asyndgan.data.description import describe
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.data.prepare import shared_modalities
from asyndgan.engines import SiteSetup, build_engine
from asyndgan.errors import (
    AsyndganError,
    Interrupted,
    NotFiniteError,
    PolicyError,
    QuorumError,
    RunError,
    StorageError,
)
from asyndgan.models import usable_device
from asyndgan.privacy import Policy
from asyndgan.protocol import Exchange, Transport
from asyndgan.recipe import Recipe
from asyndgan.runs.bank import MaskBank
from asyndgan.runs.folder import RunFacts, RunFolder, by_site, counted_on, socket_sums
from asyndgan.runs.proposal import proposal
from asyndgan.runs.samples import SampleGrid
from asyndgan.training import GENERATOR_VERSION, Coordinator, StepReport
from asyndgan.training.checkpoint import (
    count_in,
    forget_old,
    network_state,
    step_file,
    stored_steps,
    taking_up,
    to_resume,
    write,
)
from asyndgan.training.scope import Scope
from asyndgan.wire import Card

log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class Progress:
    """Progress after a step, for display.

    Attributes:
        step: number of steps done.
        steps: number of steps in all.
        seconds_left: estimate of the remaining seconds from the last steps.
        report: report of the step.
        sent: bytes sent to all sites so far.
        received: bytes received from all sites so far.
        news: one line for each event that a person should read.
    """

    step: int
    steps: int
    seconds_left: float
    report: StepReport
    sent: int
    received: int
    news: tuple[str, ...] = ()


Watch = Callable[[Progress], None]
Confirm = Callable[[str], None]
"""Called before the first step of a new run with what its sites' cards have it paint
(`runs.proposal`); returns if the run is to begin, or raises."""


def train(
    recipe: Recipe,
    sites: dict[str, Path],
    out: Path,
    *,
    policies: Mapping[str, Path] | None = None,
    masks: Path | None = None,
    records: Path | None = None,
    patients: str = DEFAULT_PATIENT_PATTERN,
    without: Mapping[str, Collection[str]] | None = None,
    engine: str = "inprocess",
    resume: bool = False,
    threads: int = 1,
    device: str = "cpu",
    keep_generators: bool = False,
    started: Callable[[Transport], None] | None = None,
    confirm: Confirm | None = None,
    watch: Watch | None = None,
) -> RunFolder:
    """Trains one generator with these sites.

    Args:
        recipe: what to train and how; a resumed run must have the recipe it was started with.
        sites: folder of each site's data, by the site's name.
        out: run folder.
        policies: policy file of each site, by the site's name; a site without one lets out
            everything that the recipe asks for.
        masks: folder of masks for every site to paint from; required exactly if the recipe has
            `masks.source` "given".
        records: folder that keeps each site's ledger and account beyond this run, in NAME/;
            required if a policy limits what is spent or answered over all runs.
        patients: pattern that finds the patient in a case's name.
        without: modalities of a site that are not used, by the site's name.
        engine: name of the engine, which determines how messages travel.
        resume: continue from the newest checkpoint.
        threads: cores for the coordinator's arithmetic. Results are bit-equal only for equal
            numbers.
        device: torch device for all networks: `cpu`, `cuda`, `cuda:1`, `mps`.
        keep_generators: keep the averaged generator of every checkpoint, in `generators/`.
        started: called with the engine once it is set up.
        confirm: called before the first step of a new run.
        watch: called after every step.

    Returns:
        The finished run.

    Raises:
        Interrupted: after Ctrl-C, when the checkpoint is written.
        NotFiniteError: a loss is not finite; names site, step and last good checkpoint.
        QuorumError: too few sites for longer than the recipe's patience; a checkpoint is written.
        RunError, DataError, CohortError, RecipeError, PolicyError: the run cannot begin.
    """
    torch.set_num_threads(threads)
    usable_device(device)
    _check_policies(recipe, sites, policies or {}, records)
    _check_sites(recipe, sites, masks, without or {})
    _check_late_sites(recipe, sites, without or {})
    if not resume:
        check_all_come(recipe, sites)
    folder = _resumed(out, recipe, sites, patients) if resume else RunFolder.create(out, recipe)
    setups = [
        SiteSetup(
            name,
            data,
            folder.site_state(name),
            patients=patients,
            policy=(policies or {}).get(name),
            masks=masks,
            records=records / name if records else None,
            device=device,
            without=tuple((without or {}).get(name, ())),
        )
        for name, data in sorted(sites.items())
    ]
    with folder.held(), _termination_unwinds():
        transport = build_engine(engine, setups, recipe)
        try:
            if started:
                started(transport)
            run = _Run(
                folder,
                recipe,
                transport,
                engine,
                sites,
                device=device,
                go_on="go on with 'asyndgan train ... --resume'",
                patients=patients,
                keep_generators=keep_generators,
                confirm=confirm,
            )
            run.to_the_end(watch or _unwatched)
        finally:
            transport.close()
    return folder


def train_over(
    folder: RunFolder,
    transport: Transport,
    *,
    engine: str,
    sites: Collection[str],
    device: str = "cpu",
    stop: Callable[[], bool] = lambda: False,
    confirm: Confirm | None = None,
    watch: Watch | None = None,
) -> None:
    """Trains over an existing transport; continues from the newest checkpoint if there is one.

    Args:
        folder: folder of the run, with its recipe; the caller holds its lock.
        transport: transport to the sites; the caller closes it.
        engine: name of the engine.
        sites: sites without which the run does not begin; others may join.
        device: device on which the generator computes.
        stop: called after every step and while waiting for sites; True stops the run.
        confirm: called before the first step of a new run.
        watch: called after every step.

    Raises:
        Interrupted: `stop` returned True, or a signal came; the checkpoint is written.
        QuorumError, NotFiniteError, RunError, CohortError: as `train`.
    """
    go_on = "'asyndgan federation submit' has it go on"
    # Each site tells its patients by a pattern of its own, which it does not send.
    run = _Run(
        folder,
        folder.recipe(),
        transport,
        engine,
        sites,
        device=device,
        go_on=go_on,
        patients="",
        confirm=confirm,
    )
    run.to_the_end(watch or _unwatched, stop)


def _unwatched(progress: Progress) -> None:
    """Ignores the progress."""


def _check_sites(
    recipe: Recipe,
    sites: Mapping[str, Path],
    masks: Path | None,
    without: Mapping[str, Collection[str]],
) -> None:
    if (masks is not None) != (recipe.masks.source == "given"):
        raise RunError(
            f"recipe '{recipe.name}' has masks.source '{recipe.masks.source}', and "
            f"{masks or 'no folder of masks'} was given. Name a folder of masks exactly if the "
            "recipe asks for it with 'given'."
        )
    owners: dict[Path, str] = {}
    for site, data in sites.items():
        owner = owners.setdefault(data.resolve(), site)
        if owner != site:
            raise RunError(
                f"{owner} and {site} have one folder, {data}, so its patients would count twice. "
                "Give each site data of its own."
            )
    if stray := set(without) - set(sites):
        raise RunError(
            f"{', '.join(sorted(stray))} is to go without a modality, and is no site of this run; "
            f"the sites are {', '.join(sites)}."
        )
    if unknown := {part.site for part in recipe.timeline} - set(sites):
        raise RunError(
            f"the timeline of recipe '{recipe.name}' names {', '.join(sorted(unknown))}, which is "
            f"no site of this run; the sites are {', '.join(sites)}."
        )
    check_attended(recipe, sites)
    check_odds(recipe, sites)


def check_odds(recipe: Recipe, sites: Collection[str]) -> None:
    """Checks that no more sites take part at once than may judge each other's images.

    Raises:
        RunError: more do.
    """
    most = recipe.shares.sites
    if recipe.shares.by == "odds" and (there := recipe.most_at_once(sites)) > most:
        raise RunError(
            f"{there} sites take part at once, and shares.sites lets {most} judge each other's "
            "images. Raise it at all ends."
        )


def check_attended(recipe: Recipe, sites: Collection[str]) -> None:
    """Checks that some site takes part in every step, or the run could never finish.

    Raises:
        RunError: nobody takes part in a step.
    """
    empty = recipe.first_empty_step(sites)
    if empty is not None:
        raise RunError(
            f"by the timeline of recipe '{recipe.name}' no site takes part in step {empty}, where "
            "the run would stop for good. Let the parts of the timeline meet or overlap."
        )


def check_all_come(recipe: Recipe, sites: Collection[str]) -> None:
    """Checks of a run that is to begin that no site comes when it is over.

    Raises:
        RunError: a site does.
    """
    if never := [site for site in sorted(sites) if not recipe.presence_of(site)]:
        raise RunError(
            f"by the timeline of recipe '{recipe.name}' {', '.join(never)} would come after the "
            f"last of {recipe.training.steps} steps. Correct the timeline, or take them out of it "
            "and of the sites."
        )


def _check_policies(
    recipe: Recipe, sites: Collection[str], policies: Mapping[str, Path], records: Path | None
) -> None:
    """Checks all policies against the recipe before anything starts; each site checks again."""
    unknown = set(policies) - set(sites)
    if unknown:
        raise PolicyError(f"there is a policy for {', '.join(sorted(unknown))}, which is no site.")
    for name, file in policies.items():
        policy = Policy.from_file(file)
        policy.check(recipe, name)
        limits = (policy.privacy.epsilon, policy.most_answers(1), policy.allows.most_recipes)
        if records is None and any(limits):
            raise PolicyError(
                f"the policy of {name} limits what leaves it in all runs, but its books would be "
                "of this run alone. Name a folder for them that stays, with --records FOLDER."
            )


def _check_late_sites(
    recipe: Recipe, sites: Mapping[str, Path], without: Mapping[str, Collection[str]]
) -> None:
    """Checks that sites joining later hold no modalities or labels that the first sites lack.

    What a run paints is fixed when it begins, and all of it must be some site's.
    """
    if not recipe.timeline:
        return
    about = {site: describe(data) for site, data in sites.items()}
    labels = {
        site: {f"label {number} '{name}'" for name, number in info.labels.items()}
        for site, info in about.items()
    }
    remedy = "Give all sites the same labels in dataset.json, or name all in image.labels."
    checks = [] if recipe.image.labels else [(labels, remedy)]
    if recipe.image.source == "images":
        held = {
            site: set(shared_modalities(info, recipe.image)) - set(without.get(site, ()))
            for site, info in about.items()
        }
        if not recipe.image.modalities:
            checks.append((held, "Name all modalities in image.modalities of the recipe."))
        elif nobodys := sorted({*recipe.image.modalities}.difference(*held.values())):
            raise RunError(
                f"recipe '{recipe.name}' paints {', '.join(nobodys)}, which no site holds, early "
                "or late. Correct image.modalities."
            )
    for found, remedy in checks:
        first = {name for site in found if recipe.takes_part(site, 0) for name in found[site]}
        for site, own in sorted(found.items()):
            if own - first:
                raise RunError(
                    f"{site} comes later and holds {', '.join(sorted(own - first))}, which none of "
                    f"the sites of the beginning has, so the run would not paint it. {remedy}"
                )


def _resumed(out: Path, recipe: Recipe, sites: Collection[str], patients: str) -> RunFolder:
    folder = RunFolder(out)
    begun = folder.recipe()
    if folder.facts_file.exists() and folder.facts().state == "finished":
        raise RunError(
            f"the run in {out} has finished, and a finished run cannot be lengthened; choose "
            "another folder for a new one."
        )
    if begun.digest() != recipe.digest():
        raise RunError(
            f"the run in {out} was started with another recipe: "
            f"{'; '.join(begun.changes(recipe))}. Resume it with {folder.recipe_file}."
        )
    if folder.facts_file.exists():
        facts = folder.facts()
        facts.check_pattern(patients)
        later = {part.site for part in folder.recipe().timeline} & set(sites)
        if set(facts.sites) | later != set(sites):
            raise RunError(
                f"the run in {out} was started with {', '.join(facts.sites)}; resume it with the "
                f"same sites, not with {', '.join(sorted(sites))}, or start a new run."
            )
    return folder


def _check_looks(folder: RunFolder, facts: RunFacts) -> None:
    """Refuses to go on in looks that the generator was not trained in so far."""
    held = [about["modalities"] for about in facts.sites.values()]
    lacking = any(len(own) < len(facts.modalities) for own in held)
    if lacking and folder.recipe().generator.style and not facts.shares_looks:
        raise RunError(
            f"the run in {folder.path} was begun by an earlier version, in which sites that lack a "
            "modality had looks of their own; it cannot go on. Start a new run."
        )


@final
@dataclass
class _Pace:
    """Estimates the remaining seconds from the last 50 steps."""

    times: list[float] = field(default_factory=lambda: [time.monotonic()])

    def left(self, steps: int) -> float:
        self.times = [*self.times[-50:], time.monotonic()]
        return steps * (self.times[-1] - self.times[0]) / (len(self.times) - 1)


@final
class _Run:
    """One attempt at a run, from a fresh start or a checkpoint until it ends for any reason."""

    def __init__(
        self,
        folder: RunFolder,
        recipe: Recipe,
        transport: Transport,
        engine: str,
        sites: Collection[str],
        *,
        device: str,
        go_on: str,
        patients: str,
        keep_generators: bool = False,
        confirm: Confirm | None = None,
    ) -> None:
        self.folder = folder
        self.keep_generators = keep_generators
        self.recipe = recipe
        self.go_on = go_on
        self.exchange = Exchange(transport, recipe)
        self.begun = time.monotonic()
        state = to_resume(folder.checkpoints)
        if state:
            self.facts = folder.facts()
            _check_looks(folder, self.facts)
            self._count_on()
        else:
            self.facts = RunFacts(
                folder.identity(), __version__, recipe.digest(), engine, torch=torch.__version__,
                generator_version=GENERATOR_VERSION,
            )  # fmt: skip
        self.facts.patient_pattern = patients
        self.saved: int | None = None  # step of the last checkpoint of this attempt
        self.absent: dict[str, str] = {}  # why a site was last missed or turned away
        self.seconds_before = self.facts.seconds
        bank = MaskBank(folder.masks) if recipe.keeps_masks else None
        if bank:
            kept = state[1].get("masks", bank.counts()) if state else {}
            with taking_up():
                bank.back_to({site: count_in(kept, site) for site in kept})
        begun_at = count_in(state[1], "step") if state else 0
        self.coordinator = Coordinator.begin(
            recipe,
            self.exchange,
            run=self.facts.run,
            keep=bank.keep if bank else None,
            recall=bank.of if bank else None,
            checkpoint=state,
            needed={site for site in sites if recipe.takes_part(site, begun_at)},
            confirm=self._ask(confirm) if confirm else None,
            device=usable_device(device),
        )
        self.bank = bank
        if bank:
            bank.describe(self.coordinator.scope)
        folder.forget_metrics_from(self.coordinator.step_number)
        self.grid = SampleGrid(folder.samples, self.coordinator, bank) if bank else None
        self.facts.state = "running"
        self._write_facts()

    def _ask(self, confirm: Confirm) -> Callable[[Scope, Mapping[str, Card]], None]:
        def ask(scope: Scope, cards: Mapping[str, Card]) -> None:
            confirm(proposal(self.recipe, scope, cards))
            self.begun = time.monotonic()  # what a person takes to answer is no time of the run

        return ask

    def to_the_end(self, watch: Watch, also: Callable[[], bool] = lambda: False) -> None:
        """Takes steps until all are done; records the state of the run however it ends.

        A checkpoint is written at the end, on an interruption and on errors of this package except
        `NotFiniteError` and `StorageError`.

        Args:
            watch: called after every step.
            also: returns True to stop for a reason other than a signal.
        """
        board = SummaryWriter(self.folder.tensorboard, purge_step=self.coordinator.step_number)
        try:
            metrics_file = self.folder.metrics_file
            with (
                board,
                metrics_file.open("a", encoding="utf-8") as metrics,
                _stop_requests() as asked,
            ):
                for progress in self._steps(lambda: asked() or also()):
                    self._record(progress, metrics, board)
                    watch(progress)
            self._finish()
        except NotFiniteError as error:
            self._leave("failed", checkpoint=False)
            kept = stored_steps(self.folder.checkpoints)
            good = f"step {kept[-1]}" if kept else "none yet"
            raise NotFiniteError(
                f"{error} Last good checkpoint: {good}. Lower the learning rates or the weight of "
                "the term that grew, and train anew."
            ) from error
        except Interrupted:
            self._leave("interrupted", checkpoint=True)
            raise
        except StorageError:
            self._leave("failed", checkpoint=False)  # the masks of a step may be half there
            raise
        except AsyndganError:
            self._leave("failed", checkpoint=True)
            raise
        except BaseException:
            self._leave("failed", checkpoint=False)  # the state may be inconsistent
            raise
        finally:
            self.exchange.close()

    def _steps(self, stop: Callable[[], bool]) -> Iterator[Progress]:
        training = self.recipe.training
        pace = _Pace()
        idle: float | None = None  # since when no step has taught the generator
        while self.coordinator.step_number < training.steps:
            news = self._gather(stop)
            report = self.coordinator.step()
            done = self.coordinator.step_number
            self.absent |= report.missed
            idle = None if report.updated else idle or time.monotonic()
            news += [
                f"missed {site}: {reason.removeprefix(f'site {site}: ')}"
                for site, reason in report.missed.items()
            ]
            yield Progress(
                step=done,
                steps=training.steps,
                seconds_left=pace.left(training.steps - done),
                report=report,
                sent=self.exchange.to_sites.total(),
                received=self.exchange.from_sites.total(),
                news=tuple(news),
            )
            if done % training.checkpoint_every == 0 and done < training.steps:
                self._checkpoint()
            waited = time.monotonic() - idle if idle else 0.0
            if waited > self.recipe.quorum.patience_s and done < training.steps:
                raise self._too_few("too few sites answered")
            self._heed(stop)

    def _too_few(self, what: str) -> QuorumError:
        there = ", ".join(self.coordinator.members) or "none"
        step = self.coordinator.step_number
        awaited = self.coordinator.roster.awaited(step)
        absent = dict.fromkeys(awaited, "due by the timeline, and not connected.") | self.absent
        reasons = "".join(
            f" {site}: {reason.removeprefix(f'site {site}: ')}"
            for site, reason in sorted(absent.items())
            if site not in self.coordinator.members and self.recipe.takes_part(site, step)
        )
        return QuorumError(
            f"{what} for {self.recipe.quorum.patience_s:g} s (there: {there}); the run stopped "
            f"with a checkpoint. Resume it when they are back.{reasons}"
        )

    def _heed(self, stop: Callable[[], bool]) -> None:
        if stop():
            raise Interrupted(f"stopped after step {self.coordinator.step_number}; {self.go_on}.")

    def _gather(self, stop: Callable[[], bool]) -> list[str]:
        """Readmits sites that have returned; waits, within the patience, for a quorum."""
        step = self.coordinator.step_number
        if self.coordinator.roster.leaving(step) and self.saved != step:
            self._checkpoint()  # a leaving site continues from here if it comes back
        news: list[str] = []
        since = time.monotonic()
        while True:
            for site, reason in self.coordinator.invite().items():
                if reason:
                    self.absent[site] = reason
                    news.append(f"{site} is not back: {reason}")
                elif since_step := self.coordinator.members[site].since:
                    news.append(f"{site} is back, with its discriminator of step {since_step}")
                else:
                    news.append(f"{site} is there, with a new discriminator")
            news, self.coordinator.notes = self.coordinator.notes + news, []
            if self.coordinator.has_quorum():
                return news
            if time.monotonic() - since > self.recipe.quorum.patience_s:
                raise self._too_few("too few sites")
            self._heed(stop)
            time.sleep(0.2)

    def _record(self, progress: Progress, metrics: Any, board: SummaryWriter) -> None:
        report = progress.report
        record = {
            "step": report.step,
            "seconds": round(self._seconds(), 3),
            "updated": report.updated,
            "shares": report.shares,
            "losses": report.losses,
            "round_trip": {
                site: round(self.exchange.round_trip[site], 4)
                for site in report.shares
                if site in self.exchange.round_trip
            },
            "sent": progress.sent,
            "received": progress.received,
            "bytes": self._moved(board, report.step),
            "news": list(progress.news),
        }
        self._count_sockets()
        if self.facts.socket_bytes:
            carried = {s: socket_sums(c) for s, c in self.facts.socket_bytes.items()}
            record["socket"] = carried
            for site, (left, came) in carried.items():
                board.add_scalar(f"socket/left/{site}", left, report.step)
                board.add_scalar(f"socket/came/{site}", came, report.step)
        if report.distance is not None:
            record |= {"distance": report.distance, "distances": report.distances}
            board.add_scalar("distance", report.distance, report.step)
            for site, own in report.distances.items():
                board.add_scalar(f"distance/{site}", own, report.step)
        if report.reminding is not None:
            record["reminding"] = report.reminding
            board.add_scalar("reminding", report.reminding, report.step)
        metrics.write(json.dumps(record) + "\n")
        metrics.flush()
        for site, losses in report.losses.items():
            for name, value in losses.items():
                board.add_scalar(f"{name}/{site}", value, report.step)
        board.add_scalar("bytes/to_sites", progress.sent, report.step)
        board.add_scalar("bytes/from_sites", progress.received, report.step)
        last = progress.step == progress.steps
        if self.grid and (last or progress.step % self.recipe.training.sample_every == 0):
            grid = self.grid.write(progress.step)
            if grid is not None:
                board.add_image("samples", grid, report.step)

    def _moved(self, board: SummaryWriter, step: int) -> dict[str, list[int]]:
        """Returns the bytes that left and came to each site; logs them by kind to TensorBoard."""
        moved: dict[str, list[int]] = {}
        for way, (name, counts) in enumerate(
            {"left": self.exchange.from_sites, "came": self.exchange.to_sites}.items()
        ):
            for (site, kind), size in sorted(counts.items()):
                moved.setdefault(site, [0, 0])[way] += size
                board.add_scalar(f"bytes_{name}/{site}/{kind}", size, step)
        return moved

    def _checkpoint(self) -> None:
        """Writes the sites' checkpoints first, then the coordinator's, which relies on theirs.

        A site that kept none is only noted.
        """
        self.coordinator.notes += [
            f"{site} kept no checkpoint: {reason}"
            for site, reason in self.coordinator.roster.save(self.coordinator.step_number).items()
        ]
        tensors, about = self.coordinator.state()
        if self.bank:
            about["masks"] = self.bank.counts()
        write(step_file(self.folder.checkpoints, about["step"]), tensors, about)
        if self.keep_generators:
            average = network_state("average", self.coordinator.average)
            write(step_file(self.folder.generators, about["step"]), average, {})
        forget_old(self.folder.checkpoints)
        self._write_facts()
        self.saved = self.coordinator.step_number

    def _finish(self) -> None:
        self._checkpoint()
        if self.coordinator.selection:
            self.facts.generator_step = self.coordinator.selection.best_step
        self.facts.generator_sha256 = self.folder.write_generator(
            self.coordinator.chosen(), self.facts
        )
        self.coordinator.roster.close()
        for note in self.coordinator.notes:  # no step follows that could tell them
            log.warning("%s", note)
        self._leave("finished", checkpoint=False)

    def _leave(self, state: Any, *, checkpoint: bool) -> None:
        self.facts.state = state
        try:
            if checkpoint:
                self._checkpoint()
        finally:
            self._write_facts()

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.begun

    def _write_facts(self) -> None:
        facts, scope = self.facts, self.coordinator.scope
        vars(facts).update(scope.to_plain())
        facts.steps = self.coordinator.step_number
        facts.seconds = round(self._seconds(), 1)
        shares = self.coordinator.roster.normalised_shares
        told = facts.sites | {
            site: {
                "cases": member.cases,
                "modalities": [scope.modalities[channel] for channel in member.channels],
            }
            for site, member in self.coordinator.roster.known.items()
        }
        # Sites that left before this attempt keep their facts from earlier attempts.
        facts.sites = {
            site: {**told[site], "share": share}
            for site, share in sorted(shares.items())
            if site in told
        }
        facts.taught = dict(self.coordinator.roster.taught)
        facts.left_sites = by_site(self.exchange.from_sites)
        facts.came_to_sites = by_site(self.exchange.to_sites)
        self._count_sockets()
        self.folder.write_facts(facts)

    def _count_sockets(self) -> None:
        """Counts bytes over all attempts, each connection once even if it outlives an attempt."""
        for site, connections in self.exchange.transport.socket_bytes().items():
            known = self.facts.socket_bytes.get(site, {})
            self.facts.socket_bytes[site] = counted_on(known, connections)

    def _count_on(self) -> None:
        """Restores the byte counts of earlier attempts."""
        for counter, counts in (
            (self.exchange.from_sites, self.facts.left_sites),
            (self.exchange.to_sites, self.facts.came_to_sites),
        ):
            for site, kinds in counts.items():
                counter.update({(site, kind): size for kind, size in kinds.items()})


@contextmanager
def _termination_unwinds() -> Iterator[None]:
    """Lets SIGTERM before the first step clean up what has been started, as Ctrl-C does."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:
        yield  # not the main thread: the caller handles signals
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C or SIGTERM came; after a Ctrl-C the next signal acts as usual."""
    asked: list[int] = []
    before: dict[int, Any] = {}

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        if number == signal.SIGINT:
            for asked_for, handler in before.items():
                signal.signal(asked_for, handler)

    try:
        for each in (signal.SIGINT, signal.SIGTERM):
            before[each] = signal.signal(each, ask)
    except ValueError:
        before = {}  # not the main thread: the caller handles signals
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
