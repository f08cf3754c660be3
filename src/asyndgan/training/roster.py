"""The sites that take part in a run: they are admitted, refused, leave and return."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

from torch import Tensor

from asyndgan.errors import (
    AsyndganError,
    CohortError,
    SiteUnreachableError,
    StorageError,
    WireError,
)
from asyndgan.protocol import Exchange
from asyndgan.recipe import Recipe
from asyndgan.training.aggregation import Member
from asyndgan.training.given import Given
from asyndgan.training.opening import card_of
from asyndgan.training.quorum import Quorum, normalised
from asyndgan.training.scope import SHARED_LOOK, Scope, merge_labels
from asyndgan.wire import Card, Close, Open, Save, Saved

MOVED_MASKS = 500  # Randomly moved masks to keep of a site if the number of unmoved ones is unknown
RARELY_S = 60.0  # Longest wait, in seconds, before a site that was turned away is invited again

Keep = Callable[[str, Tensor, int | None], None]


@final
@dataclass(frozen=True)
class _TurnedAway:
    """A site that could not be taken in; it is invited again, at growing intervals."""

    reason: str = ""  # why it was turned away
    times: int = 0  # how often in a row
    until: float = 0.0  # time of the next invitation, on the monotonic clock

    def again(self, reason: str) -> "_TurnedAway":
        """The record after one more failure."""
        wait = min(0.5 * 2 ** min(self.times, 10), RARELY_S)
        return _TurnedAway(reason, self.times + 1, time.monotonic() + wait)


@final
class Roster:
    """The sites of a run, as its coordinator knows them.

    `keep` is called with (site, conditions, most) for every batch whose masks may be kept; most:
    how many of the site's in all, or None for no limit.

    Attributes:
        members: sites that take part now, sorted by name.
        known: every site that has been a member in this attempt, in its last known state.
        held: channels that each site judges, including sites of earlier attempts.
        expected: share of each site that belonged to the run before this attempt.
        taught: in how many steps the generator learned from each site; one may never judge.
        opening: the request, with the step at which this attempt began.
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
        self.members: dict[str, Member] = {}
        self.known: dict[str, Member] = {}
        self.held: dict[str, list[int]] = {}
        self.expected: dict[str, float] = {}
        self.taught: Counter[str] = Counter()
        self._followed = -1
        self._coming: dict[str, Future[Card]] = {}
        self.turned_away: dict[str, _TurnedAway] = {}
        self._openers = ThreadPoolExecutor(thread_name_prefix="opener")

    @property
    def run(self) -> str:
        """The run's identity."""
        return self.opening.run

    @property
    def shares(self) -> dict[str, float]:
        """Declared share of every site that belongs to the run, including those that left."""
        return self.expected | {site: member.share for site, member in self.known.items()}

    @property
    def most(self) -> float:
        """Largest share of one site."""
        return self.recipe.shares.most_of(len(self.shares))

    @property
    def normalised_shares(self) -> dict[str, float]:
        """Normalised shares of all sites in `shares`; they sum to one."""
        return normalised(self.shares, self.most)

    def shares_of(
        self, members: Mapping[str, Member], only: Collection[str] | None = None
    ) -> dict[str, float]:
        """Normalised shares of these members, or of those among `only`; they sum to one."""
        declared = {s: member.share for s, member in members.items() if only is None or s in only}
        return normalised(declared, self.most)

    def look_of(self, site: str) -> str:
        """The look that a site's images are painted in: its own, if it holds every modality."""
        channels = self.held.get(site, self.scope.modalities)
        return site if len(channels) == len(self.scope.modalities) else SHARED_LOOK

    def quorum(self, step: int) -> Quorum:
        """The quorum of a step, among the sites that are due then and have not left for good."""
        belongs = self.exchange.transport.belongs
        due = self._due(self.shares, step)
        return Quorum(self.recipe.quorum, [site for site in due if belongs(site)])

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
        for site, card in cards.items():
            try:
                self.welcome(site, card)
            except StorageError:
                raise
            except AsyndganError as error:
                if needed is None or site in needed:
                    raise
                news.append(f"{site} is not there: {error}")
                continue
            news += self.kept_back(site)
            if needed is not None and site not in needed:  # of those nobody is asked
                news += self.outweighs(site, before)
            if card.step < step and site in self.expected:
                news.append(
                    f"{site} resumes from its step {card.step}, not from {step}: its checkpoint of "
                    "that step is gone"
                )
        return news

    def welcome(self, site: str, card: Card) -> None:
        """Takes a site in, for the first time or again.

        Raises:
            CohortError: it has what the run does not paint, or contradicts the other sites.
            WireError: its card is inconsistent, or its conditions do not fit the run.
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
        )
        self.known[site] = member
        self.held[site] = member.channels
        self._coming.pop(site, None)
        self.members = {
            name: self.members.get(name, member) for name in sorted({*self.members, site})
        }
        self.expect(site, card.batch, card.conditions)

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
        return cases if cases > 1 else MOVED_MASKS  # 1: the number is not known

    def drop(self, site: str, error: AsyndganError | None = None) -> None:
        """Removes a member until it returns; one that refused is invited at growing intervals."""
        del self.members[site]
        if error and not isinstance(error, SiteUnreachableError):
            before = self.turned_away.get(site, _TurnedAway())
            self.turned_away[site] = before.again(str(error))

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
            if site in self.members or time.monotonic() < turned_away.until:
                continue
            if site not in self._coming:
                self._coming[site] = self._openers.submit(self.open, site, step)
            elif self._coming[site].done():
                future = self._coming.pop(site)
                try:
                    self.welcome(site, future.result())
                    news[site] = ""
                except StorageError:
                    raise
                except AsyndganError as error:
                    self.turned_away[site] = turned_away.again(str(error))
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
                self.welcome(site, self.open(site, step))
            except StorageError:
                raise
            except AsyndganError as error:  # from now on it is invited like any absent site
                news.append(f"{site} does not come, as the timeline says: {error}")
            else:
                comes = f"{site} comes, as the timeline says"
                news += [comes, *self.kept_back(site), *self.outweighs(site, before)]
        return news + [
            f"{site} is due, as the timeline says, and is not connected"
            for site in self.awaited(step)
            if not self.recipe.takes_part(site, step - 1)
        ]

    def awaited(self, step: int) -> list[str]:
        """Sites that are due by the timeline and cannot be reached."""
        named = {part.site for part in self.recipe.timeline}
        return sorted(set(self._due(named, step)) - set(self.exchange.transport.sites()))

    def kept_back(self, site: str) -> list[str]:
        """What a person should know if a site lets none of its masks be kept."""
        line = (
            f"{site} lets no masks be kept: none of its masks is painted from after the run, and "
            "nothing reminds the generator of it once it has left"
        )
        return [line] if self.keep and not self.known[site].keep else []

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
