"""The segmentation network that real and synthetic training sets are compared by.

Every row of an evaluation trains the same network for the same number of steps with the same
augmentation; only the training cases differ.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNETR, BasicUNet, SegResNet
from torch import Generator, Tensor, nn

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Images, Masks
from asyndgan.data.case import Case
from asyndgan.data.moves import Moves, moved
from asyndgan.errors import DataError, NotFiniteError
from asyndgan.models.layout import channels_last
from asyndgan.training.checkpoint import seeded

TRAINING_VERSION = 2
"""Part of every cache key: raise it when a change in this file changes what is trained."""

HALVINGS = 4
"""Of the U-Net's resolution; each side of an image must be a multiple of 2 to this power."""


@final
@dataclass(frozen=True)
class SegmentationBudget:
    """What a segmentation network may spend; the defaults suit images of 64 to 128 pixels.

    Attributes:
        network: one of `NETWORKS`.
        steps: updates of the network. The rate follows a cosine down to zero over them.
        batch: images a step.
        rate: highest learning rate of AdamW, reached after a twentieth of the steps.
        weight_decay: of AdamW.
        width: filters of a network's first level.
        flips: spatial axes, counted from the last (-1: left to right), that are mirrored at random.
        rotation: largest angle in degrees, in the plane of rows and columns.
        zoom: largest relative change of size.
        translation: largest shift, as a part of the image's side.
        intensity: largest relative gain, and half the largest shift, of each channel's intensity.
        gamma: largest relative exponent of each channel's intensity.
        noise: largest standard deviation of the noise added.
    """

    network: str = "unet"
    steps: int = 1000
    batch: int = 16
    rate: float = 2e-3
    weight_decay: float = 1e-3
    width: int = 12
    flips: tuple[int, ...] = (-1,)
    rotation: float = 20.0
    zoom: float = 0.2
    translation: float = 0.08
    intensity: float = 0.15
    gamma: float = 0.3
    noise: float = 0.05

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.width) < 1 or self.rate <= 0:
            raise ValueError("steps, batch and width must be 1 or more and rate above 0")
        if self.network not in NETWORKS:
            raise DataError(
                f"there is no segmentation network '{self.network}'; choose one of "
                f"{', '.join(NETWORKS)}."
            )


def build_segmenter(
    channels: int, classes: int, budget: SegmentationBudget, *, space: tuple[int, ...]
) -> nn.Module:
    """One of MONAI's networks, weights drawn from torch's global generator.

    The U-Net upsamples linearly. With transposed convolutions (MONAI's UNet) lesions came out as
    checkerboards after short trainings, at random by seed, and all the more on synthetic images.

    Args:
        channels: modalities of an image.
        classes: labels, background included.
        budget: sets network and width.
        space: rows and columns (and depth) of an image.
    """
    return channels_last(NETWORKS[budget.network](channels, classes, budget.width, space))


def _unet(channels: int, classes: int, width: int, space: tuple[int, ...]) -> nn.Module:
    return BasicUNet(
        spatial_dims=len(space),
        in_channels=channels,
        out_channels=classes,
        features=(width, width, 2 * width, 4 * width, 8 * width, width),
        act=("LeakyReLU", {"negative_slope": 0.1}),
        norm=("instance", {"affine": True}),
        bias=False,  # an instance norm follows every convolution (docs/architecture.md, traps)
        upsample="nontrainable",
    )


def _segresnet(channels: int, classes: int, width: int, space: tuple[int, ...]) -> nn.Module:
    return SegResNet(
        spatial_dims=len(space),
        init_filters=width,
        in_channels=channels,
        out_channels=classes,
        norm="INSTANCE",
    )


