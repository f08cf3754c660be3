"""Opens a run at its sites, before the first step."""

import time
from collections.abc import Collection, Mapping

from asyndgan.errors import AsyndganError, QuorumError, SiteSilentError, SiteUnreachableError
from asyndgan.protocol import Exchange
from asyndgan.recipe import Recipe
from asyndgan.wire import Card, Message, Open


def open_all(
    recipe: Recipe, exchange: Exchange, request: Open, needed: Collection[str] | None
) -> tuple[dict[str, Card], dict[str, str]]:
    """Opens a run at every reachable site that takes part; the cards are sorted by site name.

    A needed site that is silent may still be loading its cases, so it is asked again until
    `quorum.patience_s` has passed; then, or without any site, `QuorumError`.

    Returns cards by site, and why sites that are not needed sent none.
    """
    there = exchange.transport.sites()
    sites = sorted(site for site in there if recipe.takes_part(site, request.step))
    needed = set(sites) if needed is None else needed
    if away := sorted(set(needed) - set(sites)):
        raise QuorumError(
            f"the run cannot begin: {', '.join(away)} cannot be reached; where a site did not "
            "start, the reason is in its site.log."
        )
    cards, missed = dict[str, Card](), dict[str, str]()
    waiting, deadline = list(sites), time.monotonic() + recipe.quorum.patience_s
    while waiting:
        answers = exchange.ask(dict.fromkeys(waiting, request))
        failed: dict[str, AsyndganError] = {}
        for site in waiting:
            try:
                cards[site] = card_of(site, answers.answers, answers.missed)
            except AsyndganError as error:
                failed[site] = error
        missed |= {site: str(failed.pop(site)) for site in set(failed) - set(needed)}
        waiting = list(failed)
        lost = [e for e in failed.values() if not isinstance(e, SiteSilentError)]
        if lost or (waiting and time.monotonic() > deadline):
            reasons = " ".join(str(error) for error in lost or failed.values())
            raise QuorumError(f"the run cannot begin: {reasons}")
    if not sites:
        raise QuorumError("the run cannot begin: no site is there.")
    return {site: cards[site] for site in sites if site in cards}, missed


def card_of(site: str, answers: Mapping[str, Message], missed: Mapping[str, AsyndganError]) -> Card:
    """The card that a site sent; if there is none, raises the reason."""
    answer = answers.get(site)
    if isinstance(answer, Card):
        return answer
    raise missed.get(site) or SiteUnreachableError(f"site {site} did not send its card.")
