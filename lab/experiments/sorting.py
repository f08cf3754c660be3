"""Can somebody tell synthetic images from real ones by eye? Sheets to be sorted, and their scoring.

    python -m lab.experiments.sorting SUITE MODEL --data DATA --out OUT
    python -m lab.experiments.sorting SUITE MODEL --data DATA --out OUT --answers ANSWERS ...
    python -m lab.experiments.sorting SUITE MODEL --data DATA --out OUT --gallery

With `--moved` real images are turned, scaled and shifted as the discriminators see them, and
synthetic ones are painted from masks moved likewise. Interpolation smooths both.

OUT is that of the suite, whose first generator is looked at. The first command writes, for each
set, `OUT/sorting/SET.png`: 20 real and 20 synthetic images in random order, of different patients,
numbered from 1, and without the answers. The second one scores files with 40 letters each, R for
real and S for synthetic. The third one writes `OUT/sorting/SET-gallery.png`: masks of twelve
patients, their real images, and synthetic ones below. All of them show real patients: do not pass
them on, unless the data's licence allows it.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.stats import binomtest

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW
from asyndgan.painting.pictures import STYLE, as_png, bare, flat
from asyndgan.runs import RunFolder
from asyndgan.store import Case
from lab.diagnosis import moved_alike
from lab.paintings import counterparts
from lab.real import Real
from lab.suite import ModelSection, SetSection, Suite
from lab.trainings import run_folder

EACH, COLUMNS, PATIENTS, SEED = 20, 8, 12, 0


Pair = tuple[Case, Case]
"""A real case, and a synthetic one of its mask."""


Sites = Mapping[str, Sequence[Case]]
"""The real cases of each site."""


def pairs_of(sites: Sites, run: RunFolder, random: np.random.Generator) -> Iterator[Pair]:
    """One pair of each patient with a label, in random order."""
    painted = iter(counterparts(run, sites))
    pairs: dict[str, list[Pair]] = {}
    for site, cases in sites.items():
        for case, counterpart in zip(cases, painted, strict=False):
            if case.mask.any():
                pairs.setdefault(f"{site}/{case.patient}", []).append((case, counterpart))
    for patient in random.permutation(sorted(pairs)):
        yield pairs[patient][random.integers(len(pairs[patient]))]


def chosen(sites: Sites, run: RunFolder) -> tuple[list[Case], list[str]]:
    """Real and synthetic cases of as many patients, one each, and what they are: R or S."""
    random = np.random.default_rng(SEED)
    pairs = list(islice(pairs_of(sites, run, random), 2 * EACH))
    kinds = random.permutation(np.repeat([0, 1], len(pairs) // 2))
    found = [pair[kind] for pair, kind in zip(pairs, kinds, strict=False)]
    return found, ["RS"[kind] for kind in kinds]


def gallery(sites: Sites, run: RunFolder) -> bytes:
    """Masks of some patients, and a real and a synthetic image of each in every modality."""
    drawn = pairs_of(sites, run, np.random.default_rng(SEED))
    pairs = [(flat(real), flat(painted)) for real, painted in islice(drawn, PATIENTS)]
    wide = _proportion(pairs[0][0])
    pairs = pairs[: round(PATIENTS / wide)]
    modalities = pairs[0][0].modalities
    rows = ["mask", *(f"{kind} {name}" for name in modalities for kind in ("real", "synthetic"))]
    highest = max(1, *(int(case.mask.max()) for case, _ in pairs))
    with rc_context(STYLE):
        size = (1.2 * wide * len(pairs) + 0.3, 1.2 * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(rows), len(pairs), squeeze=False)
        bare(grid)
        for column, pair in zip(grid.T, pairs, strict=True):
            column[0].imshow(pair[0].mask.numpy(), cmap="magma", vmin=0, vmax=highest)
            images = [case.image[channel] for channel in range(len(modalities)) for case in pair]
            for panel, image in zip(column[1:], images, strict=True):
                panel.imshow(image.numpy(), cmap="gray", vmin=IMAGE_LOW, vmax=IMAGE_HIGH)
        for line, name in zip(grid, rows, strict=True):
            line[0].set_ylabel(name, fontsize=7)
        return as_png(figure)


def _proportion(plane: Case) -> float:
    """Width of a picture as a multiple of its height."""
    rows, columns = plane.mask.shape
    return columns / rows


def sheet(cases: list[Case]) -> bytes:
    """Numbered pictures of the cases' first modality, in one scale of brightness."""
    cases = [flat(case) for case in cases]
    lines, high = -(-len(cases) // COLUMNS), 1.5 / _proportion(cases[0]) + 0.15
    with rc_context(STYLE):
        figure = Figure(figsize=(1.5 * COLUMNS, high * lines), layout="constrained")
        grid = figure.subplots(lines, COLUMNS, squeeze=False)
        for number, (panel, case) in enumerate(zip(grid.flat, cases, strict=False), 1):
            panel.imshow(case.image[0].numpy(), cmap="gray", vmin=IMAGE_LOW, vmax=IMAGE_HIGH)
            panel.set_title(number, fontsize=9)
        bare(grid)
        return as_png(figure)


def score(answers: Path, truth: list[str]) -> str:
    """The share of right answers, its 95 % interval, and the p-value against chance."""
    given = [letter for letter in answers.read_text().upper() if letter in "RS"]
    right = sum(own == true for own, true in zip(given, truth, strict=True))
    test = binomtest(right, len(truth))
    low, high = test.proportion_ci()
    share = right / len(truth)
    return f"{right} of {len(truth)}: {share:.3f} ({low:.3f} to {high:.3f}), p {test.pvalue:.3f}"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("suite", type=Path)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--answers", type=Path, nargs="+", default=())
    parser.add_argument("--gallery", action="store_true")
    parser.add_argument("--moved", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    suite = Suite.from_toml(given.suite.read_text("utf-8"))
    suite.plan(given.data)
    (model,) = (one for one in suite.models if one.name == given.model)
    for part in suite.sets:
        of_set(suite, part, model, given)


def of_set(suite: Suite, part: SetSection, model: ModelSection, given: argparse.Namespace) -> None:
    """Writes the sheet or the gallery of a set, or scores its answers."""
    run = RunFolder(run_folder(given.out, part, model, 0))
    sites: Sites = Real(suite, part, given.data).sites
    name = part.name
    if given.moved:
        name += "-moved"
        sites = {site: moved_alike(cases, run.recipe()) for site, cases in sites.items()}
    folder = given.out / "sorting"
    folder.mkdir(exist_ok=True)
    if given.gallery:
        (folder / f"{name}-gallery.png").write_bytes(gallery(sites, run))
        return
    cases, truth = chosen(sites, run)
    for answers in given.answers:
        print(f"{name}, {answers.stem}: {score(answers, truth)}")
    if not given.answers:
        (folder / f"{name}.png").write_bytes(sheet(cases))


if __name__ == "__main__":
    main()
