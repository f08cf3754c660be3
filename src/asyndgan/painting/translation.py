"""Translation of the modalities that a case has into those that it lacks.

A network and a linear regression learn it on complete cases that the central generator painted;
both are then applied to the patient's real images, and their mean is taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndgan.arrays import IMAGE_LOW, Image, Images, Mask
from asyndgan.errors import NotFiniteError
from asyndgan.models.segmenters import build_segmenter
from asyndgan.models.sizes import at_once
from asyndgan.painting.budget import TranslationBudget
from asyndgan.painting.looks import looks_of
from asyndgan.painting.regression import Regression
from asyndgan.painting.synthesise import synthesise
from asyndgan.runs import RunFolder
from asyndgan.store import Case, derived_seed
from asyndgan.store.colours import Colours, recoloured
from asyndgan.store.moves import Moves, mirrored, moved
from asyndgan.training.checkpoint import seeded

TRANSLATION_VERSION: Final = 3
"""Part of the name of kept completions; to be raised when the same inputs give other images."""

REGRESSED: Final = 0.5
"""Weight of the linear regression in a translator's result, chosen on validation patients.

A network learns how painted images differ from real ones as well; a regression has hardly any
parameters for that (docs/experiments.md, "Missing modalities").
"""


@final
@dataclass(frozen=True)
class Incomplete:
    """A prepared case that lacks modalities.

    Attributes:
        case: the case; its absent channels are -1.
        masked: whether its mask is known; an unknown mask is all 0.
    """

    case: Case
    masked: bool


MOVES: Final = Moves(flips=(-1,), rotation=20.0, zoom=0.2, translation=0.08)
"""Moves of images with their masks in training."""

COLOURS: Final = Colours(intensity=0.1, gamma=0.2, noise=0.03)
"""Intensity augmentation of the input images only, since real images differ from painted ones."""


@final
class Translator(nn.Module):
    """Predicts missing modalities from the present ones and the mask.

    Args:
        regression: fitted to the cases that the network learns from.
        channels: number of all modalities.
        labels: number of labels of the masks, background included.
        width: filters of the U-Net's first level.
        space: rows and columns, of volumes slices before them.
    """

    def __init__(
        self,
        regression: Regression,
        *,
        channels: int,
        labels: int,
        width: int,
        space: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.regression = regression
        self.labels = labels
        inputs = 2 * channels + labels
        self.network = build_segmenter(inputs, channels, width=width, space=space)
        # The network's norms remove an image's brightness; this bypass keeps it.
        self.direct = (nn.Conv2d if len(space) == 2 else nn.Conv3d)(inputs, channels, 1)

    def forward(self, images: Images, present: Tensor, masks: Tensor, masked: Tensor) -> Images:
        """The network's part: all modalities; the outputs of present ones are to be ignored.

        Args:
            images: (b, c, *space); absent channels are ignored.
            present: (b, c) booleans: which channels are present.
            masks: (b, *space) labels.
            masked: (b,) booleans: which masks are known.
        """
        space = [1] * (images.ndim - 2)
        there = present.reshape(*present.shape, *space)
        known = masked.reshape(-1, 1, *space)
        maps = F.one_hot(masks, self.labels).movedim(-1, 1) * known
        shown = torch.where(there, images, IMAGE_LOW)
        flags = there.expand_as(images)
        inputs = torch.cat([shown, flags, maps], dim=1).float()
        return torch.tanh(self.network(inputs) + self.direct(inputs))


def train_translator(
    complete: Sequence[Case],
    patterns: Sequence[Sequence[bool]],
    *,
    labels: int,
    budget: TranslationBudget,
    moves: Moves = MOVES,
    seed: int = 0,
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
) -> Translator:
    """Trains a translator on complete synthetic cases.

    Args:
        complete: cases with all modalities.
        patterns: patterns of present modalities to train for, one boolean per modality.
        labels: number of labels of the masks, background included.
        budget: steps, rates and width.
        moves: how images are moved with their masks.
        seed: seed of weights and draws.
        device: device to train on.
        on_progress: called after every step with the steps done.

    Returns:
        The translator, in evaluation mode.

    Raises:
        NotFiniteError: the loss became infinite or NaN.
    """
    channels, *space = complete[0].image.shape
    seed = derived_seed(seed, "translator")
    regression = Regression.of(complete, labels)
    with seeded(seed):
        translator = Translator(
            regression, channels=channels, labels=labels, width=budget.width, space=tuple(space)
        )
    translator.to(device)
    random = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(translator.parameters(), lr=budget.rate)
    half = budget.steps / 2
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (budget.steps - step) / half)
    )
    there = torch.tensor([list(pattern) for pattern in patterns])
    for step in range(budget.steps):
        places = torch.randint(len(complete), (budget.batch,), generator=random).tolist()
        images = torch.stack([complete[place].image for place in places]).to(device)
        masks = torch.stack([complete[place].mask for place in places]).to(device)
        target, masks = moved(images, masks, moves, random)
        shown = recoloured(target, COLOURS, random)
        present = there[torch.randint(len(there), (budget.batch,), generator=random)].to(device)
        masked = (torch.rand(budget.batch, generator=random) >= budget.unmasked).to(device)
        painted = translator(shown, present, masks, masked)
        gap = (painted - target).abs().mean((2, 3))
        loss = gap[~present].mean()
        if not torch.isfinite(loss):
            raise NotFiniteError(f"the translator's loss is {loss.item()} at step {step + 1}.")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if on_progress:
            on_progress(step + 1)
    return translator.eval()


@torch.no_grad()
def translated(
    translator: Translator, cases: Sequence[Incomplete], *, regressed: float = REGRESSED
) -> list[Image]:
    """Completes cases by translation: images of all modalities, the acquired ones unchanged.

    Args:
        translator: network and regression.
        cases: cases with absent modalities, which are completed.
        regressed: part of the regression in the result, 0 to 1; the rest is the network's.
    """
    device = next(translator.parameters()).device
    found: list[Image] = []
    batch = at_once(cases[0].case.mask.shape) if cases else 1
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        images = torch.stack([each.case.image for each in part]).to(device)
        present = torch.stack([present_in(each.case) for each in part]).to(device)
        masks = torch.stack([each.case.mask for each in part]).to(device)
        masked = torch.tensor([each.masked for each in part], device=device)
        painted = translator(images, present, masks, masked).cpu()
        for each, own in zip(part, painted, strict=True):
            linear = translator.regression.predicted(each.case, masked=each.masked)
            found.append(filled(each.case, own.lerp(linear, regressed)))
    return found


def translator_of(
    run: RunFolder,
    cases: Sequence[Incomplete],
    masks: Sequence[tuple[str, Mask]],
    *,
    budget: TranslationBudget,
    seed: int = 0,
    look: str | None = None,
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
) -> Translator:
    """Trains a translator for these cases on images that a run's generator paints from masks.

    Args:
        run: a finished run.
        cases: cases to be completed; only their patterns of present modalities are used.
        masks: masks to paint the training images from.
        budget: as for `train_translator`, like `device` and `on_progress`.
        seed: seed of the painting and of the training.
        look: site whose look to paint in; None: looks are drawn by the sites' shares. Where some
            have every modality, only theirs: of an image whose channels come from several looks,
            nothing is learned about how one modality follows from the others.
        device: device to train on.
        on_progress: called after every step with the steps done.

    Raises:
        ValueError: a case has other modalities than the run paints, or in another order.
        NotFiniteError: as in `train_translator`.
    """
    facts = run.facts()
    painted = tuple(facts.scope.modalities)
    if other := [each.case for each in cases if each.case.modalities != painted]:
        raise ValueError(f"{other[0].name} has {other[0].modalities}, the run paints {painted}.")
    looks = [look] * len(masks) if look else []
    if not look and run.recipe().generator.style and 0 < len(facts.whole) < len(facts.teachers):
        names = [name for name, _ in masks]
        looks = looks_of(names, run, seed=seed, among=facts.whole)
    apart = [(str(number), mask) for number, (_, mask) in enumerate(masks)]  # slices of no volume
    complete = list(synthesise(run, apart, draws=budget.images, seed=seed, move=True, looks=looks))
    patterns = sorted({tuple(present_in(each.case).tolist()) for each in cases})
    return train_translator(
        complete,
        patterns,
        labels=max(facts.scope.labels) + 1,
        budget=budget,
        moves=replace(MOVES, flips=mirrored(run.recipe())),
        seed=seed,
        device=device,
        on_progress=on_progress,
    )


def present_in(case: Case) -> Tensor:
    """Which modalities a case has, as (c,) booleans."""
    return torch.tensor(case.present)


def filled(case: Case, painted: Image) -> Image:
    """A case's image with its absent modalities taken from `painted`."""
    there = present_in(case).reshape(-1, *[1] * case.mask.ndim)
    return torch.where(there, case.image, painted)


def without_mask(each: Incomplete) -> Incomplete:
    """The case with its mask removed."""
    nothing = replace(each.case, mask=torch.zeros_like(each.case.mask))
    return Incomplete(nothing, masked=False)
