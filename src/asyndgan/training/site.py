"""A site: its cohort, its discriminator, and its answers to the coordinator's requests."""

import logging
import math
import time
from collections import deque
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Final, final

import torch

from asyndgan.arrays import CPU
from asyndgan.errors import NotFiniteError, ProtocolError, RunError
from asyndgan.privacy import SIMULATION, Openings, Policy, Released
from asyndgan.privacy.chance import secret, uniform
from asyndgan.privacy.door import open_release
from asyndgan.protocol import Handler
from asyndgan.recipe import Recipe
from asyndgan.store import Batch, Cohort, derived_seed, digest_of, drawn_from
from asyndgan.training import checkpoint
from asyndgan.training.objective import Objective
from asyndgan.training.site_checks import (
    Arrivals,
    check_cohort,
    check_range,
    check_same,
    share_of,
    too_few_to_teach,
)
from asyndgan.wire.codec import through
from asyndgan.wire.messages import (
    NO_CONDITIONS,
    Card,
    Close,
    Closed,
    Judge,
    Judgement,
    Message,
    Open,
    Save,
    Saved,
)

log = logging.getLogger(__name__)

KEPT_BATCHES: Final = 32  # synthetic ones that private updates draw from, in memory only


@final
class Site(Handler):
    """Answers requests with what its `Release` lets out. Opens no connection by itself.

    Args:
        name: of the site; with the recipe's seed it determines the initial weights, which are then
            shuffled unpredictably unless the policy has `allows.known_start`.
        cohort: its cases, prepared as the recipe says.
        recipe: the agreed one; a run with another recipe is refused.
        folder: where it keeps its own checkpoints; None: nowhere, so it cannot roll back.
        records: where it keeps its ledger and its account; None: in `folder`.
        share: its weight among the sites, `LEAST_SHARE` at least; None: its number of cases.
        policy: of its steward; it overrules the recipe.
        openings: what it was opened with before; None: it remembers that in memory only.
        device: where its networks compute; the cohort stays in main memory.

    Raises `CohortError`, `LedgerError` or `PolicyError` if it cannot take part.
    """

    step: int
    next_batch: int
    objective: Objective

    def __init__(
        self,
        name: str,
        cohort: Cohort,
        recipe: Recipe,
        *,
        folder: Path | None = None,
        records: Path | None = None,
        share: float | None = None,
        policy: Policy = SIMULATION,
        openings: Openings | None = None,
        device: torch.device = CPU,
    ) -> None:
        check_cohort(name, cohort, recipe)
        policy.check(recipe, name, patients=cohort.fewest)
        self.name = name
        self.cohort = cohort
        self.recipe = recipe
        self.folder = folder
        self.device = device
        self.share = share_of(name, cohort, policy, share)
        self.release = open_release(recipe, policy, records or folder, name, cohort.patients)
        self.run: str | None = None
        self._heard = 0.0
        self.openings = openings or Openings(None)
        if self.release.ledger:
            self.openings.check_against(self.release.ledger.tally.recipes)
        self._arrived = Arrivals()
        self._fresh = False
        self._opened = False
        self._start_afresh()

    def handle(self, request: Message) -> Released:
        """Answers one request; raises `ProtocolError` if it does not fit the run or its state."""
        repeated = 0
        match request:
            case Open():
                answer: Message = self._open(request)
            case Judge():
                answer = self._judge(request)
                repeated = self._arrived.count(request.images, request.step)
            case Save():
                answer = self._save(request)
            case Close():
                self._check_fits(request)
                self.openings.close()
                self.run = None
                self._start_afresh()  # ready for another run
                answer = Closed(run=request.run)
            case _:
                raise ProtocolError(f"a site does not answer '{request.kind}'.")
        self._heard = time.monotonic()
        return self.release.let_out(answer, repeated=repeated)

    def _judge(self, request: Judge) -> Judgement:
        """One step: the discriminator learns, then returns its feedback on the images."""
        self._check_fits(request)
        batch = self.draws.batch(self.next_batch, self.recipe.training.batch)
        if request.images.shape != batch.images.shape:
            raise ProtocolError(
                f"synthetic images of shape {tuple(request.images.shape)} came; "
                f"this site judges {tuple(batch.images.shape)}."
            )
        synthetic = replace(batch, images=request.images)
        given = self._given(request)
        if self.recipe.draws_conditions:
            drawn = self._conditions() if given is None else given
            synthetic = replace(synthetic, conditions=drawn, halves=None)
        self.release.check_count()  # before anything is learned, and charged to privacy
        self._begin_step(request)
        synthetic = synthetic.to(self.device)
        real = None
        if self.recipe.privacy.kind == "discriminator":
            losses = self._learn_privately(synthetic)
        else:
            real = self._real(batch)
            losses = self.objective.learn(real, synthetic)
        synthetic.images.requires_grad_()
        loss, terms = self.objective.ask(synthetic, real)
        (feedback,) = torch.autograd.grad(loss, synthetic.images)
        numbers = self._finite(losses | terms, feedback, request.step)
        self.step = request.step + 1
        self.next_batch += 1
        return Judgement(
            run=request.run,
            step=request.step,
            losses=numbers,
            feedback=feedback.cpu(),
            batch=self.next_batch,
            conditions=self._conditions(),
        )

    def _given(self, request: Judge) -> torch.Tensor | None:
        """The masks of the coordinator's choice that it painted from; None: this site's own."""
        given = self.recipe.given_masks
        shape = (self.recipe.training.batch, *self.draws.space) if given else NO_CONDITIONS.shape
        masks = request.conditions
        if masks.shape != shape or masks.max() > (max(self.draws.labels) if given else 0):
            raise ProtocolError(
                f"conditions of shape {tuple(masks.shape)} with labels up to {int(masks.max())} "
                f"came with the images; this site takes {tuple(shape)}, with labels that it has."
            )
        return masks if given else None

    def _begin_step(self, request: Judge) -> None:
        """Begins a step whose request fits; what was stored of steps beyond it is abandoned."""
        check_range(request.images, f"the synthetic images of step {request.step}")
        self._fresh = False
        # Else states of steps that are now done anew would count as the newest. Being opened alone
        # removes nothing: a late `Open` may ask for a step that is long over.
        if self._opened and self.folder and self.run:
            checkpoint.forget_after(checkpoint.place_of(self.folder, self.run), request.step)
        self._opened = False
        self.objective.begin_step(request.step)

    def _learn_privately(self, synthetic: Batch) -> dict[str, torch.Tensor]:
        """Charges and makes updates on randomly drawn patients and on stored synthetic images."""
        account, uses = self.release.account, self.recipe.privacy.updates
        if account.mechanism is None:
            raise ProtocolError("this recipe has no privacy to learn under.")
        account.charge(uses)
        self.received.append(Batch(synthetic.images.clone(), synthetic.conditions))
        losses: dict[str, torch.Tensor] = {}
        for _ in range(uses):
            real = self._real(self.draws.patients_by_chance(account.mechanism.rate, uniform))
            place = int(uniform(1) * len(self.received))
            losses = self.objective.learn_privately(real, self.received[place])
        return losses

    def _real(self, batch: Batch) -> Batch:
        return replace(batch, images=through(batch.images, self.recipe.wire.images)).to(self.device)

    def _conditions(self) -> torch.Tensor:
        """The conditions of the next batch, for the coordinator; zeros if it chooses them."""
        size = self.recipe.training.batch
        if not self.recipe.draws_conditions:
            return self.draws.batch(self.next_batch, size).conditions
        if self.recipe.given_masks:
            return torch.zeros(size, dtype=torch.int64)
        # Classes are drawn uniformly, not as often as patients have them.
        pool = torch.tensor(sorted(self.draws.labels))
        seed = derived_seed(self.recipe.training.seed, "conditions", self.name, self.next_batch)
        return drawn_from(pool, size, torch.Generator().manual_seed(seed), flip=False)

    def _finite(
        self, losses: dict[str, torch.Tensor], feedback: torch.Tensor, step: int
    ) -> dict[str, float]:
        """The losses as numbers; raises `NotFiniteError`, and forgets what has learned from it."""
        numbers = {name: float(value) for name, value in losses.items()}
        checked = {f"the loss '{name}'": value for name, value in numbers.items()}
        checked["the feedback"] = float(feedback.abs().max())
        for name, value in checked.items():
            if not math.isfinite(value):
                self._start_afresh()  # the next `Open` takes the newest whole state
                raise NotFiniteError(f"{name} of step {step} is {value}.")
        return numbers

    def _open(self, request: Open) -> Card:
        if request.recipe != self.recipe.digest():
            raise ProtocolError(
                f"this site was set up for recipe {self.recipe.digest()[:12]}, the run has "
                f"{request.recipe[:12]}. Give both ends the same recipe file."
            )
        self._check_attempt(request)
        self._go_back_to(request.run, request.step)
        self.openings.begin(request.attempt)
        self.run, self._opened = request.run, True
        return Card(
            run=request.run,
            step=self.step,
            cases=self.draws.declared.cases,
            share=self.share,
            modalities=list(self.draws.modalities),
            parts=self.draws.declared.parts,
            labels={str(number): name for number, name in self.draws.labels.items()},
            space=list(self.draws.space),
            batch=self.next_batch,
            conditions=self._conditions(),
            keep=self.recipe.keeps_masks,
            few=too_few_to_teach(self.recipe, self.draws.declared.patients),
        )

    def _check_attempt(self, request: Open) -> None:
        """Refuses a late `Open`, and a run that would displace the one at work.

        A late one would send this site back to an earlier step. A run that was silent for
        `quorum.wait_s` may be displaced: its coordinator may have given up.
        """
        if self.openings.is_over(request.attempt):
            raise ProtocolError("this attempt at the run is over; another one has begun.")
        reached = self._reached(request)
        if request.step < reached:
            raise ProtocolError(f"step {request.step} is over; this site is at step {reached}.")
        wait_s = self.recipe.quorum.wait_s
        if self.run not in (None, request.run) and (
            not request.attempt or time.monotonic() - self._heard < wait_s
        ):
            raise ProtocolError(
                "this site takes part in another run; close that one first, or ask again when it "
                f"has been silent for {wait_s:g} s."
            )

    def _reached(self, request: Open) -> int:
        """The step that this very attempt has brought the site to, in memory or on disk."""
        if not self.openings.knows(request.attempt):
            return 0
        if request.run == self.run:
            return self.step
        held = checkpoint.place_holding(self.folder, request.run) if self.folder else None
        if held is None or held[1].get("attempt") != request.attempt:
            return 0
        return checkpoint.count_in(held[1], "step")

    def _save(self, request: Save) -> Saved:
        self._check_fits(request)
        # Of a start that has judged nothing no state is kept: going back to it begins anew.
        if self.folder is not None and self.step:
            about = {
                "run": request.run,
                "attempt": self.openings.newest,
                "recipe": self.recipe.digest(),
                "step": self.step,
                "batch": self.next_batch,
                "data": self._data_digest,
                "members": self.cohort.members,
                "modalities": list(self.cohort.modalities),
                "secret": self.secret,
            }
            place = checkpoint.place_of(self.folder, request.run)
            checkpoint.forget_old_runs(place)
            path = checkpoint.step_file(place, request.step)
            checkpoint.write(path, self.objective.state(), about)
            checkpoint.forget_old(place)
        return Saved(run=request.run, step=self.step)

    def _check_fits(self, request: Judge | Save | Close) -> None:
        if request.run != self.run:
            raise ProtocolError("this site takes part in another run, or in none; open it first.")
        if isinstance(request, Close):
            return
        step, steps, judges = request.step, self.recipe.training.steps, isinstance(request, Judge)
        # Judging beyond the last step would only probe a discriminator that learns no more.
        if step > steps or (judges and step == steps):
            raise ProtocolError(f"the recipe has {steps} steps, and {step} are over.")
        if judges and not self.recipe.takes_part(self.name, step):
            raise ProtocolError(f"the recipe's timeline has this site away in step {step}.")
        if step < self.step:
            raise ProtocolError(f"step {step} is over; this site is at step {self.step}.")
        if isinstance(request, Judge) and request.batch != self.next_batch:
            raise ProtocolError(
                f"batch {request.batch} was not offered; the next is {self.next_batch}."
            )

    def _go_back_to(self, run: str, step: int) -> None:
        """Restores the newest state at or before a step: in memory, on disk, or the initial one.

        Raises `ProtocolError` or `RunError`, and stays as it is, if the stored state is of other
        cases or patients, of another run or of another recipe.
        """
        place = checkpoint.place_of(self.folder, run) if self.folder else None
        kept = checkpoint.stored_steps(place) if place else []
        current = self.run in (None, run)
        reached = max((number for number in kept if number <= step), default=0)
        if current and reached <= self.step <= step:
            return
        stored = checkpoint.newest(place, step) if place else None
        if not stored:
            return self._start_afresh()
        tensors, about = stored
        if (about.get("run"), about.get("recipe")) != (run, self.recipe.digest()):
            raise RunError("the site's state is of another run or recipe; remove it to go on.")
        check_same(about, data=self._data_digest, modalities=self.cohort.modalities)
        try:
            step, batch = (checkpoint.count_in(about, key) for key in ("step", "batch"))
            known = about.get("secret")
            self._start_afresh(None if known is None else str(known))
            self._fresh = False
            self.objective.load(tensors)
        except RunError:
            self._start_afresh()  # rather than go on with half a state
            raise
        self.step, self.next_batch = step, batch

    @cached_property
    def _data_digest(self) -> str:
        """Digest of the cases and of their patients.

        Which half of the patients a case belongs to follows from the patients' names, and what has
        learned from one half must never learn from the other.
        """
        return self.cohort.members + digest_of([self.cohort.halves])

    def _start_afresh(self, known: str | None = None) -> None:
        """Resets the site; its draws are secret (`known`: repeated), unless the start is known."""
        if self._fresh and known is None:
            return  # nothing was judged since the last start, so the same masks may leave again
        self._fresh = False
        if not self.release.policy.allows.known_start:
            known = known or secret()
        self.secret = known
        self.draws = self.cohort.redrawn(known) if known else self.cohort
        self.step = 0
        self.next_batch = 0
        self.received: deque[Batch] = deque(maxlen=KEPT_BATCHES)
        recipe, by_half = self.recipe, self.cohort.labels_by_half
        self.objective = Objective(
            recipe,
            modalities=len(self.draws.modalities),
            labels=max(self.draws.labels) + 1,
            space=self.draws.space,
            seed=derived_seed(self.recipe.training.seed, "site", self.name),
            device=self.device,
            secret=self.secret,
            known=by_half.any(0).nonzero().flatten().tolist() if recipe.given_masks else None,
            by_half=by_half if recipe.discriminator.cross_fitted else None,
        )
        self._fresh = True
