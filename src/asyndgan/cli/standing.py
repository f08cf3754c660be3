"""How a run of a federation stands, read from what its coordinator writes."""

import time
from shlex import quote
from typing import Any, final

from rich.table import Table

from asyndgan.engines import flare_part
from asyndgan.reports.words import duration, size

PAUSE_S = 30.0
"""Seconds without a step after which `status` reports it."""

TOLD = 4
"""Number of the latest events at sites that `status` repeats."""


@final
class Standing:
    """The current state of a run, read from its metrics as they are written.

    Args:
        order: order of the run.
    """

    def __init__(self, order: Any) -> None:
        self.order = order
        self._place = (0, 0)
        self._last: dict[str, Any] = {"step": 0, "seconds": 0.0, "sent": 0, "received": 0}
        self._seen: dict[str, dict[str, Any]] = {}
        self._told: list[str] = []

    def facts(self) -> dict[str, Any]:
        """Returns the run's current state as JSON-serialisable values."""
        steps = self._read()
        last = self._last
        return {
            "run": self.order.name,
            "state": self.order.state(),
            "step": last["step"],
            "steps": steps,
            "sent": last["sent"],
            "received": last["received"],
            "seconds_since_step": round(self._ago(), 1),
            "failure": self.order.failure(),
            "connected": self._connected(),
            "sites": {
                site: {
                    "step": record["step"],
                    "share": record["shares"][site],
                    "losses": record["losses"].get(site, {}),
                    "round_trip": record.get("round_trip", {}).get(site),
                }
                for site, record in sorted(self._seen.items())
            },
            "waiting": [
                site for site in sorted(self.order.wanted()["sites"]) if site not in self._seen
            ],
        }

    def _read(self) -> int:
        """Reads the metrics written since the last look; returns the run's number of steps."""
        before = self._place[0]
        records, self._place = self.order.folder.metrics_from(self._place)
        if self._place[0] != before:  # the run went back to a checkpoint: all are read again
            self._told.clear()
        for record in records:
            self._seen |= dict.fromkeys(record["shares"], record)
            self._last = record
            self._told += [f"step {record['step']}: {line}" for line in record.get("news", ())]
            del self._told[:-TOLD]
        return int(self.order.folder.recipe().training.steps)

    def table(self) -> Table:
        """Returns the table of the run's current state; `news` has what belongs below it."""
        steps, last = self._read(), self._last
        table = Table(
            "site", "share", "last seen", "round trip", "bytes", "losses",
            title=f"run {self.order.name}: {self.order.state()}, step {last['step']} of {steps}",
            title_justify="left",
        )  # fmt: skip
        for site in sorted({*self.order.wanted()["sites"], *self._seen}):
            table.add_row(site, *self._of_site(site))
        return table

    def news(self) -> str:
        """Bytes, connected sites, and the latest events, with commands that are to be copied."""
        moved = f"to sites {size(self._last['sent'])}, from sites {size(self._last['received'])}"
        return f"{moved}\n{self._connected()}{self._pause()}"

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
        moved = record.get("bytes", {}).get(site)
        losses = (f"{name} {value:.3f}" for name, value in record["losses"].get(site, {}).items())
        return (
            f"{record['shares'][site]:.2f}" if record is last else "away",
            "now"
            if record is last and ago <= PAUSE_S
            else f"{duration(ago)} ago, step {record['step']}",
            f"{1000 * trip:.0f} ms" if trip is not None else "",
            f"{size(moved[0])} out, {size(moved[1])} in" if moved else "",
            " ".join(losses),
        )
