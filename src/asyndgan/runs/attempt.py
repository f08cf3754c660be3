"""One attempt at a run: the training loop, its checkpoints, and however it ends."""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

import torch

from asyndgan import __version__
from asyndgan.errors import (
    AsyndganError,
    DataError,
    Interrupted,
    NotFiniteError,
    QuorumError,
    RunError,
    StorageError,
)
from asyndgan.intake.dataset import DataSet, sliced
from asyndgan.models.parts import usable_device
from asyndgan.protocol import Exchange, Transport
from asyndgan.recipe import Recipe
from asyndgan.runs.facts import RunFacts, State
from asyndgan.runs.folder import RunFolder
from asyndgan.runs.kept_masks import MaskBank
from asyndgan.runs.proposal import proposal
from asyndgan.runs.recorder import Progress, Recorder
from asyndgan.runs.samples import SampleGrid
from asyndgan.runs.signals import stop_requests
from asyndgan.runs.start import Start
from asyndgan.texts import LONGEST_NEWS
from asyndgan.training import GENERATOR_VERSION, Coordinator
from asyndgan.training.checkpoint import count_in, forget_old, taking_up, to_resume, write
from asyndgan.training.given import Given
from asyndgan.training.roster import Pending
from asyndgan.training.scope import Scope
from asyndgan.training.steps import step_file, stored_steps
from asyndgan.wire.messages import Card

log = logging.getLogger(__name__)

Watch = Callable[[Progress], None]
Confirm = Callable[[str], None]
"""Called before the first step of a new run with what its sites' cards have it paint
(`runs.proposal`); returns if the run is to begin, or raises."""


@final
@dataclass
class _Pace:
    """Estimates the remaining seconds from the last 50 steps."""

    times: deque[float] = field(default_factory=lambda: deque([time.monotonic()], maxlen=51))

    def left(self, steps: int) -> float:
        self.times.append(time.monotonic())
        return steps * (self.times[-1] - self.times[0]) / (len(self.times) - 1)


