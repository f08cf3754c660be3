"""The coordinator: it owns the generator and updates it with the sites' feedback.

Source: Chang et al. 2020 (AsynDGAN), algorithm 1; its equation 4 is `aggregation`.
"""

import copy
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from asyndgan.arrays import CPU
from asyndgan.errors import (
    AsyndganError,
    NotFiniteError,
    QuorumError,
    RecipeError,
    RunError,
    WireError,
)
from asyndgan.protocol import Exchange
from asyndgan.recipe import Recipe
from asyndgan.store import derived_seed
from asyndgan.texts import LONGEST_NEWS
from asyndgan.training.aggregation import Member, Members, bounded, pull, requests_of
from asyndgan.training.checkpoint import (
    State,
    count_in,
    load_network,
    load_optimiser,
    network_state,
    optimiser_state,
    seeded,
    taking_up,
)
from asyndgan.training.given import Given
from asyndgan.training.optimiser import adam, average_decay, follow, rate_factor, set_rate
from asyndgan.training.painting import Diversity, Painting
from asyndgan.training.roster import Keep, Pending, Roster, open_all
from asyndgan.training.scope import Scope, agree, generator_inputs, new_generator
from asyndgan.wire.messages import Card, Judgement, Message, Open

MOST_FEEDBACK = 1e9  # largest L2 norm of a site's feedback that a generator can bear

Confirm = Callable[[Scope, Mapping[str, Card]], None]


@final
@dataclass(frozen=True)
class StepReport:
    """What happened in a step."""

    step: int  # its number, from 0
    updated: bool  # whether the quorum was met and the generator was updated
    shares: dict[str, float]  # normalised share of each site that answered
    losses: dict[str, dict[str, float]]  # value of each loss term, by site
    missed: dict[str, str] = field(default_factory=dict)  # why a site's answer is missing
    events: tuple[str, ...] = ()  # what a person should read, since the report before


