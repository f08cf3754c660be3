"""The page of a federation's coordinator: how its runs stand. It decides nothing."""

from shlex import quote
from threading import Lock
from typing import Any, Final, final

from asyndgan.engines import flare_part
from asyndgan.engines.federation import Federation
from asyndgan.errors import AsyndganError
from asyndgan.received import contents
from asyndgan.reports.charts import loss_charts
from asyndgan.reports.local import LocalServer
from asyndgan.reports.page import data_uri, rendered
from asyndgan.reports.standing import COLUMNS, Standing
from asyndgan.reports.words import duration
from asyndgan.runs.order import Order

NEWEST: Final = 5  # runs that the page shows
MOST_PICTURE: Final = 2**24  # bytes of a picture


@final
class CoordinatorPage(LocalServer):
    """Serves the page of a federation."""

    def __init__(self, federation: Federation, port: int = 0) -> None:
        self.federation = federation
        self._standings: dict[str, Standing] = {}
        self._turn = Lock()
        super().__init__(port)

    def page(self) -> str:
        """The page."""
        with self._turn:  # a `Standing` reads on from where it was
            orders = Order.all(self.federation)[::-1]
            return rendered(
                "coordinator.html.jinja",
                {
                    "name": self.federation.path.resolve().name,
                    "connected": flare_part("attendance").connected(self.federation),
                    "columns": COLUMNS,
                    "runs": [self._run(order) for order in orders[:NEWEST]],
                    "older": [order.name for order in orders[NEWEST:]],
                },
            )

    def _run(self, order: Order) -> dict[str, Any]:
        """What the page tells of a run."""
        standing = self._standings.setdefault(order.name, Standing(order))
        try:
            facts, left = standing.facts(), standing.seconds_left()
            records = order.folder.metrics() if order.folder.metrics_file.exists() else []
        except AsyndganError as error:
            return {"name": order.name, "state": "unreadable", "fault": str(error)}
        sites = {site: number for number, site in enumerate(facts["sites"])}
        folder = quote(str(self.federation.path))
        return {
            **facts,
            "name": order.name,
            "fault": "",
            "left": None if left is None else duration(left),
            "rows": standing.rows(),
            "news": [line for line in standing.latest().splitlines() if line],
            "proposal": order.said("proposal"),
            "confirm": f"asyndgan federation confirm {folder} --run {order.name}",
            "charts": loss_charts(records, sites) if records else [],
            "numbers": sites,
            "picture": _newest_picture(order),
        }


def _newest_picture(order: Order) -> str:
    """The newest sample grid as a data URI; empty if there is none."""
    try:
        order.folder.check_links()
        found = sorted(order.folder.samples.glob("*.png"))
        return data_uri(contents(found[-1], MOST_PICTURE), "image/png") if found else ""
    except (AsyndganError, OSError, ValueError):
        return ""
