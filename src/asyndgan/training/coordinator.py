"""The coordinator: one generator, and the step that all sites' feedback goes into.

Source: Chang et al. 2020 (AsynDGAN), equations 3 and 4 and algorithm 1. The generator minimises
sum_j pi_j E_{x ~ s_j} E_z [ loss_j(G(x, z)) ], where loss_j lives at site j; what a site sends is
d loss_j / d G(x, z), and the chain rule does the rest here.
"""

import copy
import functools
import operator
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from asyndgan.arrays import CPU
from asyndgan.data import derived_seed
from asyndgan.errors import (
    AsyndganError,
    CohortError,
    NotFiniteError,
    QuorumError,
    SiteSilentError,
    SiteUnreachableError,
    WireError,
)
from asyndgan.models import arithmetic, site_noise
from asyndgan.models.features import Moments
from asyndgan.protocol import Exchange
from asyndgan.recipe import Recipe
from asyndgan.training.checkpoint import (
    load_network,
    load_optimiser,
    network_state,
    optimiser_state,
    seeded,
)
from asyndgan.training.integrity import aggregate, bounded
from asyndgan.training.objective import adam, average_decay, follow, rate_factor, set_rate
from asyndgan.training.odds import feedback_of_mixture
from asyndgan.training.painting import Painting
from asyndgan.training.quorum import Quorum, normalised
from asyndgan.training.reminding import Memory, Recall
from asyndgan.training.scope import Scope, agree, merge_labels, new_generator, scope_maps
from asyndgan.training.selection import Selection, checked_moments
from asyndgan.wire import (
    Appraisal,
    Appraise,
    Card,
    Close,
    Judge,
    Judgement,
    Measure,
    Message,
    Open,
    Save,
)

MOVED_MASKS = 500
"""Moved masks that are kept of a site of which nobody knows how many there are unmoved."""

MOST_LOG_ODDS = 1e4
"""That a site may claim; beyond it nothing is left of a float."""

RARELY_S = 60.0
"""Seconds between two invitations of a site that is turned away again and again."""

Judged = Judgement | Appraisal
Keep = Callable[[str, Tensor, int | None], None]
State = tuple[dict[str, Tensor], dict[str, Any]]


@final
@dataclass
class Member:
    """A site that takes part, as the coordinator knows it.

    Attributes:
        share: its declared weight.
        cases: how many it has.
        channels: which of the generator's channels it judges.
        parts: of its cases, those that have each of these modalities.
        batch: number of the batch whose conditions are here.
        conditions: of its next batch.
    """

    share: float
    cases: int
    channels: list[int]
    parts: list[float]
    batch: int
    conditions: Tensor


@final
@dataclass(frozen=True)
class StepReport:
    """What happened in a step.

    Attributes:
        step: its number, from 0.
        updated: whether the quorum was met and the generator learned.
        shares: of the sites that answered.
        losses: by site and term.
        reminding: how differently the masks of those who are away are painted by now.
        missed: why a site's answer was not there.
        distance: of the averaged generator's images from the real ones, where it was measured.
    """

    step: int
    updated: bool
    shares: dict[str, float]
    losses: dict[str, dict[str, float]]
    missed: dict[str, str] = field(default_factory=dict)
    distance: float | None = None
    reminding: float | None = None


@final
@dataclass(frozen=True)
class _TurnedAway:
    """A site that could not be taken in; it is asked again, ever more rarely.

    Attributes:
        reason: for it.
        times: in a row.
        until: when it is asked again, on the clock that never goes back.
    """

    reason: str = ""
    times: int = 0
    until: float = 0.0

    def again(self, reason: str) -> "_TurnedAway":
        """After another time."""
        wait = min(0.5 * 2 ** min(self.times, 10), RARELY_S)
        return _TurnedAway(reason, self.times + 1, time.monotonic() + wait)


