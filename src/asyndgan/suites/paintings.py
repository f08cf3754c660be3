"""What the generators of a suite's model paint from the masks of a set's real cases."""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

from asyndgan.data import Case
from asyndgan.data.prepare import widened
from asyndgan.judging.bench import Bench
from asyndgan.judging.table import FEDGAN, SYNTHETIC
from asyndgan.models.budget import SegmentationBudget
from asyndgan.painting.fading import Fading
from asyndgan.painting.sets import counterparts, masks_of, of_sites, painted_once
from asyndgan.runs import RunFolder
from asyndgan.suites.real import Real
from asyndgan.suites.suite import ModelSection, PaintingSection, Suite
from asyndgan.suites.trainings import run_folder
from asyndgan.training.segmentation import budget_for


@final
class Paintings:
    """The generators of one model on one set, and what they paint.

    Args:
        suite: the suite.
        real: the set's real cases.
        model: the model.
        bench: how the suite trains networks; its folder is the suite's.

    Attributes:
        runs: finished runs, one for each seed, by the name of the model's row.
        bench: as given, with the set's budget.
    """

    def __init__(self, suite: Suite, real: Real, model: ModelSection, bench: Bench) -> None:
        self.real = real
        self.part = real.part
        kinds = {SYNTHETIC: False} | ({FEDGAN: True} if model.fedgan else {})
        self.runs = {
            name: [
                RunFolder(
                    run_folder(bench.out, real.part, model, seed, fold=real.fold, fedgan=fedgan)
                )
                for seed in range(suite.seeds)
            ]
            for name, fedgan in kinds.items()
        }
        budget = SegmentationBudget(steps=self.part.segmentation_steps or suite.segmentation_steps)
        self.bench = replace(bench, budget=budget_for(self.runs[SYNTHETIC][0].recipe(), budget))

    def alike(self, run: RunFolder) -> list[Case]:
        """A counterpart of each real case, painted from its mask in the look of its site."""
        fading = self.fading(PaintingSection())
        return self.shared(counterparts(run, self.real.sites, fading))

    def shared(self, cases: Sequence[Case]) -> list[Case]:
        """Painted cases without the modalities that are not judged."""
        return [widened(case, self.real.modalities) for case in cases]

    def painted(self, run: RunFolder, painting: PaintingSection) -> list[Case]:
        """Paints from the sites' own masks, since a baseline has no released ones."""
        data = painted_once(
            run, masks_of(self.real.sites), of_sites(self.real.sites),
            run.path / painting.folder(self.part),
            moved=painting.images - 1, fading=self.fading(painting),
        )  # fmt: skip
        return data.cases(run.recipe().image, self.real.modalities, synthetic=True)

    def fading(self, painting: PaintingSection) -> Fading:
        """How labels are faded in a set."""
        fading = Fading.of(painting.faded(self.part), self.real.labels)
        return replace(fading, contrasts=painting.contrasts)
