"""Pictures of painted and of completed cases."""

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW
from asyndgan.store.prepared import Case

INK = "#22303c"
FAINT = "#b8c1c9"
SYNTHETIC_COLOUR = "#d1495b"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": FAINT,
    "svg.hashsalt": "asyndgan",
}


def plot_paintings(cases: Sequence[Case], label: int | None, *, title: str) -> bytes:
    """Masks and the images of their cases, one column per case, as PNG.

    Args:
        cases: synthetic or completed cases; up to six are shown, evenly spaced among those with a
            large region of the label. Channels that a case itself lacks are framed.
        label: value of the label; None: any.
        title: title of the figure.
    """
    shown = [cases[place] for place in well_shown(cases, label)]
    count = len(shown)
    highest = max(1, *(int(case.mask.max()) for case in shown))
    modalities = shown[0].modalities
    with rc_context(STYLE):
        size = (1.3 * count + 0.4, 1.3 * (1 + len(modalities)) + 0.4)
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, fontsize=10)
        grid = figure.subplots(1 + len(modalities), count, squeeze=False)
        bare(grid)
        for column, case in zip(grid.T, shown, strict=True):
            place = int(region(slices(case.mask), label).flatten(1).sum(1).argmax())
            column[0].imshow(slices(case.mask)[place].numpy(), cmap="magma", vmin=0, vmax=highest)
            for panel, channel, present in zip(column[1:], case.image, case.present, strict=True):
                picture = slices(channel)[place].numpy()
                panel.imshow(picture, cmap="gray", vmin=IMAGE_LOW, vmax=IMAGE_HIGH)
                if not present:
                    panel.spines[:].set(visible=True, color=SYNTHETIC_COLOUR, linewidth=2.5)
        for line, name in zip(grid, ["mask", *modalities], strict=True):
            line[0].set_ylabel(name)
        return as_png(figure)


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def well_shown(cases: Sequence[Case], label: int | None) -> list[int]:
    """Indices of up to six cases, evenly spaced among the two thirds with most of a label."""
    areas = [int(region(case.mask, label).sum()) for case in cases]
    well = sorted(areas)[len(areas) // 3]
    places = [place for place, area in enumerate(areas) if area >= well]
    count = min(6, len(places))
    return [places[(2 * n + 1) * len(places) // (2 * count)] for n in range(count)]


def bare(grid: np.ndarray) -> None:
    """Removes ticks and frames from all panels."""
    for panel in grid.flat:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)


def region(mask: Tensor, label: int | None) -> Tensor:
    """Where a mask has a label, or any label if None."""
    return mask > 0 if label is None else mask == label


def flat(case: Case) -> Case:
    """A picture as it is; of a whole volume three planes side by side, where most labels are."""
    if case.mask.ndim == 2:
        return case
    labelled, tallest = case.mask > 0, max(case.mask.shape)
    masks, images = [], []
    for axis in range(3):
        place = int(labelled.movedim(axis, 0).flatten(1).sum(1).argmax())
        mask, image = case.mask.select(axis, place), case.image.select(axis + 1, place)
        below = (0, 0, 0, tallest - len(mask))
        masks.append(F.pad(mask, below))
        images.append(F.pad(image, below, value=IMAGE_LOW))
    return replace(case, image=torch.cat(images, -1), mask=torch.cat(masks, -1))


def film(case: Case) -> Case:
    """A picture as it is; of a whole volume all slices side by side."""
    image, mask = (
        part.movedim(-3, -2).flatten(-2) if case.mask.ndim == 3 else part
        for part in (case.image, case.mask)
    )
    return replace(case, image=image, mask=mask)


def slices(array: Tensor) -> Tensor:
    """An image or a volume (..., rows, columns) as slices (n, rows, columns)."""
    return array.reshape(-1, *array.shape[-2:])