@final
class Attempt:
    """One attempt at a run, from a fresh start or a checkpoint until it ends."""

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
        precision: str,
        confirm: Confirm | None = None,
        pending: Pending | None = None,
        start: Start | None = None,
        given: Given | None = None,
        sets: Mapping[str, DataSet] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self.go_on = go_on
        self.exchange = Exchange(transport, recipe)
        self.saved: int | None = None  # step of the last checkpoint of this attempt
        self.absent: dict[str, str] = {}  # why a site was last missed or turned away
        state = to_resume(folder.checkpoints)
        if state:
            self.facts = folder.facts()
            if self.facts.generator_version != GENERATOR_VERSION:
                raise RunError(
                    f"the run in {folder.path} was begun by another version of asyndgan, which "
                    "trained otherwise; it cannot go on. Start a new run."
                )
        else:
            self.facts = RunFacts(
                folder.identity(), __version__, recipe.digest(), engine, torch=torch.__version__,
                generator_version=GENERATOR_VERSION, precision=precision,
                threads=torch.get_num_threads(),
            )  # fmt: skip
        for site, data in sets.items():
            with suppress(DataError):  # the site itself says what is wrong with it
                self.facts.patient_patterns[site] = data.info.patient_pattern
        self.recorder = Recorder(folder, self.facts, self.exchange)
        kept = recipe.keeps_masks or given
        bank = MaskBank(folder.masks, whole=recipe.image.whole) if kept else None
        collected = None if given else bank  # given masks are kept once, below
        if bank and not (given and state):
            counts = state[1].get("masks", bank.counts()) if state else {}
            with taking_up():
                bank.back_to({site: count_in(counts, site) for site in counts})
        begun_at = count_in(state[1], "step") if state else 0
        self.coordinator = Coordinator.begin(
            recipe.computed_in(self.facts.precision),
            self.exchange,
            run=self.facts.run,
            keep=collected.keep if collected else None,
            given=given,
            checkpoint=state,
            needed={site for site in sites if recipe.takes_part(site, begun_at)},
            confirm=self._ask(confirm) if confirm else None,
            pending=pending,
            device=usable_device(device),
        )
        self.facts.sliced |= sliced(sets.values(), recipe.image)
        self.bank = bank
        if bank:
            bank.describe(self.coordinator.scope)
            if given and not state:
                for learned in dict.fromkeys(given.sites):
                    bank.keep(learned, given.learned_for(learned))
        folder.forget_metrics_after(self.coordinator.step_number)
        self.grid = SampleGrid(folder.samples, self.coordinator, bank) if bank else None
        self.facts.state = "running"
        if start and not state:
            self.facts.start = start.begin(self.coordinator)
        if (start or given) and not state:
            self._checkpoint()  # so that the run resumes without the other one, or the folder
        self.recorder.write_facts(self.coordinator)

    def _ask(self, confirm: Confirm) -> Callable[[Scope, Mapping[str, Card]], None]:
        def ask(scope: Scope, cards: Mapping[str, Card]) -> None:
            confirm(proposal(self.recipe, scope, cards))
            self.recorder.restart_clock()  # what a person takes to answer is no time of the run

        return ask

    def to_the_end(
        self, watch: Watch | None = None, also: Callable[[], bool] = lambda: False
    ) -> None:
        """Takes steps until all are done; records the state of the run however it ends.

        It writes a checkpoint, except on `NotFiniteError`, `StorageError` and foreign errors.
        """
        step, every = self.coordinator.step_number, self.recipe.training.sample_every
        try:
            record = self.recorder.recording(step + 1, self.grid, every=every)
            with stop_requests() as asked:
                for progress in self._steps(lambda: asked() or also()):
                    record(progress)
                    if watch:
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
        except StorageError as error:
            with suppress(StorageError):  # the first file says enough
                self._leave("failed", checkpoint=False)  # the masks of a step may be half there
            raise StorageError(f"{error} The run has begun: {self.go_on}.") from error
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
            self._gather(stop)
            report = self.coordinator.step()
            done = self.coordinator.step_number
            self.absent |= report.missed
            idle = None if report.updated else idle or time.monotonic()
            yield Progress(
                step=done,
                steps=training.steps,
                seconds_left=pace.left(training.steps - done),
                report=report,
                sent=self.exchange.to_sites.total(),
                received=self.exchange.from_sites.total(),
            )
            if done % training.checkpoint_every == 0 and done < training.steps:
                self._checkpoint()
            waited = time.monotonic() - idle if idle else 0.0
            if waited > self.recipe.quorum.patience_s and done < training.steps:
                raise self._too_few("too few sites answered")
            self._heed(stop)

    def _gather(self, stop: Callable[[], bool]) -> None:
        """Readmits sites that have returned; waits, within the patience, for a quorum."""
        step = self.coordinator.step_number
        if self.coordinator.roster.leaving(step) and self.saved != step:
            self._checkpoint()  # a leaving site continues from here if it comes back
        since = time.monotonic()
        while True:
            news = self.coordinator.invite()
            self.absent |= {site: reason for site, reason in news.items() if reason}
            if self.coordinator.has_quorum():
                return
            if reasons := self.coordinator.roster.barred(step):
                raise RunError(
                    f"too few sites are left whose policies allow the run.{reasons} It stopped "
                    f"with a checkpoint: {self.go_on}."
                )
            if time.monotonic() - since > self.recipe.quorum.patience_s:
                raise self._too_few("too few sites")
            self._heed(stop)
            time.sleep(0.2)

    def _checkpoint(self) -> None:
        """Writes the sites' checkpoints first, then the coordinator's, which relies on theirs."""
        self.coordinator.events += [
            f"{site} kept no checkpoint: {reason}"
            for site, reason in self.coordinator.roster.save(self.coordinator.step_number).items()
        ]
        tensors, about = self.coordinator.state()
        if self.bank:
            about["masks"] = self.bank.counts()
        write(step_file(self.folder.checkpoints, about["step"]), tensors, about)
        forget_old(self.folder.checkpoints)
        self.recorder.write_facts(self.coordinator)
        self.saved = self.coordinator.step_number

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

    def _finish(self) -> None:
        self._checkpoint()
        self.facts.generator_sha256 = self.folder.write_generator(
            self.coordinator.average, self.facts
        )
        self.coordinator.roster.close()
        for event in self.coordinator.events:  # no step follows that could tell them
            log.warning("%s", event[:LONGEST_NEWS])
        self._leave("finished", checkpoint=False)

    def _leave(self, state: State, *, checkpoint: bool) -> None:
        self.facts.state = state
        try:
            if checkpoint:
                self._checkpoint()
        finally:
            self.recorder.write_facts(self.coordinator)