@final
class Coordinator:
    """Owns the generator and sends requests to the sites; `step_number` counts the steps done."""

    def __init__(self, roster: Roster, *, device: torch.device = CPU) -> None:
        self.roster = roster
        self.recipe = roster.recipe
        self.scope = roster.scope
        self.device = device
        self.step_number = 0
        self.events: list[str] = []  # for a person, in no report yet
        self.loudest: dict[str, float] = {}  # multiple of the median that was told of a site
        with seeded(derived_seed(self.recipe.training.seed, "generator")):
            self.generator = new_generator(self.recipe, self.scope).to(device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.optimiser = adam(self.generator, self.recipe.optimiser.generator_rate)

    @classmethod
    def begin(
        cls,
        recipe: Recipe,
        exchange: Exchange,
        *,
        run: str,
        keep: Keep | None = None,
        given: Given | None = None,
        checkpoint: State | None = None,
        needed: Collection[str] | None = None,
        confirm: Confirm | None = None,
        pending: Pending | None = None,
        device: torch.device = CPU,
    ) -> Self:
        """Opens a run, new or resumed, with every site that can be reached.

        `given` are masks to paint from, exactly if the recipe has `masks.source` "given",
        `checkpoint` is what `state` returned. Without the `needed` sites (None: all that can be
        reached) the run does not begin. `confirm` is called before the first step of a new run with
        what it paints and their cards; it returns after a confirmation, or raises. `pending` is as
        for `open_all`.

        Raises `QuorumError` if a needed site does not answer, `CohortError` or `DataError` if these
        contradict each other, the recipe or the masks, and `RunError` if the checkpoint does not
        fit the recipe or the masks.
        """
        step = count_in(checkpoint[1], "step") if checkpoint else 0
        with taking_up():
            kept = Scope.from_plain(checkpoint[1]["scope"]) if checkpoint else None
        request = Open(run=run, recipe=recipe.digest(), step=step, attempt=secrets.token_hex(8))
        cards, missed = open_all(recipe, exchange, request, needed, pending)
        asked = {s: card for s, card in cards.items() if needed is None or s in needed} or cards
        scope = kept or agree(recipe, asked)
        if given:
            given.folder.check_labels({str(n): name for n, name in scope.labels.items()})
        roster = Roster(recipe, exchange, request, scope, keep, given)
        coordinator = cls(roster, device=device)
        coordinator.events += [f"{site} is not there: {reason}" for site, reason in missed.items()]
        if checkpoint:
            with taking_up():
                coordinator.load(*checkpoint)
        coordinator.events += roster.welcome_all(cards, needed)
        if confirm and not checkpoint:
            confirm(scope, asked)
        return coordinator

    @property
    def members(self) -> dict[str, Member]:
        """Sites that take part now, sorted by name."""
        return self.roster.members

    def step(self) -> StepReport:
        """Paints for every member, collects the feedback, and updates the generator.

        Raises:
            QuorumError: no site takes part now.
            NotFiniteError: the generator's gradient is not finite, or the feedback of so many sites
                that the others would be no quorum; else it only counts as missed.
        """
        self.events += self.roster.follow_timeline(self.step_number)
        members = dict(self.members)
        if not members:
            raise QuorumError("no site takes part now; wait for one to come back.")
        given = self._given_to(members)
        asked = {site: given.get(site, member.conditions) for site, member in members.items()}
        painting = self.paint(self.generator, asked)
        requests = requests_of(self.roster.run, self.step_number, members, painting.images, given)
        answers = self.roster.exchange.ask(requests)
        judgements, missed = self._take(answers.answers, answers.missed)
        shares = self.roster.shares_of(judgements)
        quorum = self.roster.quorum(self.step_number)
        updated = quorum.met_by(judgements)
        broken = {s: error for s, error in missed.items() if isinstance(error, NotFiniteError)}
        if broken and not quorum.met_by(set(members) - set(broken)):
            raise next(iter(broken.values()))
        if updated:
            for site in judgements:
                self.roster.taught[site] += 1
            judgements = self._bounded(judgements)
            by = self.recipe.shares.by
            painting.backward(pull(painting.images, members, judgements, shares, by=by))
            self._update()
        self.step_number += 1
        self.events += [
            f"missed {site}: {str(error).removeprefix(f'site {site}: ')}"
            for site, error in missed.items()
        ]
        events, self.events = tuple(line[:LONGEST_NEWS] for line in self.events), []
        return StepReport(
            step=self.step_number - 1,
            updated=updated,
            shares=shares,
            losses={site: judgement.losses for site, judgement in judgements.items()},
            missed={site: str(error) for site, error in missed.items()},
            events=events,
        )

    def _given_to(self, members: Members) -> dict[str, Tensor]:
        """The masks of this step that the coordinator chooses, by site."""
        given = self.roster.given
        if not given:
            return {}
        return {
            site: given.drawn(self.recipe, site, member.batch, member.labels)
            for site, member in members.items()
        }

    def _bounded(self, answers: Mapping[str, Judgement]) -> dict[str, Judgement]:
        """The answers with feedback no longer than the recipe lets it be."""
        feedback, loud = bounded(
            {s: answer.feedback for s, answer in answers.items()}, self.recipe.integrity
        )
        bound = self.recipe.integrity.bound
        for site, times in loud.items():
            if times > 2 * self.loudest.get(site, 0.0):
                self.loudest[site] = times
                cut = bound and times > bound
                used = f"was shortened to {bound:g} times it" if cut else "was used as it is"
                self.events.append(
                    f"{site}: the feedback of step {self.step_number} is {times:.3g} times as "
                    f"strong (L2 norm) as the median of all sites', and {used}"
                )
        return {s: a.model_copy(update={"feedback": feedback[s]}) for s, a in answers.items()}

    def paint(self, generator: nn.Module, of_sites: Mapping[str, Tensor]) -> Painting:
        """Paints the conditions of each site, (n, *space) or (n,), with this step's noise."""
        conditions = torch.cat(list(of_sites.values()))
        seed = derived_seed(self.recipe.training.seed, "noise", self.step_number)
        looks = [self.roster.look_of(site) for site, masks in of_sites.items() for _ in masks]
        random = torch.Generator().manual_seed(seed)
        inputs = generator_inputs(self.recipe, self.scope, conditions, looks, random, self.device)
        training, diversity = self.recipe.training, Diversity.of(self.recipe, looks, inputs, random)
        painting = Painting(
            generator, *inputs, chunk=training.chunk, precision=training.precision,
            diversity=diversity,
        )  # fmt: skip
        painted = tuple(painting.images.shape[1:])
        if painted != (wanted := (len(self.scope.modalities), *self.scope.space)):
            raise RecipeError(
                f"generator.kind '{self.recipe.generator.kind}' paints images of shape {painted}, "
                f"wanted {wanted}: a channel for each modality, in the noise's space. Mend it."
            )
        return painting

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
    ) -> tuple[dict[str, Judgement], dict[str, AsyndganError]]:
        """Checks judgements and records the next conditions; drops sites without a valid one."""
        judgements: dict[str, Judgement] = {}
        reasons = dict(missed)
        for site, answer in answers.items():
            try:
                judgements[site] = self.checked(site, answer)
            except (WireError, NotFiniteError) as error:
                reasons[site] = error
        for site, reason in reasons.items():
            self.roster.drop(site, reason)
        for site, judgement in judgements.items():
            self.roster.heard(site, judgement.batch, judgement.conditions)
        return judgements, reasons

    def checked(self, site: str, answer: Message) -> Judgement:
        """The answer of a member to this step; raises `WireError` or `NotFiniteError`."""
        if not isinstance(answer, Judgement) or answer.step != self.step_number:
            raise WireError(f"site {site} did not answer step {self.step_number}.")
        channels = len(self.members[site].channels)
        wanted = (self.recipe.training.batch, channels, *self.scope.space)
        if tuple(answer.feedback.shape) != wanted:
            raise WireError(
                f"site {site}: feedback of shape {tuple(answer.feedback.shape)}, wanted {wanted}."
            )
        if not answer.feedback.norm() <= MOST_FEEDBACK:
            raise NotFiniteError(
                f"site {site}, step {self.step_number}: feedback is not finite, or its norm is "
                f"above {MOST_FEEDBACK:g}."
            )
        self.roster.check_conditions(site, answer.conditions)
        return answer

    def invite(self) -> dict[str, str]:
        """Calls `Roster.invite` for the sites that take part in the next step."""
        self.events += self.roster.follow_timeline(self.step_number)
        before = self.roster.shares
        news = self.roster.invite(self.step_number)
        for site, reason in news.items():
            if reason:
                self.events.append(f"{site} is not back: {reason}")
                continue
            self.events += self.roster.outweighs(site, before)
            since = self.members[site].since
            how = f"back, with its discriminator of step {since}" if since else ""
            self.events.append(f"{site} is {how or 'there, with a new discriminator'}")
        return news

    def has_quorum(self) -> bool:
        """Whether there are enough members to go on."""
        return self.roster.quorum(self.step_number).met_by(self.members)

    def state(self) -> State:
        """Tensors and facts for a checkpoint; it never holds conditions."""
        tensors = network_state("generator", self.generator)
        tensors |= network_state("average", self.average)
        tensors |= optimiser_state("optimiser", self.optimiser)
        about = {
            "run": self.roster.run,
            "step": self.step_number,
            "scope": self.scope.to_plain(),
            **self.roster.state(),
        }
        if self.roster.given:
            about["given"] = self.roster.given.digest
        return tensors, about

    def load(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Restores what `state` returned; raises `RunError` for another run or given masks."""
        if about.get("run") != self.roster.run:
            raise RunError(
                "the checkpoint is of another run. Put back the one that this run wrote, or start "
                "a new run."
            )
        if self.roster.given:
            self.roster.given.check_same(about.get("given"))
        load_network("generator", self.generator, tensors)
        load_network("average", self.average, tensors)
        load_optimiser("optimiser", self.optimiser, tensors)
        self.step_number = int(about["step"])
        self.roster.load(about)
