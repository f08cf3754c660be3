"""FedGAN (Rasouli et al. 2020, algorithm 1) as a baseline for a recipe.

It uses the recipe's networks and losses and shows them as many images. Generators and
discriminators are trained at the sites and their weights are averaged; each site keeps its own
optimiser states.
"""

import copy
import json
import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from asyndgan import __version__
from asyndgan.engines import SiteSetup, load_cohort
from asyndgan.errors import CohortError, NotFiniteError, RecipeError
from asyndgan.models.parts import build_discriminator, usable_device
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.runs.checks import precision_of
from asyndgan.store import Batch, Cohort, derived_seed
from asyndgan.texts import append
from asyndgan.training import GENERATOR_VERSION
from asyndgan.training.checkpoint import (
    count_in,
    forget_old,
    load_network,
    load_optimiser,
    network_state,
    optimiser_state,
    seeded,
    taking_up,
    to_resume,
    write,
)
from asyndgan.training.objective import Objective
from asyndgan.training.optimiser import adam, average_decay, follow, rate_factor, set_rate
from asyndgan.training.painting import Diversity, Painting
from asyndgan.training.quorum import normalised
from asyndgan.training.scope import Scope, generator_inputs, new_generator
from asyndgan.training.site_checks import check_cohort
from asyndgan.training.steps import step_file
from lab.fedavg import LOCAL_STEPS, average_weights, weight


def check_fedgan(recipe: Recipe) -> None:
    """Checks that a recipe can be trained by averaging weights.

    Raises:
        RecipeError: the recipe has given masks, differential privacy, or non-default settings that
            act on feedback or on which sites take part.
    """
    for section in ("timeline", "integrity", "shares"):
        if getattr(recipe, section) != getattr(Recipe(), section):
            raise RecipeError(
                f"recipe '{recipe.name}': FedGAN has all sites in every round and no feedback, so "
                f"{section} would not be what it is beside it; leave it as it is by default."
            )
    for violated, fault in (
        (recipe.masks.source == "given", "paints at the sites, from their own masks; set "
         "masks.source to 'own'"),
        (recipe.privacy.kind != "none", f"sends weights, which privacy.kind '{recipe.privacy.kind}'"
         " does not cover; set it to 'none'"),
    ):  # fmt: skip
        if violated:
            raise RecipeError(f"recipe '{recipe.name}': FedGAN {fault}.")


def train_fedgan(
    recipe: Recipe,
    sites: Mapping[str, Path],
    out: Path,
    *,
    local_steps: int = LOCAL_STEPS,
    device: str = "cpu",
    watch: Callable[[int, int], None] | None = None,
) -> RunFolder:
    """Trains one generator by averaging local generators and discriminators.

    Networks, losses, rates, moving average and number of images seen are those of `train` with this
    recipe. An interrupted training resumes from its newest checkpoint.

    Args:
        recipe: recipe of the run.
        sites: folder of each site's data, by the site's name. All must hold the same modalities,
            since discriminators of different shapes cannot be averaged.
        out: run folder; `generate` and `evaluate` accept it like any other.
        local_steps: updates between two averagings.
        device: device of all networks.
        watch: called after every round with the number of steps done and the total.

    Raises:
        DataError, CohortError: a folder cannot be read or does not fit the recipe.
        CohortError: sites differ in modalities or labels.
        NotFiniteError: a loss became infinite or NaN.
        RecipeError: see `check_fedgan`.
        RunError: another training is running in `out`.
    """
    check_fedgan(recipe)
    folder = RunFolder(out)
    if not folder.facts_file.exists():
        folder = RunFolder.create(out, recipe)
    elif folder.facts().state == "finished":
        return folder
    with folder.held():
        _FedGan(folder, sites, local_steps, usable_device(device)).to_the_end(
            watch or (lambda done, steps: None)
        )
    return folder


