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

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Image, Images, Mask
from asyndgan.errors import NotFiniteError
from asyndgan.models.budgets import TranslationBudget
from asyndgan.models.segmenters import build_segmenter
from asyndgan.models.sizes import at_once
from asyndgan.painting.synthesise import synthesise
from asyndgan.runs import RunFolder
from asyndgan.store import Case, derived_seed
from asyndgan.store.augmentation import Moves, mirrored, moved
from asyndgan.store.colours import Colours, recoloured
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
    """A prepared case that lacks modalities."""

    case: Case  # its absent channels are -1
    masked: bool  # whether its mask is known; an unknown mask is all 0


MOVES: Final = Moves(flips=(-1,), rotation=20.0, zoom=0.2, translation=0.08)
"""Moves of images with their masks in training."""

COLOURS: Final = Colours(intensity=0.1, gamma=0.2, noise=0.03)
"""Intensity augmentation of the input images only, since real images differ from painted ones."""


FEWEST: Final = 100
"""Pixels from which a label has a regression of its own; fewer are fitted too closely."""


@final
@dataclass(frozen=True, eq=False)
class Regression:
    """Predicts a pixel's modalities from the others by least squares, separately for each label."""

    # second moments of the modalities and a constant 1, over each label's pixels, (labels, channels
    # + 1, channels + 1) in float64: all that any such regression is fitted to
    moments: Tensor

    @classmethod
    def of(cls, complete: Sequence[Case], labels: int) -> "Regression":
        """Fits to cases with all modalities, whose masks have values below `labels`."""
        channels = len(complete[0].image)
        moments = torch.zeros(labels, channels + 1, channels + 1, dtype=torch.float64)
        for case in complete:
            pixels = F.pad(case.image.flatten(1).T.double(), (0, 1), value=1.0)
            place = case.mask.flatten()
            for label in place.unique().tolist():
                own = pixels[place == label]
                moments[label] += own.T @ own
        return cls(moments)

    def predicted(self, case: Case, *, masked: bool) -> Image:
        """Predicts all modalities [c, *sides] of a case from those that it has.

        If the mask is not known, and where its label was hardly ever seen, one regression serves
        all pixels.
        """
        weights = self._weights(case.present)
        place = case.mask if masked else torch.full_like(case.mask, len(self.moments))
        place = place.clamp(max=len(self.moments))
        pixels = F.pad(case.image.movedim(0, -1).double(), (0, 1), value=1.0)
        found = torch.einsum("...k,...kc->c...", pixels, weights[place])
        return found.clamp(IMAGE_LOW, IMAGE_HIGH).to(case.image)

    def _weights(self, present: tuple[bool, ...]) -> Tensor:
        """Weights of each label's regression, and of all pixels' as the last."""
        shown = torch.tensor([*present, True], dtype=torch.float64)
        together = self.moments.sum(0)
        seen = self.moments[:, -1, -1].ge(FEWEST)[:, None, None]
        moments = torch.cat([torch.where(seen, self.moments, together), together[None]])
        inputs = moments * shown[:, None] * shown  # what is absent has no weight
        return torch.linalg.pinv(inputs, hermitian=True) @ (moments * shown[:, None])[..., :-1]


@final
class Translator(nn.Module):
    """Predicts missing modalities from the present ones and the mask.

    `regression` is fitted to the cases that the network learns from, and `width` are the filters of
    the U-Net's first level. `space` are rows and columns, of volumes slices before them.
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

        Images (b, c, *space), where absent channels are ignored; booleans (b, c), which channels
        are present; masks (b, *space) of labels; booleans (b,), which masks are known.
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

    `patterns` are those of present modalities to train for, one boolean per modality. `labels` is
    the number of the masks' labels, background included. The translator is in evaluation mode.
    Raises `NotFiniteError` if the loss became infinite or NaN.
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
    """Completes cases: images of all modalities, the acquired ones unchanged.

    `regressed` is the part of the regression in the result, 0 to 1; the rest is the network's.
    """
    device = next(translator.parameters()).device
    found: list[Image] = []
    batch = at_once(cases[0].case.mask.shape) if cases else 1
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        images = torch.stack([each.case.image for each in part]).to(device)
        present = torch.tensor([each.case.present for each in part], device=device)
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
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
) -> Translator:
    """Trains a translator for these cases on images that a run's generator paints from masks.

    Looks are drawn by the sites' shares. Where some sites have every modality, only theirs: of an
    image whose channels come from several looks, nothing is learned about how one modality follows
    from the others. Of the cases only the patterns of present modalities are used. Raises
    `NotFiniteError` as `train_translator`, to which the other arguments go.
    """
    facts, looks = run.facts(), list[str]()
    if run.recipe().generator.style and 0 < len(facts.whole) < len(facts.teachers):
        random = torch.Generator().manual_seed(derived_seed(seed, "looks"))
        looks = facts.drawn_sites(len(masks), random, facts.whole)
    apart = [(str(number), mask) for number, (_, mask) in enumerate(masks)]  # slices of no volume
    complete = list(synthesise(run, apart, draws=budget.images, seed=seed, move=True, looks=looks))
    return train_translator(
        complete, sorted({each.case.present for each in cases}),
        labels=max(facts.scope.labels) + 1, budget=budget,
        moves=replace(MOVES, flips=mirrored(run.recipe())), seed=seed, device=device,
        on_progress=on_progress,
    )  # fmt: skip


def filled(case: Case, painted: Image) -> Image:
    """A case's image with its absent modalities taken from `painted`."""
    there = torch.tensor(case.present).reshape(-1, *[1] * case.mask.ndim)
    return torch.where(there, case.image, painted)
