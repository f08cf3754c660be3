"""What a run writes down while it trains: metrics, and the facts in `run.json`."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from asyndgan.protocol import Exchange
from asyndgan.runs.facts import RunFacts, by_site
from asyndgan.runs.folder import RunFolder
from asyndgan.texts import append
from asyndgan.training import Coordinator, StepReport
from asyndgan.training.aggregation import Member


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

    @property
    def news(self) -> tuple[str, ...]:
        """One line for each event that a person should read."""
        return self.report.events


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

    def record(self, progress: Progress) -> None:
        """Adds a step to `metrics.jsonl`; raises `StorageError`."""
        append(self.folder.metrics_file, f"{json.dumps(self._metrics(progress))}\n".encode())

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
        return {
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

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._since
