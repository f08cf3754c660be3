"""Training images without a generator: random contrasts, painted from masks alone.

Source: Billot et al. 2023 ("SynthSeg", Medical Image Analysis 86); the ranges of means, deviations
and bias are the defaults of its code. Masks of few labels say little of the background, so it is
divided into smooth parts, like the shapes of Hoffmann et al. 2022 ("SynthMorph", IEEE TMI 41).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Generator, Tensor

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Images, Mask, Masks
from asyndgan.export.writing import write_dataset, written_whole
from asyndgan.intake.dataset import DataSet
from asyndgan.painting.sets import MOVED, OF_SITES
from asyndgan.painting.synthesise import PAINTING_VERSION, masks_digest, shown
from asyndgan.painting.writing import Storage
from asyndgan.recipe import Recipe
from asyndgan.store import Case, derived_seed

CONTRASTS_VERSION: Final = 1
"""To be raised when a change alters what is painted from the same masks and seeds."""

PARTS: Final = 6  # of the background, at most
COARSE: Final = 4  # points on each axis at which smooth fields are drawn

# Ends of what is drawn for each image. Intensities run from 0 to 1.
MEANS: Final = (25 / 255, 225 / 255)
DEVIATIONS: Final = (5 / 255, 25 / 255)
BIAS: Final = (0.0, 0.5)  # standard deviation of a bias field's logarithm
BLUR: Final = (0.0, 1.0)  # standard deviation in pixels
NOISE: Final = (0.0, 0.05)  # standard deviation


def contrast_set(
    masks: Sequence[tuple[str, Mask]],
    recipe: Recipe,
    out: Path,
    *,
    modalities: Sequence[str],
    labels: Mapping[str, int],
    seed: int,
) -> DataSet:
    """Paints a set of random contrasts from masks, or reuses the one that was painted before.

    It has the masks that `painted_once` paints from, moved alike.

    Args:
        masks: names and label maps [*space] on the recipe's grid.
        recipe: says whether masks are mirrored.
        out: folder of sets; this one's is named after the seed and all that it depends on.
        modalities: channels of the images.
        labels: value of each label by name.
        seed: seed of the contrasts; the masks are moved alike whatever it is.
    """
    about = {
        "masks": OF_SITES, "masks_sha256": masks_digest(masks), "moved": MOVED, "seed": seed,
        "contrasts_version": CONTRASTS_VERSION, "painting_version": PAINTING_VERSION,
    }  # fmt: skip
    named = [about, list(modalities), dict(labels), recipe.training.flip]
    key = hashlib.sha256(json.dumps(named).encode()).hexdigest()
    data = DataSet(out / f"{seed}-{key[:16]}")
    if not (data.folder / "dataset.json").exists():
        stored, cases = Storage.plain(recipe.image), contrasted(masks, recipe, modalities, seed)
        with written_whole(data.folder) as half:
            write_dataset(
                half, map(stored.raw, cases), file_ending=stored.ending,
                modalities=modalities, labels=labels, name="random contrasts of masks",
                extra={"synthetic": True, "provenance": about},
            )  # fmt: skip
    return data


def contrasted(
    masks: Sequence[tuple[str, Mask]], recipe: Recipe, modalities: Sequence[str], seed: int
) -> Iterator[Case]:
    """The cases of `contrast_set`: one of each mask, and `MOVED` of it moved."""
    random = Generator().manual_seed(derived_seed(seed, "contrasts"))
    still, others = shown(masks, recipe), shown(masks, recipe, draws=MOVED, move=True, seed=1)
    for _, names, conditions in chain(still, others):
        images = random_contrasts(conditions, len(modalities), random)
        for name, image, mask in zip(names, images, conditions, strict=True):
            yield Case.drawn(name, image, mask, tuple(modalities))


def random_contrasts(masks: Masks, channels: int, random: Generator) -> Images:
    """Paints an image of each label map [b, *space], all channels of the same regions.

    Returns:
        Images (b, channels, *space) in [-1, 1].
    """
    batch, *space = masks.shape
    alike = [1] * len(space)
    mode = "bicubic" if len(space) == 2 else "trilinear"

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, *shape, generator=random)

    def smooth(fields: int) -> Tensor:
        drawn = torch.randn(batch, fields, *[COARSE] * len(space), generator=random)
        return F.interpolate(drawn, size=space, mode=mode, align_corners=True)

    regions = torch.where(masks == 0, _parts(smooth(PARTS), random), masks + PARTS - 1)
    of_pixels = regions.flatten(1)[:, None].expand(-1, channels, -1)
    count = int(regions.max()) + 1
    means, deviations = (
        uniform(*ends, channels, count).gather(2, of_pixels).unflatten(2, space)
        for ends in (MEANS, DEVIATIONS)
    )
    images = means + deviations * torch.randn(means.shape, generator=random)
    blurred = [
        torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, *[width] * len(space))))
        for image, width in zip(images, uniform(*BLUR).tolist(), strict=True)
    ]
    images = torch.stack(blurred) * torch.exp(uniform(*BIAS, channels, *alike) * smooth(channels))
    images += uniform(*NOISE, channels, *alike) * torch.randn(images.shape, generator=random)
    return IMAGE_LOW + (IMAGE_HIGH - IMAGE_LOW) * images.clamp(0, 1)


def _parts(fields: Tensor, random: Generator) -> Tensor:
    """Number of the highest field at each pixel, among as many as are drawn for each image."""
    alike = [1] * (fields.ndim - 2)
    most = torch.randint(1, fields.shape[1] + 1, (len(fields), 1, *alike), generator=random)
    beyond = torch.arange(fields.shape[1]).view(1, -1, *alike) >= most
    return fields.masked_fill(beyond, -torch.inf).argmax(1)
