"""The segmentation network used to compare real and synthetic training sets."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Generator, nn

from asyndgan.arrays import Images, Masks
from asyndgan.errors import DataError, NotFiniteError
from asyndgan.models.budgets import SegmentationBudget
from asyndgan.models.segmenters import build_segmenter, check_size
from asyndgan.models.sizes import at_once
from asyndgan.recipe import Recipe
from asyndgan.store.augmentation import Moves, moved
from asyndgan.store.colours import Colours, recoloured
from asyndgan.store.prepared import Case
from asyndgan.training.checkpoint import seeded

CERTAIN = 50.0  # Logit of a label whose probability shall be 1, or 0 if negative

TRAINING_VERSION = 2
"""Part of every cache key; to be raised when a change here, in `fedavg` or in `moves` changes what
is trained."""


def budget_for(recipe: Recipe, budget: SegmentationBudget) -> SegmentationBudget:
    """The same budget, mirroring and leaving out unlabelled pixels only if the recipe does.

    A quarter as many whole volumes make a step: each has many slices.
    """
    flips = budget.flips if recipe.training.flip else ()
    batch = math.ceil(budget.batch / 4) if recipe.image.whole else budget.batch
    return replace(budget, flips=flips, batch=batch, unlabelled=recipe.masks.unlabelled)


@final
class SegmentationTraining:
    """A segmentation network (`model`: images [b, c, *space] to logits [b, classes, *space]).

    Cases have one size and one set of modalities, images in [-1, 1], masks labels below `classes`;
    else `DataError`. `draws_seed` is of the order of cases and the augmentation, for trainings that
    start from the same weights.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        *,
        classes: int,
        budget: SegmentationBudget,
        seed: int,
        draws_seed: int | None = None,
        device: str = "cpu",
    ) -> None:
        from monai.losses import DiceCELoss  # slow to import

        _check(cases, classes)
        channels, *space = cases[0].image.shape
        with seeded(seed):
            self.model = build_segmenter(
                channels, classes, network=budget.network, width=budget.width, space=tuple(space)
            )
        self.model.to(device)
        self.cases = cases
        self.budget = budget
        self.device = device
        self.done = 0
        self._generator = Generator().manual_seed(seed if draws_seed is None else draws_seed)
        self._draws = _draws(len(cases), budget, self._generator)
        self._loss_of = DiceCELoss(
            to_onehot_y=True, softmax=True, include_background=False, batch=True
        )
        self._optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=budget.rate, weight_decay=budget.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, _cosine(budget.steps))

    def step(self) -> float:
        """Performs one update and returns the loss; raises `NotFiniteError` if it is not finite."""
        drawn = [self.cases[index] for index in next(self._draws)]
        images = torch.stack([case.image for case in drawn]).to(self.device)
        masks = torch.stack([case.mask for case in drawn]).to(self.device)
        images, masks = augment(images, masks, self.budget, self._generator)
        logits = self.model(images)
        if self.budget.unlabelled:
            # A certain 0 there, which has no gradient and takes no part in the other labels' terms.
            certain = torch.full_like(logits, -CERTAIN)
            certain[:, 0] = CERTAIN
            logits = torch.where(masks[:, None] == 0, certain, logits)
        loss = self._loss_of(logits, masks[:, None])
        self.done += 1
        if not math.isfinite(loss.item()):
            raise NotFiniteError(
                f"the segmentation network's loss is {loss.item()} at step {self.done} of "
                f"{self.budget.steps}; check the training images or lower the rate "
                f"({self.budget.rate:g})."
            )
        self._optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self._optimiser.step()
        self._schedule.step()
        return float(loss.item())


def train_segmenter(
    cases: Sequence[Case],
    *,
    classes: int,
    budget: SegmentationBudget,
    seed: int,
    on_progress: Callable[[int, float], None] | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Trains a network, in evaluation mode at the end; deterministic for a seed on one thread.

    `on_progress` is called with the steps done and the loss. See `SegmentationTraining`.
    """
    training = SegmentationTraining(cases, classes=classes, budget=budget, seed=seed, device=device)
    while training.done < budget.steps:
        loss = training.step()
        if on_progress:
            on_progress(training.done, loss)
    return training.model.eval()


@torch.no_grad()
def predict(model: nn.Module, images: Images) -> Masks:
    """The most probable label of every pixel, int64, on the images' device."""
    device = next(model.parameters()).device
    chunks = images.split(at_once(images.shape[2:]))
    return torch.cat([model(chunk.to(device)).max(1).indices.to(images.device) for chunk in chunks])


def augment(
    images: Images, masks: Masks, budget: SegmentationBudget, generator: Generator
) -> tuple[Images, Masks]:
    """Randomly mirrors, rotates, zooms, shifts and recolours each image of a batch.

    Labels move along by nearest neighbour. Pixels from outside the original image are -1 (before
    recolouring), with label 0. The generator is on the CPU.
    """
    how = Moves(budget.flips, budget.rotation, budget.zoom, budget.translation)
    images, masks = moved(images, masks, how, generator)
    colours = Colours(budget.intensity, budget.gamma, budget.noise)
    return recoloured(images, colours, generator), masks


def _check(cases: Sequence[Case], classes: int) -> None:
    if not cases:
        raise DataError("there are no cases to train a segmentation network on.")
    first = cases[0]
    check_size(first.image.shape[1:], f"cases such as {first.name}")
    for case in cases:
        if case.image.shape != first.image.shape or case.modalities != first.modalities:
            raise DataError(
                f"cases {first.name} and {case.name} differ in size or modalities; prepare all "
                "cases by one recipe."
            )
        if int(case.mask.min()) < 0 or int(case.mask.max()) >= classes:
            raise DataError(
                f"case {case.name} has label {int(case.mask.max())}; labels go from 0 to "
                f"{classes - 1}. Name it in dataset.json or remap it."
            )


def _cosine(steps: int) -> Callable[[int], float]:
    warm_up = max(1, steps // 20)

    def factor(step: int) -> float:
        return min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / steps)))

    return factor


def _draws(cases: int, budget: SegmentationBudget, generator: Generator) -> Iterator[list[int]]:
    """Endless batches of indices: all cases in a random order, then again in another order."""
    waiting: list[int] = []
    while True:
        while len(waiting) < budget.batch:
            waiting += torch.randperm(cases, generator=generator).tolist()
        yield waiting[: budget.batch]
        del waiting[: budget.batch]
