"""How a run of a federation stands, read from what its coordinator writes."""

import time
from collections import deque
from shlex import quote
from typing import Any, final

from rich.table import Table

from asyndgan.engines.federation import federation_in, flare_part
from asyndgan.reports.words import duration, size

PAUSE_S = 30.0
"""Seconds without a step after which `status` reports it."""

RECENT = 100
"""Number of the latest steps by whose pace the time left is estimated."""

TOLD = 4
"""Number of the latest events at sites that `status` repeats."""


COLUMNS = ("site", "share", "last seen", "round trip", "bytes", "losses")


@final
class Standing:
    """The state of a run, read once from its metrics."""

    def __init__(self, order: Any) -> None:
        self.order = order
        self._last: dict[str, Any] = {"step": 0, "seconds": 0.0, "sent": 0, "received": 0}
        self._seen: dict[str, dict[str, Any]] = {}
        self._told: list[str] = []
        self._pace: deque[tuple[int, float]] = deque(maxlen=RECENT)  # steps, and seconds at each
        for record in order.folder.metrics():
            self._seen |= dict.fromkeys(record["shares"], record)
            self._last = record
            self._pace.append((record["step"], record["seconds"]))
            self._told += [f"step {record['step']}: {line}" for line in record.get("news", ())]
            del self._told[:-TOLD]
        self._steps = int(order.folder.recipe().training.steps)

    def facts(self) -> dict[str, Any]:
        """Returns the run's current state as JSON-serialisable values."""
        last = self._last
        return {
            "run": self.order.name,
            "state": self.order.state(),
            "step": last["step"],
            "steps": self._steps,
            "sent": last["sent"],
            "received": last["received"],
            "seconds_since_step": round(self._ago(), 1),
            "failure": self.order.said("failed"),
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

    def table(self) -> Table:
        """Returns the table of the run's current state; `news` has what belongs below it."""
        done = f"step {self._last['step']} of {self._steps}"
        title = f"run {self.order.name}: {self.order.state()}, {done}"
        table = Table(*COLUMNS, title=title, title_justify="left")
        for row in self.rows():
            table.add_row(*row)
        return table

    def rows(self) -> list[tuple[str, ...]]:
        """What is known of each site, by `COLUMNS`."""
        sites = sorted({*self.order.wanted()["sites"], *self._seen})
        return [(site, *self._of_site(site), "", "", "", "")[: len(COLUMNS)] for site in sites]

    def seconds_left(self) -> float | None:
        """Estimated seconds until the last step; None: not known, or the run is not at work."""
        if len(self._pace) < 2 or self.order.state() != "running":
            return None
        (first, begun), (last, ended) = self._pace[0], self._pace[-1]
        return (self._steps - last) * (ended - begun) / (last - first) if last > first else None

    def news(self) -> str:
        """Bytes, connected sites, and the latest events, with commands that are to be copied."""
        moved = f"to sites {size(self._last['sent'])}, from sites {size(self._last['received'])}"
        return f"{moved}\n{self._connected()}{self.latest()}"

    def _connected(self) -> str:
        made = federation_in(self.order.federation.path)  # some may join
        return str(flare_part("transport").connected(made))

    def latest(self) -> str:
        """Latest events and why the run ended, which sites it waits for, or how long it pauses."""
        order = self.order
        said = [f"\n{line}" for line in self._told]
        at_work = order.goes_on()
        waiting = order.said("waiting") if at_work else ""
        ahead = order.ahead() if at_work else ""
        if reason := order.said("failed") or (order.said("trouble") if at_work else ""):
            said.append(f"\n{reason} More is in {order.log_file}.")
        if waiting:
            said.append(f"\nwaiting for {waiting}")
        if ahead:
            said.append(
                f"\nbehind run {ahead}, since runs are trained one after the other; "
                f"'asyndgan federation stop {quote(str(order.federation.path))} --run {ahead}' "
                "lets this one go first"
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
