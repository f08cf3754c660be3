"""The picture of docs/evidence.md: masks and synthetic images of several data sets.

    python benchmarks/evidence_picture.py OUT.png TITLE=FOLDER ...

Real images are not shown: most of them may not be passed on.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from asyndgan.data import Case
from asyndgan.data.prepare import load_cases
from asyndgan.recipe import ImageSection

CASES = 5
SIDE = 64


def spread(folder: Path) -> list[Case]:
    """A few cases, evenly over those that show the highest label at all well."""
    cases = load_cases(folder, ImageSection(size=SIDE))
    highest = max(int(case.mask.max()) for case in cases)
    shown = [case for case in cases if int((case.mask == highest).sum()) > SIDE]
    return [shown[(2 * row + 1) * len(shown) // (2 * CASES)] for row in range(CASES)]


def main() -> None:
    """Draws one row a data set and channel, one column a case."""
    out, *named = sys.argv[1:]
    sets = [(title, spread(Path(folder))) for title, _, folder in (a.partition("=") for a in named)]
    rows = [
        (title, channel, cases) for title, cases in sets for channel in (None, *cases[0].modalities)
    ]
    figure, panels = plt.subplots(
        len(rows), CASES, figsize=(1.5 * CASES + 1.1, 1.5 * len(rows)), squeeze=False, dpi=100
    )
    for (title, channel, cases), line in zip(rows, panels, strict=True):
        for case, panel in zip(cases, line, strict=True):
            if channel is None:
                panel.imshow(case.mask, cmap="magma", vmin=0, interpolation="nearest")
            else:
                shade = case.image[case.modalities.index(channel)]
                panel.imshow(shade, cmap="gray", vmin=-1, vmax=1, interpolation="bicubic")
            panel.set_xticks([])
            panel.set_yticks([])
        line[0].set_ylabel(f"{title}\n{channel or 'mask'}", fontsize=9)
    figure.tight_layout(pad=0.4)
    figure.savefig(out)


if __name__ == "__main__":
    main()