def networks_weight(recipe: Recipe, scope: Scope) -> tuple[int, int]:
    """Bytes of the generator, and of the discriminator of a site that holds all modalities."""
    with torch.device("meta"):
        discriminator = build_discriminator(recipe, scope.sizes(recipe))
        return weight(new_generator(recipe, scope)), weight(discriminator)


@final
class _Party:
    """A site of FedGAN: it holds both networks, and its images never leave it."""

    def __init__(
        self, name: str, cohort: Cohort, recipe: Recipe, scope: Scope, device: torch.device
    ) -> None:
        check_cohort(name, cohort, recipe)
        self.name = name
        self.cohort = cohort
        self.recipe = recipe
        self.scope = scope
        self.device = device
        self.channels = [cohort.modalities.index(name) for name in scope.modalities]
        seed = recipe.training.seed
        with seeded(derived_seed(seed, "generator")):
            self.generator = new_generator(recipe, scope).to(device)
        self.optimiser = adam(self.generator, recipe.optimiser.generator_rate)
        self.objective = Objective(
            recipe,
            modalities=len(cohort.modalities),
            labels=max(scope.labels) + 1,
            space=scope.space,
            seed=derived_seed(seed, "fedgan"),  # all sites start with the same discriminator
            device=device,
        )

    def step(self, number: int) -> dict[str, float]:
        """One update of the local discriminator, then one of the local generator."""
        training = self.recipe.training
        real = self._in_order(self.cohort.batch(number, training.batch))
        seed = derived_seed(training.seed, "fedgan noise", self.name, number)
        random = torch.Generator().manual_seed(seed)
        looks = [self.name] * training.batch
        inputs = generator_inputs(
            self.recipe, self.scope, real.conditions, looks, random, self.device
        )
        painting = Painting(
            self.generator, *inputs, chunk=training.chunk, precision=training.precision,
            diversity=Diversity.of(self.recipe, looks, inputs, random),
        )  # fmt: skip
        synthetic = replace(real, images=painting.images)
        self.objective.begin_step(number)
        losses = self.objective.learn(real, synthetic)
        synthetic.images.requires_grad_()
        loss, terms = self.objective.ask(synthetic, real)
        (feedback,) = torch.autograd.grad(loss, synthetic.images)
        painting.backward(feedback)
        set_rate(
            self.optimiser, self.recipe.optimiser.generator_rate * rate_factor(self.recipe, number)
        )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        numbers = {name: float(value) for name, value in (losses | terms).items()}
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise NotFiniteError(
                    f"FedGAN, site {self.name}: the loss '{name}' of step {number} is {value}."
                )
        return numbers

    def _in_order(self, batch: Batch) -> Batch:
        """Reorders channels as in the scope, so that discriminators can be averaged."""
        return replace(batch, images=batch.images[:, self.channels]).to(self.device)

    def state(self) -> dict[str, Tensor]:
        tensors = self.objective.state()
        tensors |= network_state("generator", self.generator)
        tensors |= optimiser_state("generator_optimiser", self.optimiser)
        return {f"{self.name}/{key}": value for key, value in tensors.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        prefix = f"{self.name}/"
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        self.objective.load(own)
        load_network("generator", self.generator, own)
        load_optimiser("generator_optimiser", self.optimiser, own)


@final
class _FedGan:
    """One attempt at a FedGAN training, from a fresh start or a checkpoint."""

    def __init__(
        self,
        folder: RunFolder,
        sites: Mapping[str, Path],
        local_steps: int,
        device: torch.device,
    ) -> None:
        self.folder = folder
        self.local_steps = local_steps
        recipe = folder.recipe()
        precision = precision_of(folder, recipe, device)
        self.recipe = recipe = recipe.computed_in(precision)
        cohorts = {
            name: load_cohort(SiteSetup(name, data, folder.site_state(name)), recipe)
            for name, data in sorted(sites.items())
        }
        scope = _common_scope(cohorts)
        self.parties = [
            _Party(name, cohort, recipe, scope, device) for name, cohort in cohorts.items()
        ]
        self.shares = normalised({name: len(cohort) for name, cohort in cohorts.items()})
        self.average = copy.deepcopy(self.parties[0].generator).requires_grad_(False).eval()
        self.round_weight = sum(networks_weight(recipe, scope))
        self.facts = RunFacts(
            secrets.token_hex(16), __version__, recipe.digest(), "fedgan", torch=torch.__version__,
            generator_version=GENERATOR_VERSION, precision=precision,
        )  # fmt: skip
        if stored := to_resume(folder.checkpoints):
            with taking_up():
                self._load(*stored)
        vars(self.facts).update(scope.to_plain())
        self.facts.sites = {
            name: {
                "cases": len(cohort),
                "share": round(self.shares[name], 6),
                "modalities": list(cohort.modalities),
            }
            for name, cohort in cohorts.items()
        }
        self.begun = time.monotonic() - self.facts.seconds

    def to_the_end(self, watch: Callable[[int, int], None]) -> None:
        """Runs rounds until all steps are done."""
        training, facts = self.recipe.training, self.facts
        self.folder.forget_metrics_after(facts.steps)
        while facts.steps < training.steps:
            self._record(self._round(min(facts.steps + self.local_steps, training.steps)))
            if facts.steps % training.checkpoint_every < self.local_steps:
                self._store()
            watch(facts.steps, training.steps)
        facts.state = "finished"
        facts.generator_sha256 = self.folder.write_generator(self.average, facts)
        self.folder.write_facts(facts)

    def _round(self, stop: int) -> dict[str, dict[str, float]]:
        """Takes local steps up to `stop`, then averages; returns the losses of the last step."""
        steps = range(self.facts.steps, stop)
        losses: dict[str, dict[str, float]] = {}
        for number in steps:
            losses = {party.name: party.step(number) for party in self.parties}
        shares = list(self.shares.values())
        average_weights([party.generator for party in self.parties], shares)
        average_weights([party.objective.discriminator for party in self.parties], shares)
        # Decays the moving average as if every step had produced the result of the round.
        decay = math.prod(average_decay(self.recipe, step) for step in steps)
        follow(self.average, self.parties[0].generator, decay)
        self.facts.steps = stop
        return losses

    def _record(self, losses: Mapping[str, Mapping[str, float]]) -> None:
        facts = self.facts
        facts.seconds = round(time.monotonic() - self.begun, 1)
        moved = math.ceil(facts.steps / self.local_steps) * self.round_weight
        facts.left_sites = {name: {"weights": moved} for name in self.shares}
        facts.came_to_sites = facts.left_sites
        record = {
            "step": facts.steps, "seconds": facts.seconds, "updated": True,
            "shares": self.shares, "losses": losses, "sent": moved * len(self.shares),
            "received": moved * len(self.shares), "news": [],
        }  # fmt: skip
        append(self.folder.metrics_file, f"{json.dumps(record)}\n".encode())

    def _store(self) -> None:
        tensors = network_state("average", self.average)
        for party in self.parties:
            tensors |= party.state()
        about = {"step": self.facts.steps, "seconds": self.facts.seconds}
        write(step_file(self.folder.checkpoints, self.facts.steps), tensors, about)
        forget_old(self.folder.checkpoints)
        self.folder.write_facts(self.facts)

    def _load(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        load_network("average", self.average, tensors)
        for party in self.parties:
            party.load(tensors)
        if self.folder.facts_file.exists():
            self.facts = self.folder.facts()
        # Taken from the checkpoint: the stored facts may be of another step.
        self.facts.steps, self.facts.seconds = count_in(about, "step"), about["seconds"]


def _common_scope(cohorts: Mapping[str, Cohort]) -> Scope:
    name, first = next(iter(cohorts.items()))
    for other, cohort in cohorts.items():
        if set(cohort.modalities) != set(first.modalities) or cohort.labels != first.labels:
            raise CohortError(
                f"FedGAN averages discriminators, but sites {name} and {other} hold different "
                "modalities or labels. Leave one of them out, or give both the same."
            )
    return Scope(first.modalities, first.labels, first.space)
