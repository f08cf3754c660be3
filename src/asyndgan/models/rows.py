"""Networks of records: a record is an image of one channel and one axis, its encoded columns.

`asyndgan.tables.encoding` says what the numbers of a record are. After CTGAN (Xu et al. 2019,
section 4): one-hot columns by the Gumbel-softmax, and conditions by class.
"""

from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndgan.arrays import Condition, Images, Noise
from asyndgan.models.discriminators import Verdict
from asyndgan.models.generators import numbered
from asyndgan.models.sizes import Sizes
from asyndgan.recipe import DiscriminatorSection, GeneratorSection
from asyndgan.recipe.table import TableSection

TEMPERATURE: Final = 0.5  # Of the softmax whose gradient stands for that of a chosen category


@final
class _Block(nn.Module):
    """Two layers with an identity shortcut; the norm acts on one record."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Same shape in and out."""
        return features + self.body(features)


@final
class RowGenerator(nn.Module):
    """Makes records of a class from a latent code.

    Each column is drawn, by the first channel of noise: a number has a mean and a spread, and a
    category is 1 by the Gumbel distribution, with the gradient of the softmax (Jang et al. 2017,
    straight-through). Without a spread, records of two classes differed in digits that
    discriminators do not see and that models trained on them do.

    Of the section it takes `width`, `blocks`, `noise` channels and `latent` numbers.
    """

    def __init__(self, sizes: Sizes, section: GeneratorSection, table: TableSection) -> None:
        super().__init__()
        self.columns = [(column.measured, column.choices) for column in table.columns]
        self.noise = section.noise
        self.start = nn.Linear(sizes.labels + section.code, section.width)
        self.blocks = nn.Sequential(*(_Block(section.width) for _ in range(section.blocks)))
        self.last = nn.Sequential(nn.LayerNorm(section.width), nn.ReLU())
        self.paint = nn.Linear(section.width, table.width)
        self.spread = nn.Linear(section.width, table.width)
        self.reads = {
            "start": numbered(label=sizes.labels, style=section.style, latent=section.latent)
        }
        self.paints: tuple[str, ...] = ()

    def forward(self, condition: Condition, noise: Noise) -> Images:
        """Makes records (b, 1, width) in [-1, 1]."""
        code = torch.cat([condition[:, :, 0], noise[:, self.noise :, 0]], dim=1)
        features = self.last(self.blocks(self.start(code)))
        logits = self.paint(features)
        numbers = torch.tanh(logits + F.softplus(self.spread(features)) * noise[:, 0])
        # Kept from the ends, where the quantile function of the Gumbel distribution is infinite.
        chance = torch.special.ndtr(noise[:, 0]).clamp(1e-6, 1 - 1e-6)
        gumbel = -torch.log(-torch.log(chance))
        parts: list[Tensor] = []
        place = 0
        for measured, choices in self.columns:
            end = place + measured + choices
            value = numbers[:, place : place + measured]
            chosen = _drawn(logits[:, place + measured : end], gumbel[:, place + measured : end])
            if measured and choices:  # a missing value is 0
                value = value * chosen[:, :1]
            parts += [value, 2 * chosen - 1]
            place = end
        return torch.cat(parts, dim=1)[:, None]


def _drawn(logits: Tensor, gumbel: Tensor) -> Tensor:
    """One-hot draws (b, choices), with the gradient of a softmax; empty for no choices."""
    if not logits.shape[1]:
        return logits
    likely = ((logits + gumbel) / TEMPERATURE).softmax(1)
    chosen = F.one_hot(likely.argmax(1), likely.shape[1]).to(likely.dtype)
    return chosen + (likely - likely.detach())


@final
class RowDiscriminator(nn.Module):
    """Judges records, given their class, which also weighs the last features (projection).

    It has no norms; see `DCGANDiscriminator`. Of the section it takes `width` and `layers`.
    """

    def __init__(self, sizes: Sizes, section: DiscriminatorSection, table: TableSection) -> None:
        super().__init__()
        source = table.width + sizes.labels
        layers: list[nn.Module] = []
        for _ in range(section.layers):
            layers += [nn.Linear(source, section.width), nn.LeakyReLU(0.2)]
            source = section.width
        self.body = nn.Sequential(*layers)
        self.judge = nn.Linear(source, 1)
        self.classify = nn.Linear(source, sizes.labels)

    def forward(self, images: Images, condition: Condition) -> Verdict:
        """Judges records: a score each."""
        classes = condition[:, :, 0]
        features = self.body(torch.cat([images[:, 0], classes], dim=1))
        score = self.judge(features) + (self.classify(features) * classes).sum(1, keepdim=True)
        return Verdict(score=score[:, :, None])
