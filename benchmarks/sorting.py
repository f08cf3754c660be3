"""Can somebody tell synthetic images from real ones by eye? Sheets to be sorted, and their scoring.

    python benchmarks/sorting.py SUITE MODEL --data DATA --out OUT
    python benchmarks/sorting.py SUITE MODEL --data DATA --out OUT --answers ANSWERS ...

OUT is that of the suite, whose first generator is looked at. The first command writes, for each
set, `OUT/sorting/SET.png`: 20 real and 20 synthetic images in random order, of different patients,
numbered from 1, and without the answers. The second one scores files with 40 letters each, R for
real and S for synthetic. Sheets show real patients: do not pass them on.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.stats import binomtest

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW
from asyndgan.data import Case
from asyndgan.painting.pictures import STYLE, as_png, bare
from asyndgan.painting.sets import counterparts
from asyndgan.runs import RunFolder
from asyndgan.suites.real import Real
from asyndgan.suites.suite import ModelSection, SetSection, Suite
from asyndgan.suites.trainings import run_folder

EACH, COLUMNS, SEED = 20, 8, 0


def chosen(real: Real, run: RunFolder) -> tuple[list[Case], list[str]]:
    """Real and synthetic cases of as many patients, one each, and what they are: R or S."""
    random = np.random.default_rng(SEED)
    painted = iter(counterparts(run, real.sites))
    pairs: dict[str, list[tuple[Case, Case]]] = {}
    for site, cases in real.sites.items():
        for case, counterpart in zip(cases, painted, strict=False):
            if case.mask.any():
                pairs.setdefault(f"{site}/{case.patient}", []).append((case, counterpart))
    patients = random.permutation(sorted(pairs))[: 2 * EACH]
    kinds = random.permutation(np.repeat([0, 1], len(patients) // 2))
    found = [
        pairs[patient][random.integers(len(pairs[patient]))][kind]
        for patient, kind in zip(patients, kinds, strict=False)
    ]
    return found, ["RS"[kind] for kind in kinds]


def sheet(cases: list[Case]) -> bytes:
    """Numbered pictures of the cases' first modality, in one scale of brightness."""
    lines = -(-len(cases) // COLUMNS)
    with rc_context(STYLE):
        figure = Figure(figsize=(1.5 * COLUMNS, 1.65 * lines), layout="constrained")
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
    given = parser.parse_args()
    torch.set_num_threads(1)
    suite = Suite.from_toml(given.suite.read_text("utf-8"))
    suite.plan(given.data)
    (model,) = (one for one in suite.models if one.name == given.model)
    for part in suite.sets:
        of_set(suite, part, model, given)


def of_set(suite: Suite, part: SetSection, model: ModelSection, given: argparse.Namespace) -> None:
    """Writes the sheet of a set, or scores its answers."""
    run = RunFolder(run_folder(given.out, part, model, 0))
    cases, truth = chosen(Real(suite, part, given.data), run)
    for answers in given.answers:
        print(f"{part.name}, {answers.stem}: {score(answers, truth)}")
    if not given.answers:
        folder = given.out / "sorting"
        folder.mkdir(exist_ok=True)
        (folder / f"{part.name}.png").write_bytes(sheet(cases))


if __name__ == "__main__":
    main()
