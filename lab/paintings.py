"""What the generators of a suite's model paint from the masks of a set's real cases."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

from asyndgan.judging.bench import Bench
from asyndgan.judging.table import SYNTHETIC
from asyndgan.models.budgets import SegmentationBudget
from asyndgan.painting.fading import AS_PAINTED, Fading
from asyndgan.painting.sets import masks_of, of_sites, painted_once
from asyndgan.painting.synthesise import chosen_masks, synthesise
from asyndgan.runs import RunFolder
from asyndgan.store import Case
from asyndgan.store.prepare import widened
from asyndgan.training.segmentation import budget_for
from lab.contrasts import contrast_set
from lab.real import Real
from lab.result import CONTRASTS, FEDGAN, LOCAL
from lab.suite import ModelSection, PaintingSection, Suite
from lab.trainings import FEDGAN_RUN, of_site, run_folder


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
        local: for each seed, the finished run of each site alone, if the model has them.
        bench: as given, with the set's budget.
    """

    def __init__(self, suite: Suite, real: Real, model: ModelSection, bench: Bench) -> None:
        self.suite = suite
        self.real = real
        self.part = real.part

        def run_of(seed: int, kind: str) -> RunFolder:
            folder = run_folder(bench.out, real.part, model, seed, fold=real.fold, kind=kind)
            return RunFolder(folder)

        kinds = {SYNTHETIC: ""} | ({FEDGAN: FEDGAN_RUN} if model.fedgan else {})
        seeds = range(suite.seeds)
        self.runs = {name: [run_of(seed, kind) for seed in seeds] for name, kind in kinds.items()}
        self.local = [
            {site: run_of(seed, of_site(site)) for site in real.sites}
            for seed in (seeds if model.local else ())
        ]
        budget = SegmentationBudget(steps=self.part.segmentation_steps or suite.segmentation_steps)
        self.bench = replace(bench, budget=budget_for(self.runs[SYNTHETIC][0].recipe(), budget))

    def alike(self, run: RunFolder) -> list[Case]:
        """A counterpart of each real case, painted from its mask in the look of its site."""
        fading = self.fading(PaintingSection())
        return self.shared(counterparts(run, self.real.sites, fading))

    def shared(self, cases: Sequence[Case]) -> list[Case]:
        """Painted cases without the modalities that are not judged."""
        return [widened(case, self.real.modalities) for case in cases]

    def sets(self) -> dict[str, list[list[Case]]]:
        """The default synthetic set of each seed, by the name of the model's row."""
        found = {
            name: [self.painted(run, PaintingSection()) for run in runs]
            for name, runs in self.runs.items()
        }
        if self.local:
            found[LOCAL] = [self._pooled(runs) for runs in self.local]
        if self.suite.random_contrast:
            found[CONTRASTS] = [self._of_contrasts(seed) for seed in range(self.suite.seeds)]
        return found

    def painted(
        self,
        run: RunFolder,
        painting: PaintingSection,
        sites: Mapping[str, Sequence[Case]] | None = None,
    ) -> list[Case]:
        """Paints from the masks that the run was given, else from the own ones of these sites.

        Without `sites` they are all. No baseline has released masks.
        """
        sites = sites or self.real.sites
        given = run.recipe().masks.source == "given"
        masks = chosen_masks(run, None) if given else (masks_of(sites), of_sites(sites))
        fading, known = self.fading(painting), run.facts().labels
        labels = tuple(label for label in fading.labels if str(label) in known)
        data = painted_once(
            run, *masks, run.path / painting.folder(self.part),
            moved=painting.images - 1, fading=replace(fading, labels=labels),
        )  # fmt: skip
        held = [name for name in self.real.modalities if name in data.info.modalities]
        return self.shared(data.cases(run.recipe().image, held, synthetic=True))

    def _pooled(self, runs: Mapping[str, RunFolder]) -> list[Case]:
        """What the generator of each site paints from the site's own masks."""
        return [
            case
            for site, run in runs.items()
            for case in self.painted(run, PaintingSection(), {site: self.real.sites[site]})
        ]

    def _of_contrasts(self, seed: int) -> list[Case]:
        """Images of random contrasts, as many as the synthetic set has and from the same masks."""
        recipe = self.runs[SYNTHETIC][0].recipe()
        data = contrast_set(
            masks_of(self.real.sites), recipe, self.bench.out / CONTRASTS / self.part.name,
            modalities=self.real.modalities, labels=self.real.labels, seed=seed,
        )  # fmt: skip
        return data.cases(recipe.image, self.real.modalities, synthetic=True)

    def fading(self, painting: PaintingSection) -> Fading:
        """How labels are faded in a set."""
        fading = Fading.of(painting.faded(self.part), self.real.labels)
        return replace(fading, contrasts=painting.contrasts)


def counterparts(
    run: RunFolder, sites: Mapping[str, Sequence[Case]], fading: Fading = AS_PAINTED
) -> list[Case]:
    """Paints a counterpart of each real case, from its mask and in the look of its site."""
    looks = [site for site, cases in sites.items() for _ in cases]
    return list(synthesise(run, masks_of(sites), looks=looks, fading=fading))
