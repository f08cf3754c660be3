"""What a run writes down while it trains: metrics, TensorBoard, and the facts in `run.json`."""

import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import image, scalar

from asyndgan.protocol import Exchange
from asyndgan.runs.facts import RunFacts, by_site
from asyndgan.runs.folder import RunFolder
from asyndgan.runs.samples import SampleGrid
from asyndgan.texts import append, storing
from asyndgan.training import Coordinator
from asyndgan.training.aggregation import Member
from asyndgan.training.coordinator import StepReport


@final
@dataclass(frozen=True)
class Progress:
    """Progress after a step, for display; bytes are those to and from all sites so far."""

    step: int
    steps: int
    seconds_left: float
    report: StepReport
    sent: int
    received: int


@final
class Board:
    """TensorBoard's file of one attempt; what it has of `step` and later ones is forgotten.

    TensorBoard's own writer fails in a thread that nobody watches.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.file = folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        forgets = SessionLog(status=SessionLog.START)
        self._write([{"file_version": "brain.Event:2"}, {"step": step, "session_log": forgets}])

    def add(self, step: int, shown: Sequence[Summary]) -> None:
        """Adds curves' values and images of a step, or raises `StorageError`."""
        self._write([{"step": step, "summary": each} for each in shown])

    def _write(self, events: Sequence[dict[str, Any]]) -> None:
        now, records = time.time(), io.BytesIO()
        for event in events:
            RecordWriter(records).write(Event(wall_time=now, **event).SerializeToString())
        append(self.file, records.getvalue())


@final
class Recorder:
    """Writes down what happens in one attempt at a run; counts go on where the last one ended."""

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
        """Begins a file of TensorBoard; what it returns records a step, or raises `StorageError`.

        What TensorBoard has of `step`, the next one, and later ones is forgotten. Every so many
        steps, and at the last one, a grid of samples is painted; None: no masks to paint from.
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

        def told_by(members: Mapping[str, Member]) -> dict[str, dict[str, Any]]:
            return {
                site: {
                    "cases": member.cases,
                    "modalities": [scope.modalities[channel] for channel in member.channels],
                }
                for site, member in members.items()
            }

        told = facts.sites | told_by(coordinator.roster.known)
        # Sites that left before this attempt keep their facts from earlier attempts.
        facts.sites = {
            site: {**told[site], "share": share}
            for site, share in sorted(shares.items())
            if site in told
        }
        facts.taught = dict(coordinator.roster.taught)
        facts.spared |= told_by(coordinator.roster.spared)
        facts.left_sites = by_site(self.exchange.from_sites)
        facts.came_to_sites = by_site(self.exchange.to_sites)
        self.folder.write_facts(facts)

    def _metrics(self, progress: Progress) -> dict[str, Any]:
        """The step's line in `metrics.jsonl` (`runs.facts.Record`)."""
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
            "news": list(report.events),
        }
        return record

    def _curves(self, progress: Progress) -> dict[str, float]:
        """What TensorBoard plots of a step, by name."""
        report = progress.report
        scalars: dict[str, float] = {
            "bytes/to_sites": progress.sent,
            "bytes/from_sites": progress.received,
        }
        for site, losses in report.losses.items():
            scalars |= {f"{name}/{site}": value for name, value in losses.items()}
        return scalars

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._since