@final
class Coordinator:
    """Owns the generator and asks the sites.

    Args:
        recipe: of the run.
        exchange: reaches the sites.
        run: the run's identity, in hexadecimal.
        scope: what the run is about.
        keep: called with (site, conditions, most) for every batch, if the recipe has masks kept;
            most: how many of the site are wanted in all, or None.
        recall: gives what was kept of a site, for reminding.
        device: where the generator computes.

    Attributes:
        step_number: steps done.
        generator: learns.
        average: exponential moving average of the generator; it paints in the end.
        members: sites that take part now, in a fixed order.
        notes: what a person should read.
        attempt: at this run, in hexadecimal: of this coordinator, not of one before it.
        expected: share of each site that belongs to the run, from before this attempt.
        selection: keeps the generator nearest to the real images, if the recipe asks for it.
        memory: of sites that are away, if the recipe asks for it.
    """

    def __init__(
        self,
        recipe: Recipe,
        exchange: Exchange,
        *,
        run: str,
        scope: Scope,
        keep: Keep | None,
        recall: Recall | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.recipe = recipe
        self.exchange = exchange
        self.run = run
        self.scope = scope
        self.keep = keep if recipe.keeps_masks else None
        self.memory: Memory | None = None
        if recipe.reminding.weight:
            self.memory = Memory(recipe, recall or self._no_conditions)
        self.device = device
        self.step_number = 0
        self.members: dict[str, Member] = {}
        self.known: dict[str, Member] = {}
        self.held: dict[str, list[int]] = {}  # channels, also of sites of earlier attempts
        self.notes: list[str] = []
        self.selection: Selection | None = None
        with seeded(derived_seed(recipe.training.seed, "generator")):
            self.generator = new_generator(recipe, scope).to(device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.optimiser = adam(self.generator, recipe.optimiser, recipe.optimiser.generator_rate)
        self.attempt = ""
        self._followed = -1
        self.expected: dict[str, float] = {}
        self._opening: dict[str, Future[Card]] = {}
        self._turned_away: dict[str, _TurnedAway] = {}
        self._openers = ThreadPoolExecutor(thread_name_prefix="opener")

    @classmethod
    def begin(
        cls,
        recipe: Recipe,
        exchange: Exchange,
        *,
        run: str,
        keep: Keep | None = None,
        recall: Recall | None = None,
        checkpoint: State | None = None,
        needed: Collection[str] | None = None,
        device: torch.device = CPU,
    ) -> Self:
        """Opens a run, new or resumed, with every site that can be reached.

        Args:
            recipe: as for the constructor.
            exchange: as for the constructor.
            run: as for the constructor.
            keep: as for the constructor.
            recall: as for the constructor.
            checkpoint: what `state` gave, for a run that goes on.
            needed: sites without whom it does not begin; None: all that can be reached. What the
                others say, or do not, keeps nobody from beginning.
            device: as for the constructor.

        Raises:
            QuorumError: if a site does not answer.
            CohortError: if the sites contradict each other.
        """
        step = int(checkpoint[1]["step"]) if checkpoint else 0
        request = Open(run=run, recipe=recipe.digest(), step=step, attempt=secrets.token_hex(8))
        cards, missed = open_all(recipe, exchange, request, needed)
        if checkpoint:
            scope = Scope.from_plain(checkpoint[1]["scope"])
        else:
            asked = {s: card for s, card in cards.items() if needed is None or s in needed}
            scope = agree(recipe, asked or cards, {*cards, *missed})
        coordinator = cls(
            recipe, exchange, run=run, scope=scope, keep=keep, recall=recall, device=device
        )
        coordinator.attempt = request.attempt
        coordinator.notes += [f"{site} is not there: {reason}" for site, reason in missed.items()]
        if checkpoint:
            coordinator.load(*checkpoint)
        for site, card in cards.items():
            try:
                coordinator.welcome(site, card)
            except AsyndganError as error:
                if needed is None or site in needed:
                    raise
                coordinator.notes.append(f"{site} is not there: {error}")
                continue
            if card.step < step and site in coordinator.expected:
                coordinator.notes.append(
                    f"{site} resumes from its step {card.step}, not from {step}: "
                    "its checkpoint of that step is gone"
                )
        if recipe.selection.kind == "nearest" and coordinator.selection is None:
            coordinator.selection = Selection(recipe, coordinator.real_moments(needed))
        return coordinator

    def step(self) -> StepReport:
        """Paints for every site, collects their feedback, and updates the generator.

        Raises:
            QuorumError: if no site takes part now.
            NotFiniteError: if the generator's gradient is not finite, or the feedback of so many
                sites that no quorum is left. One site's counts as missed, so that it cannot end
                everybody's run.
        """
        self._follow_timeline()
        members = dict(self.members)
        if not members:
            raise QuorumError("no site takes part now; wait for one to come back.")
        painting = self._paint(self.generator, members)
        if self.selection and self.selection.wants(self.step_number):
            self._look_at_average(self.selection, members)
        answers = self.exchange.ask(self._requests(members, painting.images))
        judgements, missed = self._take(answers.answers, answers.missed)
        shares = self._shares(members, judgements)
        updated = self._quorum().met_by(judgements)
        broken = [error for error in missed.values() if isinstance(error, NotFiniteError)]
        if broken and not updated:
            raise broken[0]
        gap: Tensor | None = None
        if updated:
            self._learn(painting, members, judgements, shares)
            gap = self._remind()
            self._update()
        self.step_number += 1
        losses = {site: judgement.losses for site, judgement in judgements.items()}
        found = self.selection and self.selection.decide(self.step_number, self.average)
        return StepReport(
            self.step_number - 1,
            updated,
            shares,
            losses,
            {site: str(error) for site, error in missed.items()},
            found,
            None if gap is None else float(gap),
        )

    def _shares(
        self, members: Mapping[str, Member], only: Collection[str] | None = None
    ) -> dict[str, float]:
        """Of these sites, or those of them that answered."""
        declared = {s: own.share for s, own in members.items() if only is None or s in only}
        return normalised(declared, self.recipe.shares.most)

    def _requests(self, members: Mapping[str, Member], images: Tensor) -> dict[str, Message]:
        """What each site is asked: to judge its own images, or everybody's."""
        if self.recipe.shares.by != "odds":
            batches = images.split(self.recipe.training.batch)
            return {
                site: Judge(
                    run=self.run,
                    step=self.step_number,
                    batch=member.batch,
                    images=own[:, member.channels],
                )
                for (site, member), own in zip(members.items(), batches, strict=True)
            }
        shares = self._shares(members)
        conditions = torch.cat([member.conditions for member in members.values()])
        return {
            site: Appraise(
                run=self.run,
                step=self.step_number,
                batch=member.batch,
                place=place,
                shares=list(shares.values()),
                images=images[:, member.channels],
                conditions=conditions,
            )
            for place, (site, member) in enumerate(members.items())
        }

    def _learn(
        self,
        painting: Painting,
        members: Mapping[str, Member],
        judgements: Mapping[str, Judged],
        shares: Mapping[str, float],
    ) -> None:
        """Carries the sites' feedback into the generator's gradients."""
        if self.recipe.shares.by == "odds":
            return self._learn_by_odds(painting, members, judgements, shares)
        section = self.recipe.integrity
        feedback, loud = bounded({s: j.feedback for s, j in judgements.items()}, section)
        self._report(loud)
        if section.aggregation == "sum":
            weights = self._weights(members, shares)
            weighted = {site: weights[site] * own for site, own in feedback.items()}
            painting.backward(self._spread(painting, members, weighted))
            return
        parts = {
            site: self._spread(painting, members, {site: own}) for site, own in feedback.items()
        }
        aggregate(self.generator, painting, parts, section.aggregation)

    def _report(self, loud: Mapping[str, float]) -> None:
        self.notes += [
            f"{site}: feedback of step {self.step_number} is {times:.0f} times as long as the "
            "median of all sites'"
            for site, times in loud.items()
        ]

    def _learn_by_odds(
        self,
        painting: Painting,
        members: Mapping[str, Member],
        judgements: Mapping[str, Judged],
        shares: Mapping[str, float],
    ) -> None:
        """Every image is pulled by all sites; images of a site's masks count by its share."""
        said = {s: one for s, one in judgements.items() if isinstance(one, Appraisal)}
        gradients = {}
        for site, one in said.items():
            gradients[site] = torch.zeros_like(painting.images)
            gradients[site][:, members[site].channels] = one.feedback.to(painting.images.device)
        odds = {site: one.odds.to(painting.images) for site, one in said.items()}
        _, loud = bounded({s: j.feedback for s, j in said.items()}, self.recipe.integrity)
        self._report(loud)
        feedback, _ = feedback_of_mixture(odds, gradients, shares)
        batch = self.recipe.training.batch
        # Who did not answer has no word about his own masks either.
        weights = torch.tensor([shares.get(site, 0.0) / batch for site in members])
        weights = weights.repeat_interleave(batch).reshape(-1, *[1] * (feedback.ndim - 1))
        painting.backward(weights.to(feedback) * feedback)

    def _remind(self) -> Tensor | None:
        """Adds the gradient of the reminding term; returns its value."""
        if not self.memory:
            return None
        away = {site: share for site, share in self.shares.items() if site not in self.members}
        self.memory.follow(away, self.average, self.held)
        return self.memory.remind(self.generator, self.step_number, self._paint_looks)

    def _paint_looks(
        self, generator: nn.Module, conditions: Tensor, sites: Sequence[str], random: Any
    ) -> Tensor:
        """Images with their graph."""
        noise = site_noise(self.recipe, sites, self.scope.space, random).to(self.device)
        maps = scope_maps(self.recipe, self.scope, conditions).to(self.device)
        with arithmetic(self.recipe.training.precision, self.device):
            images: Tensor = generator(maps, noise)
        return images.float()

    def _no_conditions(self, site: str) -> Tensor:
        """What is kept of a site that sends none."""
        count = 1 if self.recipe.condition.kind == "none" else 0
        return torch.zeros(count, dtype=torch.int64)

    def _weights(
        self, members: Mapping[str, Member], shares: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """What each site's feedback counts, (channels, 1, 1): pi_j, or its like by modality.

        A site's loss is a mean over the modalities that it judges, and so is the sum of all over
        those that are painted: hence the ratio of the two numbers. With one discriminator a
        modality (`discriminator.joint = false`) the weighted feedback is the gradient of
        mean_c sum_j pi_jc loss_jc; with one for all of them it is no loss's gradient.
        """
        by = {site: torch.full((len(members[site].channels),), shares[site]) for site in shares}
        # A batch in which some cases lack a modality gives as much less feedback in it already.
        if self.recipe.shares.by == "modality":
            held = torch.zeros(len(self.scope.modalities))
            for site, own in by.items():
                held[members[site].channels] += own * torch.tensor(members[site].parts)
            for site, own in by.items():
                own *= len(own) / len(held) / held[members[site].channels]
        return {site: own.reshape(-1, *[1] * len(self.scope.space)) for site, own in by.items()}

    def _spread(
        self, painting: Painting, members: Mapping[str, Member], feedback: Mapping[str, Tensor]
    ) -> Tensor:
        """Feedback of some sites where their images stand in the painting; zero elsewhere."""
        whole = torch.zeros_like(painting.images)
        for part, (site, member) in zip(
            whole.split(self.recipe.training.batch), members.items(), strict=True
        ):
            if site in feedback:
                part[:, member.channels] = feedback[site].to(whole.device)
        return whole

    def _look_at_average(self, selection: Selection, members: Mapping[str, Member]) -> None:
        images = self._paint(self.average, members).images.split(self.recipe.training.batch)
        shares = self._shares(members)
        selection.see({site: own.cpu() for site, own in zip(members, images, strict=True)}, shares)

    def _paint(self, generator: nn.Module, members: Mapping[str, Member]) -> Painting:
        conditions = torch.cat([member.conditions for member in members.values()])
        seed = derived_seed(self.recipe.training.seed, "noise", self.step_number)
        sites = [site for site, member in members.items() for _ in member.conditions]
        random = torch.Generator().manual_seed(seed)
        noise = site_noise(self.recipe, sites, self.scope.space, random).to(self.device)
        maps = scope_maps(self.recipe, self.scope, conditions).to(self.device)
        training = self.recipe.training
        return Painting(generator, maps, noise, chunk=training.chunk, precision=training.precision)

    def _update(self) -> None:
        total = torch.nn.utils.get_total_norm(
            [p.grad for p in self.generator.parameters() if p.grad is not None]
        )
        if not torch.isfinite(total):
            raise NotFiniteError(f"the generator's gradient of step {self.step_number} is {total}.")
        rate = self.recipe.optimiser.generator_rate
        set_rate(self.optimiser, rate * rate_factor(self.recipe, self.step_number))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        follow(self.average, self.generator, average_decay(self.recipe, self.step_number))

    def _take(
        self, answers: Mapping[str, Message], missed: Mapping[str, AsyndganError]
    ) -> tuple[dict[str, Judged], dict[str, AsyndganError]]:
        """Checks judgements and remembers the next conditions; drops sites that sent none."""
        judgements: dict[str, Judged] = {}
        reasons = dict(missed)
        for site, answer in answers.items():
            try:
                judgements[site] = self._checked(site, answer)
            except (WireError, NotFiniteError) as error:
                reasons[site] = error
        for site in reasons:
            del self.members[site]
        for site, judgement in judgements.items():
            self._expect_next(site, judgement.batch, judgement.conditions)
        return judgements, reasons

    def _checked(self, site: str, answer: Message) -> Judged:
        by_odds = self.recipe.shares.by == "odds"
        kind = Appraisal if by_odds else Judgement
        if not isinstance(answer, kind) or answer.step != self.step_number:
            raise WireError(f"site {site} did not answer step {self.step_number}.")
        count = self.recipe.training.batch * (len(self.members) if by_odds else 1)
        wanted = (count, len(self.members[site].channels), *self.scope.space)
        if isinstance(answer, Appraisal) and (
            len(answer.odds) != count or not (answer.odds.abs() <= MOST_LOG_ODDS).all()
        ):
            raise WireError(f"site {site}: odds of {len(answer.odds)} images, or beyond all sense.")
        if tuple(answer.feedback.shape) != wanted:
            raise WireError(
                f"site {site}: feedback of shape {tuple(answer.feedback.shape)}, wanted {wanted}."
            )
        if not torch.isfinite(answer.feedback.norm()):
            raise NotFiniteError(f"site {site}, step {self.step_number}: feedback is not finite.")
        self._check_conditions(site, answer.conditions)
        return answer

    def _check_conditions(self, site: str, conditions: Tensor) -> None:
        space = self.scope.space if self.recipe.condition.kind == "mask" else ()
        wanted = (self.recipe.training.batch, *space)
        if tuple(conditions.shape) != wanted:
            raise WireError(
                f"site {site}: conditions of shape {tuple(conditions.shape)}, wanted {wanted}."
            )
        if int(conditions.max()) > max(self.scope.labels):
            raise WireError(f"site {site}: a label above {max(self.scope.labels)}.")

    def _expect_next(self, site: str, batch: int, conditions: Tensor) -> None:
        self.members[site].batch = batch
        self.members[site].conditions = conditions
        if self.keep:
            self.keep(site, conditions, self._most_masks(site))

    def _most_masks(self, site: str) -> int | None:
        """Of a site: as many as it has cases, where no two that come are the same."""
        if not self.recipe.training.move:
            return None
        cases = self.known[site].cases if self.recipe.masks.source == "own" else 1
        return cases if cases > 1 else MOVED_MASKS  # one: a site that does not say how many it has

    def welcome(self, site: str, card: Card) -> None:
        """Takes a site in, for the first time or again.

        Raises:
            CohortError: if it has nothing that the generator paints, or contradicts the others.
            WireError: if its conditions do not fit the run.
        """
        self._check_conditions(site, card.conditions)
        merge_labels(self.scope.labels, {site: card}, known_only=True)
        if self.recipe.shares.by == "odds":
            self._check_odds(site, card)
        if len(set(card.modalities)) != len(card.modalities):
            raise CohortError(f"site {site} names a modality twice: {', '.join(card.modalities)}.")
        if len(card.parts) != len(card.modalities):
            raise WireError(f"site {site} does not say which part of its cases has what.")
        unknown = [name for name in card.modalities if name not in self.scope.modalities]
        if unknown or tuple(card.space) != self.scope.space:
            raise CohortError(
                f"site {site} has {', '.join(card.modalities)} at {card.space}; this run paints "
                f"{', '.join(self.scope.modalities)} at {list(self.scope.space)}. "
                "Name the modalities in image.modalities, or start a new run with this site."
            )
        member = Member(
            share=card.share,
            cases=card.cases,
            channels=[self.scope.modalities.index(name) for name in card.modalities],
            parts=card.parts,
            batch=card.batch,
            conditions=card.conditions,
        )
        self.known[site] = member
        self.held[site] = member.channels
        self._opening.pop(site, None)
        self._turned_away.pop(site, None)
        self.members = {
            name: self.members.get(name, member) for name in sorted({*self.members, site})
        }
        self._expect_next(site, card.batch, card.conditions)

    def _check_odds(self, site: str, card: Card) -> None:
        """Sees that a site can judge every site's images."""
        if len(card.modalities) < len(self.scope.modalities):
            raise CohortError(
                f"site {site} holds {', '.join(card.modalities)} alone, so it has no odds of whole "
                "images. Set shares.by to 'site' or 'modality', or leave it out."
            )
        if {int(number) for number in card.labels} != set(self.scope.labels):
            raise CohortError(
                f"site {site} knows the labels {', '.join(card.labels.values())}, and cannot judge "
                f"masks with {', '.join(self.scope.labels.values())}. Name all of them in its "
                "dataset.json, or set shares.by to 'site'."
            )
        if site not in self.members and len(self.members) >= self.recipe.shares.sites:
            raise CohortError(
                f"site {site} would be one more than shares.sites ({self.recipe.shares.sites}) "
                "lets judge each other's images. Raise it at all ends."
            )

    def real_moments(self, only: Collection[str] | None = None) -> Moments:
        """Moments of the features of all sites' images, by shares; no image is among them.

        Args:
            only: sites that are asked; None: all members.

        Raises:
            CohortError: if a site lacks a modality, so that its features mean something else.
            QuorumError: if a site does not answer.
        """
        members = {s: m for s, m in self.members.items() if only is None or s in only}
        for site, member in members.items():
            if len(member.channels) < len(self.scope.modalities):
                raise CohortError(
                    f"site {site} lacks a modality, so its moments cannot be compared with those "
                    "of the others. Set selection.kind to 'last'."
                )
        answers = self.exchange.ask(dict.fromkeys(members, Measure(run=self.run)))
        if answers.missed:
            reasons = "; ".join(str(error) for error in answers.missed.values())
            raise QuorumError(f"the run cannot begin: {reasons}")
        shares = self._shares(members)
        parts = [
            checked_moments(site, answer, len(self.scope.modalities)).weighing(shares[site])
            for site, answer in answers.answers.items()
        ]
        return functools.reduce(operator.add, parts)

    def chosen(self) -> nn.Module:
        """The averaged generator that the run ends with."""
        if self.selection:
            self.selection.put_best_into(self.average)
        return self.average

    def invite(self) -> dict[str, str]:
        """Opens the run, in the background, with sites that are reachable but not members.

        Returns:
            Sites that were taken in (an empty reason) or turned away (with the reason) just now.
        """
        self._follow_timeline()
        news: dict[str, str] = {}
        for site in self._due(self.exchange.transport.sites()):
            turned_away = self._turned_away.get(site, _TurnedAway())
            if site in self.members or time.monotonic() < turned_away.until:
                continue
            if site not in self._opening:
                self._opening[site] = self._openers.submit(self._open_one, site)
            elif self._opening[site].done():
                future = self._opening.pop(site)
                try:
                    self.welcome(site, future.result())
                    news[site] = ""
                except AsyndganError as error:
                    self._turned_away[site] = turned_away.again(str(error))
                    if str(error) != turned_away.reason:
                        news[site] = str(error)
        return news

    def has_quorum(self) -> bool:
        """Whether enough sites are members to go on."""
        return self._quorum().met_by(self.members)

    @property
    def shares(self) -> dict[str, float]:
        """Of every site that belongs to the run, also of those that have left."""
        return self.expected | {site: member.share for site, member in self.known.items()}

    def _quorum(self) -> Quorum:
        """Of those who take part now: nobody waits for a site whose time is over, or that left."""
        belongs = self.exchange.transport.belongs
        return Quorum(
            self.recipe.quorum, [site for site in self._due(self.shares) if belongs(site)]
        )

    def _due(self, sites: Iterable[str]) -> list[str]:
        return [site for site in sites if self.recipe.takes_part(site, self.step_number)]

    def leaving(self) -> list[str]:
        """Members whose time is over, as the timeline says."""
        return sorted(set(self.members) - set(self._due(self.members)))

    def _follow_timeline(self) -> None:
        """Has sites leave and come, at the very step that the recipe says."""
        if not self.recipe.timeline or self._followed == self.step_number:
            return
        self._followed = self.step_number
        for site in self.leaving():
            del self.members[site]
            self.notes.append(f"{site} leaves, as the timeline says")
        coming = [
            site
            for site in self._due(self.exchange.transport.sites())
            if not self.recipe.takes_part(site, self.step_number - 1) and site not in self.members
        ]
        for site in coming:
            try:
                self.welcome(site, self._open_one(site))
            except AsyndganError as error:  # it is invited like any other that was away
                self.notes.append(f"{site} does not come, as the timeline says: {error}")
            else:
                self.notes.append(f"{site} comes, as the timeline says")

    def save_sites(self) -> dict[str, str]:
        """Has every member keep its state of this step; returns why some did not."""
        save = Save(run=self.run, step=self.step_number)
        answers = self.exchange.ask(dict.fromkeys(self.members, save))
        return {site: str(error) for site, error in answers.missed.items()}

    def close(self) -> None:
        """Tells the members that the run is over."""
        self.exchange.ask(dict.fromkeys(self.members, Close(run=self.run)))
        self._openers.shutdown(wait=False, cancel_futures=True)

    def state(self) -> State:
        """Tensors and facts for a checkpoint. It holds numbers of batches, never conditions."""
        tensors = network_state("generator", self.generator)
        tensors |= network_state("average", self.average)
        tensors |= optimiser_state("optimiser", self.optimiser)
        about = {
            "run": self.run,
            "step": self.step_number,
            "scope": self.scope.to_plain(),
            "sites": self.shares,
            "held": self.held,
        }
        if self.selection:
            selected, about["selection"] = self.selection.state()
            tensors |= selected
        if self.memory:
            remembered, about["memory"] = self.memory.state()
            tensors |= remembered
        return tensors, about

    def load(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Takes what `state` gave."""
        load_network("generator", self.generator, tensors)
        load_network("average", self.average, tensors)
        load_optimiser("optimiser", self.optimiser, tensors)
        self.step_number = int(about["step"])
        sites = about.get("sites", ())  # a list, before shares were kept
        shares = sites if isinstance(sites, dict) else dict.fromkeys(sites, 1.0)
        self.expected = {site: float(share) for site, share in shares.items()}
        self.held = {site: list(channels) for site, channels in about.get("held", {}).items()}
        if "selection" in about:
            self.selection = Selection.load(self.recipe, tensors, about["selection"])
        if self.memory and "memory" in about:
            self.memory.load(tensors, about["memory"], self.average)

    def _open_one(self, site: str) -> Card:
        request = Open(
            run=self.run, recipe=self.recipe.digest(), step=self.step_number, attempt=self.attempt
        )
        answers = self.exchange.ask({site: request})
        return card_of(site, answers.answers, answers.missed)


def open_all(
    recipe: Recipe, exchange: Exchange, request: Open, needed: Collection[str] | None
) -> tuple[dict[str, Card], dict[str, str]]:
    """Opens a run with every reachable site, in the order of their names.

    A site that is silent may still be loading its cases: it is asked again within the patience.

    Returns:
        Cards, and why sites that are not needed sent none.

    Raises:
        QuorumError: if a site that is needed does not answer.
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
            reasons = "; ".join(str(error) for error in lost or failed.values())
            raise QuorumError(f"the run cannot begin: {reasons}")
    if not sites:
        raise QuorumError("the run cannot begin: no site is there.")
    return {site: cards[site] for site in sites if site in cards}, missed


def card_of(site: str, answers: Mapping[str, Message], missed: Mapping[str, AsyndganError]) -> Card:
    """A site's card out of what came back, or the reason why there is none."""
    answer = answers.get(site)
    if isinstance(answer, Card):
        return answer
    raise missed.get(site) or SiteUnreachableError(f"site {site} did not send its card.")
