"""The synthetic images of one step, and backpropagation of their feedback to the generator."""

from typing import final

import torch
from torch import Tensor, nn

from asyndgan.arrays import Condition, Images, Noise
from asyndgan.models import arithmetic


@final
class Painting:
    """Paints a batch and carries feedback back into the generator's gradients.

    A batch of at most `chunk` images keeps its autograd graph. A larger one is painted without a
    graph, and each chunk is painted again from the same noise for its feedback: this takes about
    1.3 times the compute, but memory does not grow with the number of sites. Both give the same
    gradients, since the generator's norms act on one image at a time.

    Attributes:
        images: (b, modalities, *space), detached.
    """

    def __init__(
        self,
        generator: nn.Module,
        condition: Condition,
        noise: Noise,
        *,
        chunk: int,
        precision: str,
    ) -> None:
        self.generator = generator
        self.precision = precision
        self._chunks = list(zip(condition.split(chunk), noise.split(chunk), strict=True))
        self._graph: Tensor | None = None
        if len(self._chunks) == 1:
            self._graph = self._paint(condition, noise)
            self.images: Images = self._graph.detach()
        else:
            with torch.no_grad():
                self.images = torch.cat([self._paint(maps, z) for maps, z in self._chunks])

    def backward(self, feedback: Tensor) -> None:
        """Adds the gradient of `sum(images * feedback)` to the generator's parameters.

        Args:
            feedback: of the images' shape.
        """
        # Not by `autograd.backward`: its check of the shape imports sympy, a second of each start.
        if self._graph is not None:
            (self._graph * feedback).sum().backward()
            return
        size = len(self._chunks[0][0])
        for (maps, z), part in zip(self._chunks, feedback.split(size), strict=True):
            (self._paint(maps, z) * part).sum().backward()

    def _paint(self, condition: Condition, noise: Noise) -> Images:
        with arithmetic(self.precision, condition.device):
            images: Tensor = self.generator(condition, noise)
        return images.float()
