"""How a site trains its discriminator, and the loss that it asks synthetic images to lower."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from asyndgan.arrays import CPU, Condition, Images, Masks, Scalar, WindowCondition
from asyndgan.models import Sizes, Verdict
from asyndgan.models.discriminators import CrossFitted, labels_in
from asyndgan.models.losses import balanced_cross_entropy, cross_entropy_by_label
from asyndgan.models.parts import (
    arithmetic,
    build_adversarial_loss,
    build_discriminator,
    condition_channels,
    condition_maps,
)
from asyndgan.models.shifts import disturbed
from asyndgan.privacy.chance import shuffled
from asyndgan.recipe import Recipe
from asyndgan.store import Batch, derived_seed
from asyndgan.training.checkpoint import (
    load_network,
    load_optimiser,
    network_state,
    optimiser_state,
    seeded,
)
from asyndgan.training.optimiser import adam, rate_factor, set_rate, update
from asyndgan.training.private import PrivateDiscriminator

Losses = dict[str, Tensor]

PENALISED: Final = 4  # Steps between two gradient penalties, each as large as all of these (lazy)
NEWEST: Final = 0.05  # weight of a new batch in the running mean of `_OnReal`


@final
class Objective:
    """A site's discriminator, how it learns, and what it asks of synthetic images.

    Args:
        recipe: names networks, losses and rates.
        modalities: number of modalities that the site holds.
        labels: number of labels or classes of its conditions, background included.
        space: height and width (and depth) of its images.
        seed: of the initial weights, which are drawn on the CPU so that devices agree.
        device: of the networks and of the batches that they are given.
        secret: of this start's augmentation; initial weights are shuffled unpredictably then, as a
            party that can compute a first step could recognise its images. None: all follows from
            the seed.
        known: labels of the site's own cases; the segmentation term ignores others. None: all.
        by_half: labels that each half of its patients has, (2, labels) booleans; for cross-fitted
            discriminators. None: all.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        modalities: int,
        labels: int,
        space: tuple[int, ...],
        seed: int,
        device: torch.device = CPU,
        secret: str | None = None,
        known: Iterable[int] | None = None,
        by_half: Tensor | None = None,
    ) -> None:
        self.recipe = recipe
        self.labels = labels
        self.counted = frozenset(range(1 if recipe.masks.unlabelled else 0, labels))
        self.known = self.counted if known is None else self.counted.intersection(known)
        self.space = space
        self.seed = seed if secret is None else derived_seed(seed, secret)
        self.adversarial = build_adversarial_loss(recipe)
        # No method: what holds it would keep this object, and its networks, from being freed when a
        # run is begun anew.
        self.maps = partial(condition_maps, kind=recipe.condition.kind, labels=labels, space=space)
        channels = condition_channels(recipe.condition.kind, labels)
        sizes = Sizes(channels, modalities, len(space))
        with seeded(derived_seed(seed, "discriminator")):
            self.discriminator = build_discriminator(recipe, sizes).to(device)
        if isinstance(self.discriminator, CrossFitted):
            self.discriminator.taught = by_half
        rate = recipe.optimiser.discriminator_rate
        self.discriminator_optimiser = adam(self.discriminator, rate)
        self.on_real = _OnReal(channels if recipe.loss.as_real else 0).to(device)
        if secret is not None:
            with torch.no_grad():
                for weights in self.discriminator.parameters():
                    weights.copy_(shuffled(weights))
        self.private = PrivateDiscriminator(self.discriminator, self.adversarial, recipe, self.maps)
        self.begin_step(0)

    def learn(self, real: Batch, synthetic: Batch) -> Losses:
        """One update of the discriminator, from real cases and as many synthetic ones."""
        real, synthetic = _as_complete_as(real), _as_complete_as(synthetic)
        seen, painted = self.maps(real.conditions), self.maps(synthetic.conditions)
        halves = self._halves(real)
        mismatched, other = torch.zeros(0, dtype=torch.long, device=seen.device), seen
        if self.recipe.loss.mismatch:  # real images that are told another one's mask
            other = seen[_next_in_half(halves, len(seen))]
            mismatched = torch.nonzero((other != seen).flatten(1).any(1)).flatten()
        if halves is not None:  # as many synthetic images for a network as real ones
            halves = torch.cat([halves, halves, halves[mismatched]])
        # One pass over all is faster, and no network here mixes the images of a batch.
        said, maps = self.judged(
            torch.cat([real.images, synthetic.images, real.images[mismatched]]),
            torch.cat([seen, painted, other[mismatched]]),
            halves=halves,
        )
        loss = self.lesson(said, maps, len(seen))
        if self.recipe.loss.gradient_penalty and self.step % PENALISED == 0:
            loss = loss + PENALISED * self.penalty(real, seen)
        update(self.discriminator_optimiser, loss)
        return {"discriminator": loss.detach()}

    def penalty(self, real: Batch, seen: Condition) -> Scalar:
        """The weighted mean squared length of realness' gradient with respect to real images.

        Source: R1 of Mescheder et al. 2018 ("Which Training Methods for GANs do actually
        Converge?", equation 9). Realness is the mean of an image's logits.
        """
        images = real.images.detach().requires_grad_()
        said, _ = self.judged(images, seen, halves=self._halves(real))
        if said.score is None:
            return real.images.new_zeros(())
        realness = said.score.flatten(1).mean(1).sum()
        (slope,) = torch.autograd.grad(realness, images, create_graph=True)
        return 0.5 * self.recipe.loss.gradient_penalty * slope.square().flatten(1).sum(1).mean()

    def _halves(self, batch: Batch) -> Tensor | None:
        return batch.halves if self.recipe.discriminator.cross_fitted else None

    def learn_privately(self, real: Batch, synthetic: Batch) -> Losses:
        """One differentially private update; see `PrivateDiscriminator.learn`."""
        loss = self.private.learn(self.discriminator_optimiser, real, synthetic)
        return {"discriminator_synthetic": loss}

    def ask(self, synthetic: Batch, real: Batch | None = None) -> tuple[Scalar, Losses]:
        """The loss whose gradient with respect to the synthetic images is the site's feedback.

        `real` is None under differential privacy, where no term uses the site's images. Returns the
        loss, and its terms before weighting, by name.
        """
        weight = self.recipe.loss.paired_l1
        # A modality that a case lacks is not judged, so its feedback is zero.
        images = synthetic.blanked(synthetic.images)
        verdict, maps = self.judged(images, self.maps(synthetic.conditions), self.shown)
        terms = self.wanted(verdict, maps)
        if weight and real:
            terms.append(("paired_l1", weight, (images - real.images).abs().mean()))
        loss = torch.stack([weight * value for _, weight, value in terms]).sum()
        return loss, {name: value.detach() for name, _, value in terms}

    def judged(
        self,
        images: Images,
        maps: Condition,
        random: torch.Generator | None = None,
        weights: Mapping[str, Tensor] | None = None,
        halves: Tensor | None = None,
    ) -> tuple[Verdict, WindowCondition]:
        """The discriminator's verdict on disturbed images, and the maps that lie on these.

        `random` is of the disturbance (None: that of images for learning), `weights` judge in place
        of its own, and `halves` of a cross-fitted one judge one image each (None: both judge all).
        """
        kinds = self.recipe.discriminator.augment
        images, maps = disturbed(images, maps, kinds, random or self.random)
        shown = (images, maps) if halves is None else (images, maps, halves)
        with arithmetic(self.recipe.training.precision, images.device):
            verdict: Verdict = (
                self.discriminator(*shown)
                if weights is None
                else functional_call(self.discriminator, dict(weights), shown)
            )
        return verdict.float(), maps

    def lesson(self, said: Verdict, maps: Condition, count: int) -> Scalar:
        """The loss that the discriminator lowers.

        It has `said` its verdict on `count` real images, on as many synthetic ones, and on any
        number of real ones that were told another case's mask (Reed et al. 2016, algorithm 1).
        `maps` lie on these images, as `judged` returns them.
        """
        real, synthetic = said.of(slice(count)), said.of(slice(count, 2 * count))
        mismatched = said.of(slice(2 * count, None))
        terms: list[Tensor] = []
        if real.score is not None and synthetic.score is not None:
            both = self.adversarial.real(real.score) + self.adversarial.synthetic(synthetic.score)
            terms.append(0.5 * both)
        if mismatched.score is not None and len(mismatched.score):
            refused = self.adversarial.synthetic(mismatched.score)
            terms.append(0.5 * self.recipe.loss.mismatch * refused)
        if self.recipe.loss.segmentation and real.segmentation is not None:
            fits = balanced_cross_entropy(real.segmentation, labels_in(maps[:count]), self.counted)
            terms.append(self.recipe.loss.segmentation * fits)
            if self.recipe.loss.as_real:
                self.on_real.take(real.segmentation.detach(), labels_in(maps[:count]))
        return torch.stack(terms).sum()

    def wanted(self, verdict: Verdict, maps: Condition) -> list[tuple[str, float, Scalar]]:
        """What the discriminator asks of synthetic images: name, weight and value of each term."""
        weights = self.recipe.loss
        terms: list[tuple[str, float, Scalar]] = []
        if verdict.score is not None:
            score = self.adversarial.generator(verdict.score)
            terms.append(("adversarial", weights.adversarial_weight, score))
        if weights.segmentation and verdict.segmentation is not None:
            if weights.as_real:
                fits = self.on_real.beyond(verdict.segmentation, labels_in(maps), self.known)
            else:
                fits = balanced_cross_entropy(verdict.segmentation, labels_in(maps), self.known)
            terms.append(("segmentation", weights.segmentation, fits))
        return terms

    def begin_step(self, step: int) -> None:
        """Sets the learning rates of a step and the random generators of its augmentation.

        Feedback shows how its images were shifted, which may reveal the 32 bits that torch takes of
        a seed. Images for learning are therefore augmented from a seed of their own.
        """
        self.random, self.shown = (
            torch.Generator().manual_seed(derived_seed(self.seed, purpose, step))
            for purpose in ("augmentation", "augmentation of what is asked")
        )
        self.step = step
        factor = rate_factor(self.recipe, step)
        set_rate(self.discriminator_optimiser, self.recipe.optimiser.discriminator_rate * factor)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that a checkpoint needs."""
        tensors = network_state("discriminator", self.discriminator)
        tensors |= network_state("on_real", self.on_real)
        return tensors | optimiser_state("discriminator_optimiser", self.discriminator_optimiser)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `state` returned."""
        load_network("discriminator", self.discriminator, tensors)
        load_network("on_real", self.on_real, tensors)
        load_optimiser("discriminator_optimiser", self.discriminator_optimiser, tensors)


