"""What a run writes down while it trains: metrics, TensorBoard, and the facts in `run.json`."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from torch.utils.tensorboard.summary import image, scalar

from asyndgan.protocol import Exchange
from asyndgan.runs.board import Board
from asyndgan.runs.facts import RunFacts, by_site
from asyndgan.runs.folder import RunFolder
from asyndgan.runs.samples import SampleGrid
from asyndgan.texts import append
from asyndgan.training import Coordinator, StepReport


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
    """

    step: int
    steps: int
    seconds_left: float
    report: StepReport
    sent: int
    received: int

    @property
    def news(self) -> tuple[str, ...]:
        """One line for each event that a person should read."""
        return self.report.events


@final
class Recorder:
    """Writes down what happens in one attempt at a run; counts go on where the last one ended.

    Args:
        folder: folder of the run.
        facts: of the run, from earlier attempts if there were any; kept up to date here.
        exchange: the coordinator's, whose byte counts are set to those of earlier attempts.
    """

    def __init__(self, folder: RunFolder, facts: RunFacts, exchange: Exchange) -> None:
        self.folder = folder
        self.facts = facts
        self.exchange = exchange
        self._seconds_before = facts.seconds
        self._since = time.monotonic()
        for counter, counts in (
            (exchange.from_sites, facts.left_sites),
            (exchange.to_sites, facts.came_to_sites),
        ):
            for site, kinds in counts.items():
                counter.update({(site, kind): size for kind, size in kinds.items()})

    def restart_clock(self) -> None:
        """Forgets the time since this attempt began, such as a person took to answer."""
        self._since = time.monotonic()

    def recording(
        self, step: int, grid: SampleGrid | None, *, every: int
    ) -> Callable[[Progress], None]:
        """Begins a file of TensorBoard; what it returns records a step.

        Args:
            step: the next step; what TensorBoard has of it and later ones is forgotten.
            grid: paints the grid of samples, if there are masks to paint from.
            every: number of steps from one grid to the next; the last step has one too.

        Raises:
            StorageError: a file cannot be written.
        """
        board = Board(self.folder.tensorboard, step)

        def record(progress: Progress) -> None:
            line = json.dumps(self._metrics(progress))
            append(self.folder.metrics_file, f"{line}\n".encode())
            shown = [scalar(name, value) for name, value in self._curves(progress).items()]
            if grid and (progress.step == progress.steps or progress.step % every == 0):
                painted = grid.write(progress.step)
                shown += [] if painted is None else [image("samples", painted, dataformats="CHW")]
            board.add(progress.step, shown)

        return record

    def write_facts(self, coordinator: Coordinator) -> None:
        """Replaces `run.json` by what holds now."""
        facts, scope = self.facts, coordinator.scope
        vars(facts).update(scope.to_plain())
        facts.steps = coordinator.step_number
        facts.seconds = round(self._seconds(), 1)
        shares = coordinator.roster.normalised_shares
        told = facts.sites | {
            site: {
                "cases": member.cases,
                "modalities": [scope.modalities[channel] for channel in member.channels],
            }
            for site, member in coordinator.roster.known.items()
        }
        # Sites that left before this attempt keep their facts from earlier attempts.
        facts.sites = {
            site: {**told[site], "share": share}
            for site, share in sorted(shares.items())
            if site in told
        }
        facts.taught = dict(coordinator.roster.taught)
        facts.left_sites = by_site(self.exchange.from_sites)
        facts.came_to_sites = by_site(self.exchange.to_sites)
        self.folder.write_facts(facts)

    def _metrics(self, progress: Progress) -> dict[str, Any]:
        """The step's line in `metrics.jsonl` (`runs.schema.Record`)."""
        report = progress.report
        moved: dict[str, list[int]] = {}
        for way, counts in enumerate((self.exchange.from_sites, self.exchange.to_sites)):
            for (site, _), size in sorted(counts.items()):
                moved.setdefault(site, [0, 0])[way] += size
        record: dict[str, Any] = {
            "step": progress.step,
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
            "bytes": moved,
            "news": list(progress.news),
        }
        if report.reminding is not None:
            record["reminding"] = report.reminding
        return record

    def _curves(self, progress: Progress) -> dict[str, float]:
        """What TensorBoard plots of a step, by name."""
        report = progress.report
        scalars: dict[str, float] = {
            "bytes/to_sites": progress.sent,
            "bytes/from_sites": progress.received,
        }
        for name, counts in (("left", self.exchange.from_sites), ("came", self.exchange.to_sites)):
            for (site, kind), size in counts.items():
                scalars[f"bytes_{name}/{site}/{kind}"] = size
        for site, losses in report.losses.items():
            scalars |= {f"{name}/{site}": value for name, value in losses.items()}
        if report.reminding is not None:
            scalars["reminding"] = report.reminding
        return scalars

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._since
