"""Evaluates one recipe of a suite on one set."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, final

import torch

from asyndgan.judging.bench import Bench, Contenders, Judged, TrainingSet, write_whole
from asyndgan.judging.compare import compare, contenders
from asyndgan.judging.metrics import mean
from asyndgan.judging.table import REAL_ALL, SYNTHETIC, Evaluation, of_single_sites
from asyndgan.models.segmenters import build_segmenter
from asyndgan.painting.pictures import plot_paintings
from asyndgan.painting.sets import of_sites
from asyndgan.store import Case
from asyndgan.store.prepare import blanked
from lab import local
from lab.completing import Completing
from lab.consistency import consistency
from lab.costs import of_a_site, traffic
from lab.diagnosis import diagnose_run
from lab.fedavg import LOCAL_STEPS, weight
from lab.kids import kids
from lab.levelling import levelled_off
from lab.paintings import Paintings
from lab.real import Real
from lab.result import FEDAVG, FEDAVG_WITHOUT, LOCAL, POOLED, SuiteResult
from lab.scores import Key, of_recipe, pd, tidy
from lab.suite import ModelSection, PaintingSection, Suite


@final
class Judging:
    """Evaluates one recipe on one set.

    Args:
        suite: the suite.
        real: the set's real cases.
        model: model whose generators are evaluated.
        bench: how to train; its folder is the suite's.
        first: position of its first judged patient among those of all folds.
    """

    def __init__(
        self, suite: Suite, real: Real, model: ModelSection, bench: Bench, first: int
    ) -> None:
        self.suite = suite
        self.first = first
        self.real = real
        self.part = real.part
        self.model = model
        self.paintings = Paintings(suite, real, model, bench)
        seeds = range(suite.seeds * suite.segmentation_seeds)
        self.bench = replace(self.paintings.bench, seeds=seeds)
        targets = [self.part.label, *self.part.further_labels]
        self.judged = Judged(real.judged, real.labels, targets, suite.judged_on)
        self.about = {"set": real.part.name, "recipe": model.name}

    def add_to(self, result: SuiteResult) -> Iterator[pd.DataFrame]:
        """Trains the missing segmentation networks; the first fold adds what is no score, too.

        Yields:
            Tables of scores.
        """
        painted = self.paintings.sets()
        averaged = {FEDAVG: [self.real.sites]} if self.suite.fedavg else {}
        models = contenders(
            self.real.sites, {**painted, **averaged}, seeds=self.suite.seeds,
            augmented=self.model.augmented,
        )  # fmt: skip
        if self.model.pooled:
            together = list(chain.from_iterable(painted[SYNTHETIC]))
            models = {**models, POOLED: [together] * self.suite.seeds}
        if self.suite.fedavg and self.model.without:
            models = {**models, FEDAVG_WITHOUT: [self._without()]}
        if not self.suite.single_sites:
            models = {name: sets for name, sets in models.items() if not of_single_sites(name)}
        yield self._scores(models)
        if not self.real.fold:
            self._add_to(result, models, painted)
        pair = {name: models[name] for name in (REAL_ALL, SYNTHETIC)}
        for network in self.suite.networks:
            yield self._scores(pair, network=network)
        for painting in self.model.paintings:
            runs = self.paintings.runs[SYNTHETIC]
            pair[SYNTHETIC] = [self.paintings.painted(run, painting) for run in runs]
            yield self._scores(pair, painting=painting.name(self.part))

    def _add_to(
        self,
        result: SuiteResult,
        models: Contenders,
        painted: Mapping[str, Sequence[Sequence[Case]]],
    ) -> None:
        result.evaluations[f"{self.part.name}, {self.model.name}"] = self._place()
        self._add_costs(result, models)
        self._add_kids(result)
        if self.suite.diagnosis:
            self._add_diagnosis(result)
        if self.suite.consistency:
            self._add_consistency(result, painted[SYNTHETIC])
        result.traffic.append({**self.about, **traffic(self.paintings.runs[SYNTHETIC])})
        self._add_pictures(result, painted)
        if self.model.completion:
            self._add_completions(result, models[REAL_ALL][0])
        if self.suite.check_budget:
            self._add_levelling(result)

    def _add_costs(self, result: SuiteResult, models: Contenders) -> None:
        for model in models:
            recipe = self.model.name if of_recipe(model) else ""
            about = {"set": self.part.name, "recipe": recipe, "model": model}
            cost = about | self._cost(model)
            if cost not in (about, *result.costs):  # FedAvg's is the same for every recipe
                result.costs.append(cost)

    def _cost(self, model: str) -> dict[str, float | None]:
        """Seconds and bytes of generators, or bytes of FedAvg's rounds; of other models nothing."""
        facts = [run.facts() for run in self.paintings.runs.get(model, [])]
        if facts:
            moved = [of_a_site(run.left_sites) + of_a_site(run.came_to_sites) for run in facts]
            return {"seconds": mean([run.seconds for run in facts]), "bytes": mean(moved)}
        if model == LOCAL:
            return local.cost(self.paintings.local, PaintingSection().folder(self.part))
        if model in (FEDAVG, FEDAVG_WITHOUT):
            image = self.real.judged[0].image
            with torch.device("meta"):
                budget = self.bench.budget
                network = build_segmenter(
                    len(image), max(self.real.labels.values()) + 1, network=budget.network,
                    width=budget.width, space=tuple(image.shape[1:]),
                )  # fmt: skip
            rounds = math.ceil(budget.steps / LOCAL_STEPS)
            return {"seconds": None, "bytes": float(2 * rounds * weight(network))}
        return {}

    def _add_kids(self, result: SuiteResult) -> None:
        owners = list(of_sites(self.real.sites).patients.values())
        for name, runs in self.paintings.runs.items():
            alike = (self.paintings.alike(run) for run in runs)
            measured = [asdict(kids(cases, owners, self.real.sites)) for cases in alike]
            result.kids.append({**self.about, "model": name, **_mean_of(measured)})

    def _add_diagnosis(self, result: SuiteResult) -> None:
        runs = self.paintings.runs[SYNTHETIC]
        found = [asdict(diagnose_run(run, self.real.sites)) for run in runs]
        result.diagnoses.append({**self.about, **_mean_of(found)})

    def _add_consistency(self, result: SuiteResult, painted: Sequence[Sequence[Case]]) -> None:
        of_seeds = [consistency(cases, self.real.judged, self.real.labels) for cases in painted]
        for same in zip(*of_seeds, strict=True):
            first, *_ = tables = [asdict(one) for one in same]
            numbers = [{k: v for k, v in one.items() if isinstance(v, float)} for one in tables]
            result.consistency.append({**self.about, **first, **_mean_of(numbers)})

    def _without(self) -> dict[str, list[Case]]:
        """Real cases of each site, without the modalities excluded from the recipe's training."""
        return {
            site: [blanked(case, self.model.without.get(site, ())) for case in cases]
            for site, cases in self.real.sites.items()
        }

    def _add_pictures(
        self, result: SuiteResult, painted: Mapping[str, Sequence[Sequence[Case]]]
    ) -> None:
        """Adds pictures of moved masks and their paintings, if the recipe releases masks."""
        release = self.paintings.runs[SYNTHETIC][0].recipe().masks.release
        for name, of_seeds in painted.items() if release else ():
            path = Path(self._place()) / f"{name}.png"
            shown = [case for case in of_seeds[0] if case.name.endswith("_d0")]
            title, label = f"{self.model.name} on {self.part.name}", self.part.label
            picture = plot_paintings(shown, self.real.labels[label], title=title)
            write_whole(self.bench.out / path, picture)
            result.pictures[f"{self.part.name}, {self.model.name}: {name}"] = str(path)

    def _add_completions(self, result: SuiteResult, real_all: TrainingSet) -> None:
        if self.part.completion is None:
            return
        seeds = range(self.suite.segmentation_seeds)
        completing = Completing(self.part.completion, self.real, replace(self.bench, seeds=seeds))
        picture = self.bench.out / self._place() / "completion.png"
        rows = completing.rows(self.paintings.runs[SYNTHETIC], real_all, picture)
        result.completions.extend({**self.about, **row} for row in rows)

    def _add_levelling(self, result: SuiteResult) -> None:
        if any(row["set"] == self.part.name for row in result.levelling):
            return  # it concerns the real cases, which all models share
        levelling = levelled_off(self.real.sites, self.judged, self.bench)
        result.levelling.extend({"set": self.part.name, **asdict(one)} for one in levelling)

    def _scores(
        self, models: Contenders, *, network: str = "unet", painting: str = ""
    ) -> pd.DataFrame:
        ending = painting or {"unet": "main"}.get(network, network)
        evaluation = self._compare(models, network=network, ending=ending)
        key = Key(self.part.name, self.model.name, network, painting)
        return tidy(evaluation, key, self.first)

    def _place(self, ending: str = "main") -> str:
        fold = f"+fold{self.real.fold}" if self.real.fold else ""
        return f"evaluations/{self.part.name}/{self.model.name}{fold}/{ending}"

    def _compare(
        self, models: Contenders, *, network: str = "unet", ending: str = "main"
    ) -> Evaluation:
        repeats = self.suite.segmentation_seeds
        bench = replace(
            self.bench,
            out=self.bench.out / self._place(ending),
            budget=replace(self.bench.budget, network=network),
        )
        together = {
            name: [one for one in sets for _ in range(repeats)] for name, sets in models.items()
        }
        shown = ending == "main"
        return compare(together, self.judged, bench, about=self.about, figures=shown)


def _mean_of(tables: Sequence[Any]) -> Any:
    """Element-wise mean of numbers, or of nested tables and tuples of the same form."""
    first = tables[0]
    if isinstance(first, Mapping):
        return {key: _mean_of([table[key] for table in tables]) for key in first}
    if isinstance(first, tuple):
        return [_mean_of(several) for several in zip(*tables, strict=True)]
    return mean(tables)
