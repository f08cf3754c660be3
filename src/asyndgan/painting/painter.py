"""A finished run's generator as a torch module, and its images as a torch data set."""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from operator import index
from typing import Any, SupportsIndex, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from asyndgan.arrays import Images, Mask, Masks
from asyndgan.errors import RunError
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.store import derived_seed
from asyndgan.training.scope import SHARED_LOOK, generator_inputs

Transform = Callable[[dict[str, Tensor]], Any]

Looks = dict[int, list[str]]
"""Looks that some channels of images are painted in, by channel; one for each image."""


@final
class Painter(nn.Module):
    """Paints images from label maps by the averaged generator of a finished run.

    Raises `RunError` if the run has not finished, or its generator's file was changed.
    """

    def __init__(self, run: RunFolder) -> None:
        super().__init__()
        # `asyndgan.training.scope.generator_inputs` makes what the network takes
        self.recipe, self.facts, self.network = run.recipe(), run.facts(), run.generator()

    def forward(
        self, masks: Masks, look: str | None = None, random: torch.Generator | None = None
    ) -> Images:
        """Paints an image from each mask.

        Args:
            masks: label maps (n, *space) or (n, 1, *space) of whole numbers, of the run's size and
                with its labels.
            look: site in whose look to paint; None: drawn for each image by the sites' shares.
            random: draws looks and noise; None: torch's own random state does.

        Returns:
            Images (n, c, *space) in [-1, 1], on the network's device.

        Raises:
            RunError: there is no such look, or the masks are others.
        """
        masks = label_maps(masks, tuple(self.facts.space), self.facts.scope.labels)
        check_labels_of(masks, self.facts.scope.labels)
        if look is not None:
            check_look(self.recipe, self.facts, look)
        if random is None:
            random = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        if not self.recipe.generator.style:
            return self.paint(masks, [SHARED_LOOK] * len(masks), {}, random)
        looks = [self.facts.look_of(look)] * len(masks) if look else []
        looks = looks or drawn_looks(self.facts, len(masks), random)
        others = looks_of_holders(self.facts, looks, random)
        return self.paint(masks, looks, others, random)

    def paint(
        self, masks: Masks, looks: Sequence[str], others: Looks, random: torch.Generator
    ) -> Images:
        """Paints images in these looks, and some channels in others, all with the same noise."""
        noise = random.get_state()
        images = self._once(masks, looks, random)
        for channel, other in others.items():
            random.set_state(noise)
            images[:, channel] = self._once(masks, other, random)[:, channel]
        return images

    def _once(self, masks: Masks, looks: Sequence[str], random: torch.Generator) -> Images:
        device = next(self.network.parameters()).device
        scope = self.facts.scope
        inputs = generator_inputs(self.recipe, scope, masks, looks, random, device)
        images: Images = self.network(*inputs)
        return images


