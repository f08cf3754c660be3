"""Federated baselines: what the same networks reach when sites average weights instead.

FedAvg is McMahan et al. 2017 (algorithm 1); FedGAN is Rasouli et al. 2020 (algorithm 1) with the
networks, losses and images seen of our own recipe. Both keep each site's optimiser at the site.
"""

import copy
import json
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor, nn

from asyndgan import __version__
from asyndgan.data import Case, Cohort, derived_seed
from asyndgan.engines import SiteSetup, load_cohort
from asyndgan.errors import RunError
from asyndgan.evaluation.segmentation import SegmentationBudget, SegmentationTraining
from asyndgan.models import build_discriminator, condition_channels, site_noise
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.training import Scope, new_generator
from asyndgan.training.checkpoint import (
    forget_old,
    load_network,
    load_optimiser,
    network_state,
    optimiser_state,
    read,
    seeded,
    step_file,
    stored_steps,
    write,
)
from asyndgan.training.objective import (
    Objective,
    adam,
    average_decay,
    follow,
    rate_factor,
    set_rate,
)
from asyndgan.training.painting import Painting
from asyndgan.training.quorum import normalised

LOCAL_STEPS: Final = 20
"""Updates at each site between two averagings."""


def average_weights(networks: Sequence[nn.Module], shares: Sequence[float]) -> None:
    """Gives every network the share-weighted mean of all.

    Args:
        networks: of one architecture.
        shares: that sum to one, in the same order.
    """
    states = [network.state_dict() for network in networks]
    with torch.no_grad():
        for key, first in states[0].items():
            if first.is_floating_point():
                parts = [share * state[key] for share, state in zip(shares, states, strict=True)]
                mean = torch.stack(parts).sum(0)
            else:
                mean = first.clone()  # counters, which a network of another package may have
            for state in states:
                state[key].copy_(mean)


def train_fedavg(
    sites: Mapping[str, Sequence[Case]],
    *,
    classes: int,
    budget: SegmentationBudget,
    seed: int,
    on_progress: Callable[[int, float], None] | None = None,
    device: str = "cpu",
) -> nn.Module:
    """One segmentation network that all sites train together by averaging its weights.

    Every site does all steps of the budget, so the network sees as many images as there are sites
    times more than a model that is trained in one place.

    Args:
        sites: real cases of each site; its share is their number.
        classes: labels, background included.
        budget: of each site.
        seed: of the weights, which all sites begin with, and of each site's draws.
        on_progress: called after every step with the steps done and the mean loss of the sites.
        device: where to train.

    Returns:
        The network, in evaluation mode.

    Raises:
        DataError: as `SegmentationTraining`.
        NotFiniteError: as `SegmentationTraining.step`.
    """
    trainings = [
        SegmentationTraining(
            cases,
            classes=classes,
            budget=budget,
            seed=seed,
            draws_seed=derived_seed(seed, "fedavg", name),
            device=device,
        )
        for name, cases in sites.items()
    ]
    shares = list(normalised({name: len(cases) for name, cases in sites.items()}).values())
    for done in range(1, budget.steps + 1):
        losses = [training.step() for training in trainings]
        if done % LOCAL_STEPS == 0 or done == budget.steps:
            average_weights([training.model for training in trainings], shares)
        if on_progress:
            on_progress(done, sum(losses) / len(losses))
    return trainings[0].model.eval()


def weight(network: nn.Module) -> int:
    """Bytes of a network in float32, as it would travel."""
    return 4 * sum(tensor.numel() for tensor in network.state_dict().values())


def networks_weight(recipe: Recipe, scope: Scope) -> tuple[int, int]:
    """Bytes of a recipe's generator and of the discriminator of a site that holds everything."""
    with torch.device("meta"):
        discriminator = build_discriminator(
            recipe,
            condition_channels=condition_channels(recipe.condition.kind, max(scope.labels) + 1),
            image_channels=len(scope.modalities),
            spatial_dims=len(scope.space),
        )
        return weight(new_generator(recipe, scope)), weight(discriminator)


@final
class _Party:
    """A site of FedGAN: both networks live there, and its images stay."""

    def __init__(self, name: str, cohort: Cohort, recipe: Recipe, scope: Scope) -> None:
        self.name = name
        self.cohort = cohort
        self.recipe = recipe
        self.scope = scope
        self.channels = [scope.modalities.index(held) for held in cohort.modalities]
        seed = recipe.training.seed
        with seeded(derived_seed(seed, "generator")):
            self.generator = new_generator(recipe, scope)
        self.optimiser = adam(self.generator, recipe.optimiser, recipe.optimiser.generator_rate)
        self.objective = Objective(
            recipe,
            modalities=len(cohort.modalities),
            labels=max(scope.labels) + 1,
            space=scope.space,
            seed=derived_seed(seed, "fedgan"),  # all sites begin with the same discriminator
        )

    def step(self, number: int) -> dict[str, float]:
        """One update of the local discriminator, then one of the local generator."""
        training = self.recipe.training
        real = self.cohort.batch(number, training.batch)
        other = self.cohort.other(number, training.batch)
        seed = derived_seed(training.seed, "fedgan noise", self.name, number)
        noise = site_noise(
            self.recipe,
            [self.name] * training.batch,
            self.scope.space,
            torch.Generator().manual_seed(seed),
        )
        painting = Painting(
            self.generator,
            self.objective.maps(real.conditions),
            noise,
            chunk=training.chunk,
            precision=training.precision,
        )
        synthetic = painting.images[:, self.channels]
        self.objective.begin_step(number)
        losses = self.objective.learn(real, synthetic)
        synthetic.requires_grad_()
        loss, terms = self.objective.ask(synthetic, real, other)
        (gradient,) = torch.autograd.grad(loss, synthetic)
        feedback = torch.zeros_like(painting.images)
        feedback[:, self.channels] = gradient
        painting.backward(feedback)
        set_rate(
            self.optimiser,
            self.recipe.optimiser.generator_rate * rate_factor(self.recipe, number),
        )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return {name: float(value) for name, value in (losses | terms).items()}

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


