"""How much the masks of generators of masks look like the patients'.

    python -m lab.experiments.mask_shapes RUN ... --site FOLDER ...

The KID is of masks drawn in fixed colours, so it sees shapes and places as in images. Beside it
stand, of each label, the part of the masks that have it, its mean area in pixels and number of
pieces there, and the part of these that touch the edge.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy import ndimage
from torch import Tensor

from asyndgan.intake.dataset import DataSet
from asyndgan.runs import RunFolder
from asyndgan.runs.learned import painted_masks
from lab.experiments.common import markdown
from lab.kid import features, kid, thousandths

COLOURS = torch.tensor([[0, 0, 0], [90, 100, 140], [60, 200, 230], [250, 170, 40], [255, 0, 0]])


def drawn(masks: Tensor) -> Tensor:
    """Label maps (n, rows, columns) as pictures (n, 3, rows, columns) in [-1, 1]."""
    return (COLOURS[masks].movedim(-1, 1) / 127.5 - 1).contiguous()


def shapes(masks: Tensor, label: int) -> list[str]:
    """Of one label: part of the masks with it, area, pieces, and part that touches the edge."""
    places = masks == label
    own = places[places.flatten(1).any(1)]
    if not len(own):
        return ["0.00", "-", "-", "-"]
    edges = torch.cat([own[:, [0, -1]].flatten(1), own[:, :, [0, -1]].flatten(1)], 1).any(1)
    pieces = [ndimage.label(one)[1] for one in own.numpy()]
    return [
        f"{len(own) / len(masks):.2f}", f"{own.sum() / len(own):.0f}",
        f"{sum(pieces) / len(pieces):.1f}", f"{edges.float().mean():.2f}",
    ]  # fmt: skip


def table(runs: Sequence[RunFolder], sites: Sequence[Path]) -> str:
    """A row of the patients' masks, halved at random for the KID, and one of each run's."""
    image, scope = runs[0].recipe().image, runs[0].facts().scope
    real = torch.stack([mask for site in sites for _, mask in DataSet(site).masks(image)]).long()
    mixed = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    known = features(drawn(real))
    sets = {run.path.name: DataSet(painted_masks(run)).masks(image) for run in runs}
    painted = {
        name: torch.stack([mask for _, mask in masks]).long() for name, masks in sets.items()
    }
    distances = [
        kid(known[mixed[::2]], known[mixed[1::2]]),
        *(kid(known, features(drawn(masks))) for masks in painted.values()),
    ]
    every = {"patients": real, **painted}.items()
    labels = {number: name for number, name in scope.labels.items() if number}
    rows = [
        [name, thousandths(apart), *(cell for one in labels for cell in shapes(masks, one))]
        for (name, masks), apart in zip(every, distances, strict=True)
    ]
    kinds = ("masks with it", "pixels", "pieces", "at the edge")
    return markdown(
        ["masks", "KID x 1000", *(f"{name}: {kind}" for name in labels.values() for kind in kinds)],
        rows,
    )


def main() -> None:
    """Prints the table of finished runs of masks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--site", type=Path, action="append", required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(table([RunFolder(path) for path in asked.runs], asked.site))


if __name__ == "__main__":
    main()