@final
class PaintedSet(Dataset[Any]):
    """Images of label maps, each painted when it is asked for; the same at every time.

    An item is `{"image": float32 (c, *space) in [-1, 1], "label": int64 (1, *space)}`, as MONAI's
    dictionary transforms take it.

    Args:
        painter: paints.
        masks: int64 label maps (n, *space).
        draws: images of each mask, each with other noise.
        seed: seed of the noise and the looks.
        transform: applied to each item.
    """

    def __init__(
        self,
        painter: Painter,
        masks: Masks,
        *,
        draws: int = 1,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        self.painter = painter
        self.masks = masks
        self.draws = draws
        self.seed = seed
        self.transform = transform

    def __len__(self) -> int:
        return self.draws * len(self.masks)

    def __getitem__(self, place: SupportsIndex) -> Any:
        """The image at a place from 0 to the length, exclusively; raises `IndexError` beyond."""
        number = index(place)  # some samplers give a tensor
        if not 0 <= number < len(self):
            raise IndexError(f"{number} is no place among {len(self)} images.")
        mask = self.masks[number % len(self.masks)]
        random = torch.Generator().manual_seed(derived_seed(self.seed, "dataset", number))
        image = self.painter(mask[None], random=random)[0].cpu()
        item = {"image": image, "label": mask[None]}
        return self.transform(item) if self.transform else item


def check_look(recipe: Recipe, facts: RunFacts, look: str) -> None:
    """Refuses a look that a generator was not taught, which it would paint all the same."""
    if look not in facts.teachers:
        raise RunError(
            f"{look} is no site that this run learned from; those are {', '.join(facts.teachers)}."
        )
    if not recipe.generator.style:
        raise RunError(
            "this run's generator has no looks to choose from (generator.style is 0); leave the "
            "look out."
        )


def drawn_looks(facts: RunFacts, count: int, random: torch.Generator) -> list[str]:
    """Draws the look that each image gets, by the sites' shares."""
    return [facts.look_of(site) for site in facts.drawn_sites(count, random)]


def looks_of_holders(facts: RunFacts, looks: Sequence[str], random: torch.Generator) -> Looks:
    """Looks to paint channels in that no site of an image's own look holds, by channel.

    All that one look lacks comes from another one, if any has it all.
    """
    held = facts.judged_in()
    others: Looks = {}
    for place, look in enumerate(looks):
        own = held.get(look, set(facts.scope.modalities))  # of a site that never came
        lacking = [name for name in facts.scope.modalities if name not in own]
        if not lacking:
            continue
        drawn = dict.fromkeys(drawn_looks(facts, 8 * len(facts.sites), random) + sorted(held))
        by_use = sorted(drawn, key=lambda other: -len(held[other] & set(lacking)))
        for name in lacking:
            holder = next((other for other in by_use if name in held[other]), look)
            channel = facts.scope.modalities.index(name)
            others.setdefault(channel, list(looks))[place] = holder
    return others


def label_maps(
    mask: npt.ArrayLike | Tensor, size: tuple[int, ...], labels: Collection[int]
) -> Masks:
    """Masks (n, *size) in int64, of a single one, of a stack, or of one with a channel each.

    Raises `RunError` if they have another shape, other than whole numbers, or a channel for each of
    the run's labels.
    """
    given: Any = mask
    if not isinstance(mask, Tensor):
        with suppress(ValueError, TypeError):  # rows of several lengths, texts
            array = np.asarray(mask)
            if array.dtype.kind in "biuf":
                whole = array.dtype.kind != "f"
                given = torch.from_numpy(array.astype(np.int64 if whole else np.float64))
    if isinstance(given, Tensor) and given.ndim == len(size) + 2 and given.shape[1] == 1:
        given = given[:, 0]
    shape = tuple(getattr(given, "shape", ()))
    whole = isinstance(given, Tensor) and not given.is_complex()
    if whole and given.is_floating_point():
        whole = torch.equal(given, given.round())
    fits = len(shape) - len(size) in (0, 1) and shape[-len(size) :] == size
    if not whole or not fits or 0 in shape:
        held = getattr(mask, "dtype", type(mask).__name__)
        found = f"has shape {shape} and holds {held}" if shape else f"is no array ({held})"
        if fits and isinstance(given, Tensor) and not whole:
            found = "holds numbers that are not whole, so no labels"
        raise RunError(
            f"the mask {found}. This run paints from whole numbers in arrays of {size}, or "
            f"(n, {', '.join(map(str, size))}) for n masks. A file has to be read first."
        )
    maps = given.to(torch.device("cpu"), torch.int64)
    stacked = np.ndim(mask) == len(size) + 1 and len(maps) == len({0, *labels}) > 1
    if stacked and (maps >= 0).all() and (maps.sum(0) == 1).all():
        raise RunError(
            f"the mask has a channel for each of {len(maps)} labels (one-hot). Give the labels: "
            "mask.argmax(0)."
        )
    return maps.reshape(-1, *size)


def check_labels_of(masks: Iterable[Mask], labels: Collection[int]) -> None:
    """Raises `RunError` if masks hold a label that is neither 0 nor among `labels`."""
    known = torch.tensor(sorted({0, *labels}))  # 0 need not be named
    for mask in masks:
        strange = ~torch.isin(mask, known)
        if strange.any():
            found = ", ".join(map(str, mask[strange].unique().tolist()))
            raise RunError(
                f"the masks hold label {found}; this generator knows "
                f"{', '.join(map(str, known.tolist()))}. Remap them."
            )