@final
class _OnReal(torch.nn.Module):
    """How easily labels are found in real images: a running mean of each one's cross-entropy."""

    usual: Tensor

    def __init__(self, labels: int) -> None:
        super().__init__()
        if labels:
            self.register_buffer("usual", torch.full((labels,), torch.inf))

    def take(self, logits: Tensor, masks: Masks) -> None:
        """Counts another batch of real images; a label's first one is taken as it is."""
        each, there = cross_entropy_by_label(logits, masks)
        mean = torch.where(self.usual.isinf(), each, self.usual.lerp(each, NEWEST))
        self.usual = torch.where(there, mean, self.usual)

    def beyond(self, logits: Tensor, masks: Masks, known: Collection[int]) -> Scalar:
        """What the labels' mean cross-entropies exceed the usual ones by, mean over labels."""
        each, there = cross_entropy_by_label(logits, masks, known)
        excess = torch.where(there, F.relu(each - self.usual), 0.0)
        return excess.sum() / there.sum().clamp(min=1)


def _next_in_half(halves: Tensor | None, count: int) -> Tensor:
    """Of each case the place of the next one of its half of the patients; perhaps its own."""
    places = torch.arange(count)
    if halves is None:
        return places.roll(1)
    for half in halves.unique():
        own = torch.nonzero(halves == half).flatten().cpu()
        places[own] = own.roll(1)
    return places


def _as_complete_as(batch: Batch) -> Batch:
    """The batch with the modalities that a case lacks blanked in its image."""
    return replace(batch, images=batch.blanked(batch.images))
