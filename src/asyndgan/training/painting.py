"""The synthetic images of one step, and backpropagation of their feedback to the generator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndgan.arrays import Condition, Images, Noise
from asyndgan.models.parts import arithmetic, site_noise
from asyndgan.recipe import Recipe

COARSE: Final = 4  # pixels along a side that are averaged: grain is no difference


@final
@dataclass(frozen=True)
class Diversity:
    """What asks two images of one condition to differ (mode seeking).

    Source: Mao et al. 2019 (Mode Seeking GANs), equation 2, without the distance of the codes, a
    constant. With a bound, two images that differ enough are asked for no more: else some
    generators paint white corners.
    """

    noise: Noise  # of the other image of each condition, of the first one's shape
    weight: float  # of the term, a mean over the images
    bound: float = 0.0  # distance of two images from which on they differ enough; 0: none

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        looks: Sequence[str],
        inputs: tuple[Condition, Noise],
        random: torch.Generator,
    ) -> "Diversity | None":
        """What a recipe asks of images in these looks; None: nothing. `random` draws the noise."""
        if not recipe.generator.diversity:
            return None
        noise = site_noise(recipe, looks, tuple(inputs[1].shape[2:]), random)
        section = recipe.generator
        return cls(noise.to(inputs[1].device), section.diversity, section.diversity_bound)


@final
class Painting:
    """Paints a batch and carries feedback back into the generator's gradients.

    A batch above `chunk` images is painted without a graph, and each chunk again from the same
    noise: 1.3 times the compute, but memory does not grow with the number of sites. Gradients are
    the same, since the generator's norms act on one image at a time. `images` (b, modalities,
    *space) are detached.
    """

    def __init__(
        self,
        generator: nn.Module,
        condition: Condition,
        noise: Noise,
        *,
        chunk: int,
        precision: str,
        diversity: Diversity | None = None,
    ) -> None:
        self.generator = generator
        self.precision = precision
        self.diversity = diversity
        self._chunks = list(zip(condition.split(chunk), noise.split(chunk), strict=True))
        self._graph: Tensor | None = None
        if len(self._chunks) == 1:
            self._graph = self._paint(condition, noise)
            self.images: Images = self._graph.detach()
        else:
            with torch.no_grad():
                self.images = torch.cat([self._paint(maps, z) for maps, z in self._chunks])

    def backward(self, feedback: Tensor) -> None:
        """Adds gradients of `sum(images * feedback)`, and of the diversity, to the parameters."""
        size = len(self._chunks[0][0])
        drawn = self.diversity.noise.split(size) if self.diversity else [None] * len(self._chunks)
        for (maps, z), other, part in zip(self._chunks, drawn, feedback.split(size), strict=True):
            images = self._paint(maps, z) if self._graph is None else self._graph
            loss = (images * part).sum()
            if self.diversity and other is not None:
                others = self._paint(maps, other)
                alike = sameness(images, others, self.diversity.bound).sum() / len(feedback)
                loss = loss + self.diversity.weight * alike
            # Not by `autograd.backward`: its check of the shape imports sympy, a second of a start.
            loss.backward()

    def _paint(self, condition: Condition, noise: Noise) -> Images:
        with arithmetic(self.precision, condition.device):
            images: Tensor = self.generator(condition, noise)
        return images.float()


def sameness(images: Images, others: Images, bound: float = 0.0) -> Tensor:
    """How alike two images of one condition are, (b,).

    Minus the logarithm of their distance or, with a bound, from 1 (equal) to 0 (as far or farther).
    """
    pool = F.avg_pool2d if images.ndim == 4 else F.avg_pool3d
    far = pool(images - others, COARSE).abs().flatten(1).mean(1)
    return F.relu(1 - far / bound) if bound else -far.clamp(min=1e-4).log()
