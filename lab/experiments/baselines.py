"""What needs no shared generator: networks trained on one site's real images, or on masks alone.

    python -m lab.experiments.baselines SUITE ... --data DATA --out OUT [--fedavg]
        [--document FILE]

For each set of the suites: all real images, those of each site, images of random contrast painted
from all masks without a generator (SynthSeg) and, with `--fedavg`, one network that all sites train
together. Patients, networks and budgets are those of the suite, so its rows can be put beside
these.
"""

from collections.abc import Iterator
from pathlib import Path

from asyndgan.judging.bench import Bench, Judged, TrainingSet
from asyndgan.judging.compare import compare, contenders
from asyndgan.judging.table import Row
from asyndgan.models.budgets import SegmentationBudget
from asyndgan.painting.sets import masks_of
from asyndgan.texts import bounded_text
from asyndgan.training.segmentation import budget_for
from lab.contrasts import contrast_set
from lab.evidence_tables import shown_as
from lab.experiments.common import arguments, markdown, publish
from lab.fedavg import train_fedavg
from lab.real import Real
from lab.result import CONTRASTS, FEDAVG
from lab.suite import SetSection, Suite

HEADING = ("set", "pixels", "label", "patients", "trained on", "cases", "Dice", "interval",
           "of all-real", "interval")  # fmt: skip


def judged(suite: Suite, part: SetSection, data: Path, out: Path, *, fedavg: bool) -> list[Row]:
    """The rows of a set; networks that were trained before are not trained again."""
    recipe, real = suite.recipe(part, suite.models[0], 0), Real(suite, part, data)
    budget = SegmentationBudget(steps=part.segmentation_steps or suite.segmentation_steps)
    bench = Bench(
        out / f"{suite.name}-{part.name}", budget=budget_for(recipe, budget), workers=1,
        cache=out / "cache", federated=train_fedavg,
    )  # fmt: skip
    painted = contrast_set(
        masks_of(real.sites), recipe, out / CONTRASTS / part.name, modalities=real.modalities,
        labels=real.labels, seed=0,
    ).cases(recipe.image, real.modalities, synthetic=True)  # fmt: skip
    others: dict[str, list[TrainingSet]] = {CONTRASTS: [painted]}
    if fedavg:
        others[FEDAVG] = [real.sites]
    models = contenders(real.sites, others, seeds=1, augmented=False)
    targets = [part.label, *part.further_labels]
    whom = Judged(real.judged, real.labels, targets, suite.judged_on)
    return list(compare(models, whom, bench, about={}).rows)


def cells(part: SetSection, pixels: str, rows: list[Row]) -> Iterator[tuple[object, ...]]:
    """Cells of a set's rows, as in `HEADING`."""
    for row in rows:
        yield (
            part.name, pixels, row.label, row.patients, shown_as(row.model), row.cases,
            f"{row.dice_mean:.3f}", f"{row.dice_low:.3f} to {row.dice_high:.3f}",
            f"{row.ratio:.3f}", f"{row.ratio_low:.3f} to {row.ratio_high:.3f}",
        )  # fmt: skip


def main() -> None:
    """Writes the table of all sets."""
    parser = arguments(__doc__)
    parser.add_argument("suites", nargs="+", type=Path, metavar="SUITE")
    parser.add_argument("--fedavg", action="store_true", help="also one network of all sites")
    given = parser.parse_args()
    table: list[tuple[object, ...]] = []
    for file in given.suites:
        suite = Suite.from_toml(bounded_text(file, links=True))
        suite.plan(given.data)
        for part in suite.sets:
            size = suite.recipe(part, suite.models[0], 0).image.size
            rows = judged(suite, part, given.data, given.out, fedavg=given.fedavg)
            table += cells(part, " x ".join(map(str, size)), rows)
            print(markdown(HEADING, table), flush=True)
    publish(markdown(HEADING, table), "baselines", given.document)


if __name__ == "__main__":
    main()
