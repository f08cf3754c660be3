"""The page of a federation's coordinator: how its runs stand, and what its administrator does."""

import secrets
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, final

from asyndgan import children
from asyndgan.engines import flare_part
from asyndgan.engines.federation import Federation, federation_in
from asyndgan.errors import AsyndganError, RunError
from asyndgan.locks import begun_alone, in_use
from asyndgan.received import contents
from asyndgan.reports.charts import loss_charts
from asyndgan.reports.local import NOTHING, FormServer
from asyndgan.reports.page import data_uri, rendered
from asyndgan.reports.standing import COLUMNS, Standing
from asyndgan.reports.words import duration
from asyndgan.runs import load_recipe, recipe_names
from asyndgan.runs.order import Order
from asyndgan.texts import sha256_of

NEWEST: Final = 5  # runs that the page shows
MOST_PICTURE: Final = 2**24  # bytes of a picture
MOST_SAID: Final = 2**12  # bytes of what a command said, its end
RELEASED: Final = "released"  # folder of a federation: sets, and what the commands of them said
PUBLISHER: Final = ("licence", "creator", "contact")


@final
class CoordinatorPage(FormServer):
    """Serves the page of a federation; who has the address for readers sees it without forms."""

    most = 2**14

    def __init__(self, federation: Federation, port: int = 0) -> None:
        self.federation = federation
        self.readers = secrets.token_urlsafe(16)
        self._working: dict[str, subprocess.Popen[bytes]] = {}
        super().__init__(port)

    def seen(self) -> str:
        """The page without forms."""
        return self.shown(acts=False)

    def shown(
        self,
        told: str = "",
        *,
        refused: str = "",
        typed: Mapping[str, str] = NOTHING,
        acts: bool = True,
    ) -> str:
        """The page."""
        with self._turn:  # one draws charts at a time
            orders = Order.all(self.federation)[::-1]
            return rendered(
                "coordinator.html.jinja",
                {
                    "name": self.federation.path.resolve().name, "acts": acts,
                    "told": told, "refused": refused, "typed": typed, "recipes": recipe_names(),
                    "connected": flare_part("transport").connected(self.federation),
                    "columns": COLUMNS, "publisher": PUBLISHER,
                    "runs": [self._run(order) for order in orders[:NEWEST]],
                    "older": [order.name for order in orders[NEWEST:]],
                },
            )  # fmt: skip

    def _run(self, order: Order) -> dict[str, Any]:
        """What the page tells of a run."""
        try:
            standing = Standing(order)
            facts, left = standing.facts(), standing.seconds_left()
            records = order.folder.metrics() if order.folder.metrics_file.exists() else []
        except AsyndganError as error:
            return {"name": order.name, "state": "unreadable", "fault": str(error)}
        proposal = order.said("proposal")
        proposal = "" if order.is_confirmed(proposal) else proposal
        sites = {site: number for number, site in enumerate(facts["sites"])}
        return {
            **facts,
            "name": order.name,
            "fault": "",
            "left": None if left is None else duration(left),
            "rows": standing.rows(),
            "news": [line for line in standing.latest().splitlines() if line],
            "proposal": proposal,
            "digest": sha256_of(proposal),
            "charts": loss_charts(records, sites) if records else [],
            "numbers": sites,
            "picture": _newest_picture(order),
            "at_work": self._at_work(order.name),
            "releasable": order.folder.recipe().image.source != "masks",
            "said": self._said(order.name),
        }

    def decide(self, said: Mapping[str, str]) -> str:
        """Does what a form says, as the command of the same name does."""
        does: dict[str, Callable[[Mapping[str, str]], str]] = {
            "add": self._add, "submit": self._submit, "confirm": self._confirm, "stop": self._stop,
            "audit": self._begin, "release": self._begin,
        }  # fmt: skip
        return does[said["action"]](said)

    def _add(self, said: Mapping[str, str]) -> str:
        request = flare_part("member").read_request(Path(said["request"]))
        if "".join(said["number"].split()) != "".join(request.safety_number.split()):
            raise RunError(
                f"The safety number of the request of {request.name} is another. Have it read out "
                "once more. If it still differs, have the request sent again."
            )
        made = flare_part("kits").add_site(federation_in(self.federation.path), request)
        return (
            f"Site {request.name} is added. Send it its kit, {made.kit(request.name)}, and read "
            f"out the federation's safety number: {made.safety_number}."
        )

    def _submit(self, said: Mapping[str, str]) -> str:
        keys = [line for line in said.get("keys", "").splitlines() if line.strip()]
        recipe = load_recipe(said["recipe"], keys)
        masks = Path(said["masks"]) if "masks" in said else None
        made = federation_in(self.federation.path)
        order = Order.submit(made, said["run"], recipe, (), masks=masks)
        return f"Run {order.name} is ordered. It begins when its sites and you have agreed."

    def _confirm(self, said: Mapping[str, str]) -> str:
        order = Order.named(self.federation, said["run"])
        text = order.said("proposal")
        if said["digest"] != sha256_of(text):
            raise RunError(f"What run {order.name} would paint changed after it was shown.")
        order.confirm(text)
        return f"Run {order.name} begins."

    def _stop(self, said: Mapping[str, str]) -> str:
        order = Order.named(self.federation, said["run"])
        if not order.goes_on():
            raise RunError(f"Run {order.name} is {order.state()}; there is nothing to stop.")
        return order.stop()

    def _begin(self, said: Mapping[str, str]) -> str:
        """Starts a command that takes minutes; it goes on when the page is closed."""
        action, order = said["action"], Order.named(self.federation, said["run"])
        folder = self.federation.path / RELEASED
        words: list[object] = ["federation", "audit", self.federation.path, "--run", order.name]
        if action == "release":
            options = [f"--{key}={said[key]}" for key in PUBLISHER]
            words = ["release", order.folder.path, f"--out={folder / order.name}", *options]
        folder.mkdir(mode=0o700, exist_ok=True)
        busy = f"A command is at work on run {order.name}. Wait for its end."
        with begun_alone(self._log(order.name), busy) as log:
            self._working[order.name] = children.start(
                "asyndgan.cli", *words, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return f"The {action} of run {order.name} has begun. Look again in a while."

    def _at_work(self, run: str) -> bool:
        own = self._working.get(run)
        return (own is not None and own.poll() is None) or in_use(self._log(run))

    def _log(self, run: str) -> Path:
        """What the latest command about a run said; the command holds its lock."""
        return self.federation.path / RELEASED / f"{run}.log"

    def _said(self, run: str) -> str:
        """The end of what the latest command about a run said."""
        try:
            with self._log(run).open("rb") as log:
                return log.read()[-MOST_SAID:].decode(errors="replace")
        except OSError:
            return ""


def _newest_picture(order: Order) -> str:
    """The newest sample grid as a data URI; empty if there is none."""
    try:
        order.folder.check_links()
        found = sorted(order.folder.samples.glob("*.png"))
        return data_uri(contents(found[-1], MOST_PICTURE), "image/png") if found else ""
    except (AsyndganError, OSError, ValueError):
        return ""