def _unetr(channels: int, classes: int, width: int, space: tuple[int, ...]) -> nn.Module:
    return UNETR(
        in_channels=channels,
        out_channels=classes,
        img_size=space,
        feature_size=max(4, 2 * width // 3),
        hidden_size=8 * width,
        mlp_dim=16 * width,
        num_heads=4,
        spatial_dims=len(space),
        norm_name="instance",
    )


Build = Callable[[int, int, int, tuple[int, ...]], nn.Module]
NETWORKS: dict[str, Build] = {"unet": _unet, "segresnet": _segresnet, "unetr": _unetr}
"""Segmentation networks by name: two of convolutions, one with a transformer."""


@final
class SegmentationTraining:
    """A segmentation network and everything that its next update depends on.

    Args:
        cases: training cases of one size and one set of modalities, images in [-1, 1].
        classes: labels, background included; masks hold 0 to `classes - 1`.
        budget: steps, rates, width and augmentation.
        seed: of the weights, the order of the cases and the augmentation.
        draws_seed: of the order of the cases and the augmentation alone, if they differ among
            trainings that begin with the same weights.
        device: where to train.

    Attributes:
        model: the network; images [b, c, *space] to logits [b, classes, *space].
        done: updates so far.

    Raises:
        DataError: there are no cases, they do not fit together, or a mask has an unknown label.
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
        _check(cases, classes)
        channels, *space = cases[0].image.shape
        with seeded(seed):
            self.model = build_segmenter(channels, classes, budget, space=tuple(space))
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
        """One update; returns the loss.

        Raises:
            NotFiniteError: the loss became infinite or not a number.
        """
        drawn = [self.cases[index] for index in next(self._draws)]
        images = torch.stack([case.image for case in drawn]).to(self.device)
        masks = torch.stack([case.mask for case in drawn]).to(self.device)
        images, masks = augment(images, masks, self.budget, self._generator)
        loss = self._loss_of(self.model(images), masks[:, None])
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
    """Trains a segmentation network; the same on every call with one thread and one seed.

    Args:
        cases: as for `SegmentationTraining`, like `classes`, `budget`, `seed` and `device`.
        classes: labels, background included.
        budget: steps, rates, width and augmentation.
        seed: of everything random.
        on_progress: called after every step with the steps done and the loss.
        device: where to train.

    Returns:
        The network, in evaluation mode: images [b, c, *space] to logits [b, classes, *space].

    Raises:
        DataError: there are no cases, they do not fit together, or a mask has an unknown label.
        NotFiniteError: the loss became infinite or not a number.
    """
    training = SegmentationTraining(cases, classes=classes, budget=budget, seed=seed, device=device)
    while training.done < budget.steps:
        loss = training.step()
        if on_progress:
            on_progress(training.done, loss)
    return training.model.eval()


@torch.no_grad()
def predict(model: nn.Module, images: Images, *, batch: int = 32) -> Masks:
    """The most probable label of every pixel.

    Args:
        model: as `train_segmenter` returned it.
        images: in [-1, 1]; any number.
        batch: images at once.

    Returns:
        int64 masks of the images' spatial shape, on the images' device.
    """
    device = next(model.parameters()).device
    chunks = [model(chunk.to(device)).argmax(1).to(images.device) for chunk in images.split(batch)]
    return torch.cat(chunks)


def augment(
    images: Images, masks: Masks, budget: SegmentationBudget, generator: Generator
) -> tuple[Images, Masks]:
    """Mirrors, rotates, zooms, shifts and recolours each image of a batch by its own draw.

    Args:
        images: in [-1, 1].
        masks: int64 labels, moved along with the images by nearest neighbour.
        budget: how far each change may go.
        generator: on the CPU; two equal ones give equal results.

    Returns:
        Images, still in [-1, 1] and -1 where nothing was, and their masks, 0 where nothing was.
    """
    how = Moves(budget.flips, budget.rotation, budget.zoom, budget.translation)
    images, masks = moved(images, masks, how, generator)
    return _recolour(images, budget, generator), masks


def _check(cases: Sequence[Case], classes: int) -> None:
    if not cases:
        raise DataError("there are no cases to train a segmentation network on.")
    first = cases[0]
    side = 2**HALVINGS
    # Twice that at least: an instance norm of a single value has no meaning.
    if any(length % side or length < 2 * side for length in first.image.shape[1:]):
        raise DataError(
            f"case {first.name} measures {tuple(first.image.shape[1:])}; the segmentation network "
            f"needs multiples of {side} from {2 * side}. Change image.size in the recipe."
        )
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
    """Batches of indices, without end: all cases in a random order, then in another."""
    waiting: list[int] = []
    while True:
        while len(waiting) < budget.batch:
            waiting += torch.randperm(cases, generator=generator).tolist()
        yield waiting[: budget.batch]
        del waiting[: budget.batch]


def _recolour(images: Images, budget: SegmentationBudget, generator: Generator) -> Images:
    """Gamma, gain and shift of each channel, then noise; [-1, 1] in and out."""
    shape = (*images.shape[:2], *[1] * (images.ndim - 2))

    def draw(largest: float) -> Tensor:
        drawn = torch.rand(shape, generator=generator) * 2 - 1
        return (drawn * largest).to(images.device)

    scale = IMAGE_HIGH - IMAGE_LOW
    unit = ((images - IMAGE_LOW) / scale).clamp(0, 1)
    unit = unit ** torch.exp(draw(math.log1p(budget.gamma)))
    unit = unit * torch.exp(draw(math.log1p(budget.intensity))) + draw(budget.intensity / 2)
    strength = torch.rand((shape[0], 1, *shape[2:]), generator=generator) * budget.noise
    noise = torch.randn(images.shape, generator=generator) * strength
    return (unit * scale + IMAGE_LOW + noise.to(images.device)).clamp(IMAGE_LOW, IMAGE_HIGH)
