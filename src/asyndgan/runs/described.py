"""Asks the sites of a federation for their fingerprints, from which a recipe is planned."""

import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from shlex import quote
from typing import Final

from asyndgan.engines.federation import Federation, transport_to
from asyndgan.errors import BusyError, RunError
from asyndgan.protocol import Exchange, Transport, away
from asyndgan.recipe import Recipe
from asyndgan.recipe.fingerprint import Fingerprint
from asyndgan.recipe.planning import BASE
from asyndgan.runs.order import Order, no_site, sites_alone
from asyndgan.runs.recipes import recipe_text
from asyndgan.tables.summary import Summary
from asyndgan.wire.messages import Describe, Described

RUN: Final = "plan"
"""Name under which sites keep the log of it."""

LOOK_S: Final = 0.2
PATIENCE_S: Final = 240.0
"""Seconds that a site may take to connect."""


def described(
    federation: Federation, sites: Collection[str] = ()
) -> dict[str, Fingerprint | Summary]:
    """Fingerprints of sites (empty: of all), as far as each site's policy lets them out.

    Raises:
        BusyError: a run is ordered or at work.
        RunError: a site has no kit, does not come, or sends no fingerprint.
    """
    wanted = sorted(sites or federation.sites)
    with connected(federation, wanted, RUN) as transport:
        run = secrets.token_hex(16)
        with closing(Exchange(transport, Recipe.from_toml(recipe_text(BASE)))) as exchange:
            answers = exchange.ask({site: Describe(run=run) for site in wanted})
    if answers.missed:
        told = "; ".join(str(error) for error in answers.missed.values())
        raise RunError(
            f"no plan without these fingerprints: {told} A site sends the one that its site.toml "
            "names as 'fingerprint', if leaves.fingerprint of its policy is true."
        )
    found = answers.answers.items()
    return {site: one.fingerprint for site, one in found if isinstance(one, Described)}


@contextmanager
def connected(federation: Federation, wanted: Sequence[str], run: str) -> Iterator[Transport]:
    """Connects to sites while no run is at work; waits for them `PATIENCE_S` at most.

    They are asked questions without a recipe, and keep the log of them under the name `run`. Raises
    as `described`.
    """
    if not wanted:
        raise RunError(no_site(federation))
    if unknown := {*wanted} - {*federation.sites}:
        raise RunError(f"there is no kit for {', '.join(sorted(unknown))}.")
    for order in Order.all(federation):
        if (state := order.state()) in ("ordered", "running"):
            stop = f"asyndgan federation stop {quote(str(federation.path))} --run {order.name}"
            raise BusyError(f"run {order.name} is {state}; wait for its end, or '{stop}'.")
    end = time.monotonic() + PATIENCE_S
    with ExitStack() as ends:
        while True:
            try:
                ends.enter_context(sites_alone(federation))
                break
            except BusyError:  # as of a run that has just ended
                if time.monotonic() > end:
                    raise
                time.sleep(LOOK_S)
        transport = ends.enter_context(closing(transport_to(federation, None, run, wanted)))
        if missing := away(transport, wanted, end - time.monotonic()):
            raise RunError(
                f"{', '.join(missing)} cannot be reached. 'asyndgan federation status "
                f"{quote(str(federation.path))}' says who is connected; name with --site those "
                "that are."
            )
        yield transport