def train_fedgan(
    recipe: Recipe,
    sites: Mapping[str, Path],
    out: Path,
    *,
    local_steps: int = LOCAL_STEPS,
    watch: Callable[[int, int], None] | None = None,
) -> RunFolder:
    """Trains one generator by averaging local generators and discriminators.

    The same networks, losses, rates, moving average and images seen as `train` with this recipe.
    A stand-in, if the recipe has one, stays at its site as it does there. An interrupted training
    goes on from its newest checkpoint.

    Args:
        recipe: of the run.
        sites: folder of each site's data by name. All must hold the same modalities, since
            discriminators of different shapes cannot be averaged.
        out: run folder; `generate` and `evaluate` take it like any other.
        local_steps: updates between two averagings.
        watch: called after every round with the steps done and all steps.

    Raises:
        DataError, CohortError: a folder cannot be read or does not fit the recipe.
        RunError: another training is at work in `out`, or sites have discriminators of their own.
    """
    if recipe.site_discriminators:
        raise RunError(
            "FedGAN averages discriminators, so all sites must have the same; leave "
            "site_discriminators out."
        )
    folder = RunFolder(out)
    if not folder.facts_file.exists():
        folder = RunFolder.create(out, recipe)
    elif folder.facts().state == "finished":
        return folder
    with folder.held():
        return _fedgan(folder, sites, local_steps, watch)


def _fedgan(
    folder: RunFolder,
    sites: Mapping[str, Path],
    local_steps: int,
    watch: Callable[[int, int], None] | None,
) -> RunFolder:
    recipe = folder.recipe()
    cohorts = {
        name: load_cohort(SiteSetup(name, data, folder.site_state(name)), recipe)
        for name, data in sorted(sites.items())
    }
    first = next(iter(cohorts.values()))
    scope = Scope(first.modalities, first.labels, first.space)
    parties = [_Party(name, cohort, recipe, scope) for name, cohort in cohorts.items()]
    shares = normalised({name: len(cohort) for name, cohort in cohorts.items()})
    average = copy.deepcopy(parties[0].generator).requires_grad_(False).eval()
    kept = stored_steps(folder.checkpoints)
    if kept:
        tensors, _ = read(step_file(folder.checkpoints, kept[-1]))
        load_network("average", average, tensors)
        for party in parties:
            party.load(tensors)
        facts = folder.facts()
    else:
        facts = RunFacts(secrets.token_hex(16), __version__, recipe.digest(), "fedgan")
    folder.forget_metrics_from(facts.steps)
    begun = time.monotonic() - facts.seconds
    weights = [party.generator for party in parties], [p.objective.discriminator for p in parties]
    traffic = sum(networks_weight(recipe, scope))
    while facts.steps < recipe.training.steps:
        stop = min(facts.steps + local_steps, recipe.training.steps)
        losses: dict[str, dict[str, float]] = {}
        for number in range(facts.steps, stop):
            losses = {party.name: party.step(number) for party in parties}
        for networks in weights:
            average_weights(networks, list(shares.values()))
        # As if the round's outcome had been there at every step.
        decay = math.prod(average_decay(recipe, step) for step in range(facts.steps, stop))
        follow(average, parties[0].generator, decay)
        facts.steps, facts.seconds = stop, round(time.monotonic() - begun, 1)
        rounds = -(-stop // local_steps)
        facts.left_sites = {name: {"weights": rounds * traffic} for name in shares}
        facts.came_to_sites = facts.left_sites
        with folder.metrics_file.open("a", encoding="utf-8") as metrics:
            record = {
                "step": stop - 1, "seconds": facts.seconds, "updated": True, "shares": shares,
                "losses": losses, "sent": rounds * traffic * len(shares),
                "received": rounds * traffic * len(shares), "news": [],
            }  # fmt: skip
            metrics.write(json.dumps(record) + "\n")
        if stop % recipe.training.checkpoint_every < local_steps:
            _store(folder, parties, average, facts)
        if watch:
            watch(stop, recipe.training.steps)
    vars(facts).update(scope.to_plain(), state="finished")
    facts.sites = {
        name: {
            "cases": len(cohort),
            "share": round(shares[name], 6),
            "modalities": list(cohort.modalities),
        }
        for name, cohort in cohorts.items()
    }
    facts.generator_sha256 = folder.write_generator(average, facts)
    folder.write_facts(facts)
    return folder


def _store(
    folder: RunFolder, parties: Sequence[_Party], average: nn.Module, facts: RunFacts
) -> None:
    tensors = network_state("average", average)
    for party in parties:
        tensors |= party.state()
    write(step_file(folder.checkpoints, facts.steps), tensors, {"step": facts.steps})
    forget_old(folder.checkpoints)
    folder.write_facts(facts)
