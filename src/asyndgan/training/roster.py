"""The sites that take part in a run: they are admitted, refused, leave and return."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from asyndgan.errors import (
    AsyndganError,
    CohortError,
    PolicyRefusedError,
    QuorumError,
    RunError,
    SiteSilentError,
    SiteUnreachableError,
    StorageError,
    UndecidedError,
    WireError,
)
from asyndgan.protocol import Exchange
from asyndgan.recipe import Recipe
from asyndgan.training.aggregation import Member
from asyndgan.training.checkpoint import channels_in, shares_in
from asyndgan.training.given import Given
from asyndgan.training.quorum import Quorum, normalised
from asyndgan.training.scope import SHARED_LOOK, Scope, merge_labels
from asyndgan.wire.messages import CASES_WITHHELD, Card, Close, Message, Open, Save, Saved

MOVED_MASKS = 500  # Randomly moved masks to keep of a site if the number of unmoved ones is unknown
RARELY_S = 60.0  # Longest wait, in seconds, before a site that was turned away is invited again

Keep = Callable[[str, Tensor, int | None], None]
Pending = Callable[[str], None]
"""Called with why a run waits for stewards, until all have answered; returns to have them asked
again, or raises."""


@final
@dataclass(frozen=True)
class _TurnedAway:
    """A site that could not be taken in; it is invited again, at growing intervals."""

    reason: str = ""  # why it was turned away
    barred: bool = False  # whether its policy refuses the run
    times: int = 0  # how often in a row
    until: float = 0.0  # time of the next invitation, on the monotonic clock

    def again(self, error: AsyndganError) -> "_TurnedAway":
        """The record after one more failure."""
        until = time.monotonic() + min(0.5 * 2 ** min(self.times, 10), RARELY_S)
        barred = isinstance(error, PolicyRefusedError)
        return _TurnedAway(str(error), barred, self.times + 1, until)


@final
class Roster:
    """The sites of a run, as its coordinator knows them.

    `keep` is called with (site, conditions, most) for every batch whose masks may be kept; most:
    how many of the site's in all, or None for no limit. `opening` has the first step's number.
    """

    def __init__(
        self,
        recipe: Recipe,
        exchange: Exchange,
        opening: Open,
        scope: Scope,
        keep: Keep | None = None,
        given: Given | None = None,
    ) -> None:
        self.recipe = recipe
        self.exchange = exchange
        self.opening = opening
        self.scope = scope
        self.keep = keep if recipe.keeps_masks else None
        self.given = given
        self.members: dict[str, Member] = {}  # that take part now, sorted by name
        self.known: dict[str, Member] = {}  # every member of this attempt, as last seen
        self.held: dict[str, list[int]] = {}  # channels, also of sites of earlier attempts
        self.expected: dict[str, float] = {}  # shares of sites of earlier attempts
        self.taught: Counter[str] = Counter()  # steps in which each site was learned from
        self._followed = -1
        self._coming: dict[str, Future[Card]] = {}
        self.turned_away: dict[str, _TurnedAway] = {}
        self.spared: dict[str, Member] = {}  # that teach no masks: they have too few patients
        self._openers = ThreadPoolExecutor(thread_name_prefix="opener")

    @property
    def run(self) -> str:
        """The run's identity."""
        return self.opening.run

    def state(self) -> dict[str, Any]:
        """Facts for the coordinator's checkpoint."""
        return {"sites": self.shares, "held": self.held, "taught": self.taught}

    def load(self, about: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        self.expected = shares_in(about["sites"])
        self.held = channels_in(about["held"], len(self.scope.modalities))
        self.taught = Counter({site: int(steps) for site, steps in about["taught"].items()})

    @property
    def shares(self) -> dict[str, float]:
        """Declared share of every site that belongs to the run, including those that left."""
        return self.expected | {site: member.share for site, member in self.known.items()}

    @property
    def normalised_shares(self) -> dict[str, float]:
        """Normalised shares of all sites in `shares`; they sum to one."""
        return self.shares_of(self.shares)

    def shares_of(self, sites: Collection[str]) -> dict[str, float]:
        """Normalised shares of these sites; they sum to one."""
        declared = {site: self.shares[site] for site in sorted(sites)}
        return normalised(declared, self.recipe.shares.most_of(len(self.shares)))

    def look_of(self, site: str) -> str:
        """The look that a site's images are painted in: its own, if it holds every modality."""
        channels = self.held.get(site, self.scope.modalities)
        return site if len(channels) == len(self.scope.modalities) else SHARED_LOOK

    def quorum(self, step: int) -> Quorum:
        """The quorum of a step, among the sites that are due then and have not left for good."""
        belongs = self.exchange.transport.belongs
        due = self._due(self.shares, step)
        return Quorum(self.recipe.quorum, [site for site in due if belongs(site)])

    def barred(self, step: int) -> str:
        """What policies said that leave no quorum of a step; empty if there can be one."""
        quorum, away = self.quorum(step), self.turned_away
        absent = sorted(set(quorum.known).intersection(away).difference(self.members))
        no = [site for site in absent if away[site].barred]
        possible = quorum.met_by(set(quorum.known).difference(no))
        return "" if possible else "".join(f" {away[site].reason}" for site in no)

    def leaving(self, step: int) -> list[str]:
        """Members that, by the timeline, do not take part in a step."""
        return sorted(set(self.members) - set(self._due(self.members, step)))

    def _due(self, sites: Iterable[str], step: int) -> list[str]:
        return [site for site in sites if self.recipe.takes_part(site, step)]

    def welcome_all(
        self, cards: Mapping[str, Card], needed: Collection[str] | None = None
    ) -> list[str]:
        """Takes in the sites that opened the run; returns what a person should read.

        Raises as `welcome` for a site that is `needed` for the run to begin (None: all are).
        """
        news: list[str] = []
        step, before = self.opening.step, self.shares
        for site, card in sorted(cards.items(), key=lambda item: item[1].few):
            try:
                spared = self.welcome(site, card)
            except StorageError:
                raise
            except AsyndganError as error:
                if needed is None or site in needed:
                    raise
                spared = str(error)
            if spared:
                news.append(f"{site} is not there: {spared}")
                continue
            if needed is not None and site not in needed:  # of those nobody is asked
                news += self.outweighs(site, before)
            if card.step < step and site in self.expected:
                news.append(
                    f"{site} resumes from its step {card.step}, not from {step}: its checkpoint of "
                    "that step is gone"
                )
        return news

    def welcome(self, site: str, card: Card) -> str:
        """Takes a site in, for the first time or again.

        Returns an empty text, or why it is spared: sites with more patients have its labels. Raises
        `CohortError` if it has what the run does not paint, `WireError` if its card does not fit.
        """
        self.check_conditions(site, card.conditions)
        labels = {int(number): name for number, name in card.labels.items()}
        if self.given:
            self.given.of_labels(site, labels)
        merge_labels(self.scope.labels, {site: card}, known_only=True)
        if len(set(card.modalities)) != len(card.modalities):
            raise CohortError(f"site {site} names a modality twice: {', '.join(card.modalities)}.")
        if len(card.parts) != len(card.modalities):
            raise WireError(f"site {site} does not say which part of its cases has what.")
        unknown = [name for name in card.modalities if name not in self.scope.modalities]
        if unknown or tuple(card.space) != self.scope.space:
            raise CohortError(
                f"site {site} has {', '.join(card.modalities)} at {card.space}; this run paints "
                f"{', '.join(self.scope.modalities)} at {list(self.scope.space)}. "
                "What a run paints is fixed when it begins: start a new one with this site, or "
                "with its modalities in image.modalities and the site in the timeline."
            )
        member = Member(
            share=card.share,
            cases=card.cases,
            channels=[self.scope.modalities.index(name) for name in card.modalities],
            parts=card.parts,
            batch=card.batch,
            conditions=card.conditions,
            labels=labels,
            keep=card.keep,
            since=card.step,
            few=card.few,
        )
        new = site not in self.taught and site not in self.expected
        others = (own.channels for own in self.members.values() if not own.few)
        if card.few and new and set().union(*others).issuperset(member.channels):
            self.spared[site] = member
            self.exchange.ask({site: Close(run=self.run)})
            return "it has too few patients to teach masks, and is sent those that others teach"
        self.known[site] = member
        self.held[site] = member.channels
        self._coming.pop(site, None)
        self.members = {
            name: self.members.get(name, member) for name in sorted({*self.members, site})
        }
        self.expect(site, card.batch, card.conditions)
        return ""

    def check_conditions(self, site: str, conditions: Tensor) -> None:
        """Checks that a site's conditions fit the run; raises `WireError` if they do not."""
        space = self.scope.space if self.recipe.sends_own_masks else ()
        wanted = (self.recipe.training.batch, *space)
        if tuple(conditions.shape) != wanted:
            raise WireError(
                f"site {site}: conditions of shape {tuple(conditions.shape)}, wanted {wanted}."
            )
        if int(conditions.max()) > max(self.scope.labels):
            raise WireError(f"site {site}: a label above {max(self.scope.labels)}.")

    def expect(self, site: str, batch: int, conditions: Tensor) -> None:
        """Records the batch that a member wants painted next, and keeps its masks if need be."""
        self.members[site].batch = batch
        self.members[site].conditions = conditions
        if self.keep and self.members[site].keep:
            self.keep(site, conditions, self._most_masks(site))

    def _most_masks(self, site: str) -> int | None:
        """Most masks to keep of a site, None: all. Moved ones never repeat: as many as unmoved."""
        if not self.recipe.training.move:
            return None
        cases = self.known[site].cases
        return MOVED_MASKS if cases == CASES_WITHHELD else cases

    def drop(self, site: str, error: AsyndganError | None = None) -> None:
        """Removes a member until it returns; one that refused is invited at growing intervals."""
        del self.members[site]
        if error and not isinstance(error, SiteUnreachableError):
            before = self.turned_away.get(site, _TurnedAway())
            self.turned_away[site] = before.again(error)

    def heard(self, site: str, batch: int, conditions: Tensor) -> None:
        """Records a member's valid answer: the batch that it wants painted next."""
        self.turned_away.pop(site, None)
        self.expect(site, batch, conditions)

    def invite(self, step: int) -> dict[str, str]:
        """Opens the run, in the background, at sites that are reachable but not members.

        Returns sites just taken in (reason: empty), or just turned away for a new reason.
        """
        news: dict[str, str] = {}
        for site in self._due(self.exchange.transport.sites(), step):
            turned_away = self.turned_away.get(site, _TurnedAway())
            if site in {*self.members, *self.spared} or time.monotonic() < turned_away.until:
                continue
            if site not in self._coming:
                self._coming[site] = self._openers.submit(self.open, site, step)
            elif self._coming[site].done():
                future = self._coming.pop(site)
                try:
                    news[site] = self.welcome(site, future.result())
                except StorageError:
                    raise
                except AsyndganError as error:
                    self.turned_away[site] = turned_away.again(error)
                    if str(error) != turned_away.reason:
                        news[site] = str(error)
        return news

    def follow_timeline(self, step: int) -> list[str]:
        """Makes sites leave and join at exactly the step that the recipe's timeline gives."""
        if not self.recipe.timeline or self._followed == step:
            return []
        self._followed = step
        news, before = list[str](), self.shares
        for site in self.leaving(step):
            self.drop(site)
            news.append(f"{site} leaves, as the timeline says")
        for site in self._due(self.exchange.transport.sites(), step):
            if self.recipe.takes_part(site, step - 1) or site in self.members:
                continue
            try:
                spared = self.welcome(site, self.open(site, step))
            except StorageError:
                raise
            except AsyndganError as error:  # from now on it is invited like any absent site
                spared = str(error)
            if spared:
                news.append(f"{site} does not come, as the timeline says: {spared}")
            else:
                comes = f"{site} comes, as the timeline says"
                news += [comes, *self.outweighs(site, before)]
        return news + [
            f"{site} is due, as the timeline says, and is not connected"
            for site in self.awaited(step)
            if not self.recipe.takes_part(site, step - 1)
        ]

    def awaited(self, step: int) -> list[str]:
        """Sites that are due by the timeline and cannot be reached."""
        named = {part.site for part in self.recipe.timeline}
        return sorted(set(self._due(named, step)) - set(self.exchange.transport.sites()))

    def outweighs(self, site: str, before: Mapping[str, float]) -> list[str]:
        """News if a site's share is new since `before`, and outweighs all others together."""
        part, declared = self.normalised_shares[site], self.shares[site]
        if declared == before.get(site) or len(self.shares) < 2 or part <= 0.5:
            return []
        return [f"{site} declares a share of {declared:g}, and counts for {part:.0%} from now on"]

    def open(self, site: str, step: int) -> Card:
        """Opens the run at a site that joins or returns; raises `AsyndganError`: no card."""
        request = self.opening.model_copy(update={"step": step})
        answers = self.exchange.ask({site: request})
        return card_of(site, answers.answers, answers.missed)

    def save(self, step: int) -> dict[str, str]:
        """Asks every member to keep its state of this step; returns why some did not, by site."""
        save = Save(run=self.run, step=step)
        answers = self.exchange.ask(dict.fromkeys(self.members, save))
        others = {
            site: f"it answered '{answer.kind}'"
            for site, answer in answers.answers.items()
            if not isinstance(answer, Saved)
        }
        return {site: str(error) for site, error in answers.missed.items()} | others

    def close(self) -> None:
        """Tells the members that the run is over."""
        self.exchange.ask(dict.fromkeys(self.members, Close(run=self.run)))
        self._openers.shutdown(wait=False, cancel_futures=True)


def open_all(
    recipe: Recipe,
    exchange: Exchange,
    request: Open,
    needed: Collection[str] | None,
    pending: Pending | None = None,
) -> tuple[dict[str, Card], dict[str, str]]:
    """Opens a run at every reachable site that takes part; the cards are sorted by site name.

    A needed site that is silent may still be loading its cases, so it is asked again until
    `quorum.patience_s` has passed; then, or without any site, `QuorumError`. If the policy of one,
    or of all sites, refuses, `RunError`: it is useless to ask again. Where a needed site's steward
    has yet to answer, the run waits by `pending`; without it, `QuorumError`.

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
        no = {s: e for s, e in answers.missed.items() if isinstance(e, PolicyRefusedError)}
        if no.keys() & needed or len(no) == len(sites) > 0:
            who = "every site" if len(no) == len(sites) else ", ".join(no)
            reasons = " ".join(map(str, no.values()))
            raise RunError(
                f"{who} refuses the run. {reasons} Submit one that they allow, or name other sites."
            )
        for site in waiting:
            try:
                cards[site] = card_of(site, answers.answers, answers.missed)
            except AsyndganError as error:
                failed[site] = error
        missed |= {site: str(failed.pop(site)) for site in set(failed) - set(needed)}
        waiting = list(failed)
        undecided = [e for e in failed.values() if pending and isinstance(e, UndecidedError)]
        lost = [e for e in failed.values() if not isinstance(e, SiteSilentError)]
        lost = [e for e in lost if e not in undecided]
        if lost or (waiting and not undecided and time.monotonic() > deadline):
            reasons = " ".join(str(error) for error in lost or failed.values())
            raise QuorumError(f"the run cannot begin: {reasons}")
        if undecided and pending:
            pending(" ".join(map(str, undecided)))
            deadline = time.monotonic() + recipe.quorum.patience_s
    if not sites:
        raise QuorumError("the run cannot begin: no site is there.")
    return {site: cards[site] for site in sites if site in cards}, missed


def card_of(site: str, answers: Mapping[str, Message], missed: Mapping[str, AsyndganError]) -> Card:
    """The card that a site sent; if there is none, raises the reason."""
    answer = answers.get(site)
    if isinstance(answer, Card):
        return answer
    raise missed.get(site) or SiteUnreachableError(f"site {site} did not send its card.")
