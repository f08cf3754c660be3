"""Evaluates one recipe of a suite on one set."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import torch

from asyndgan.data import Case
from asyndgan.data.prepare import blanked
from asyndgan.judging.bench import Bench, Contenders, Judged, TrainingSet, mean
from asyndgan.judging.compare import compare, contenders, levelled_off
from asyndgan.judging.consistency import consistency
from asyndgan.judging.distance import distances
from asyndgan.judging.fedavg import LOCAL_STEPS, weight
from asyndgan.judging.table import (
    ADDED,
    FEDAVG,
    FEDAVG_WITHOUT,
    FEDGAN,
    REAL_ALL,
    SYNTHETIC,
    Evaluation,
    of_single_sites,
)
from asyndgan.models.segmenters import build_segmenter
from asyndgan.painting.pictures import plot_paintings
from asyndgan.painting.sets import patients_of_masks
from asyndgan.suites.checkpoints import judge_checkpoints
from asyndgan.suites.completing import Completing
from asyndgan.suites.costs import of_a_site, traffic
from asyndgan.suites.differences import apart, differences
from asyndgan.suites.paintings import Paintings
from asyndgan.suites.real import Real
from asyndgan.suites.result import SuiteResult
from asyndgan.suites.suite import ModelSection, PaintingSection, Suite


@final
class Judging:
    """Evaluates one recipe on one set and adds the results to the suite's tables.

    Args:
        suite: the suite.
        real: the set's real cases.
        model: model whose generators are evaluated.
        bench: how to train; its folder is the suite's.
    """

    def __init__(self, suite: Suite, real: Real, model: ModelSection, bench: Bench) -> None:
        self.suite = suite
        self.real = real
        self.part = real.part
        self.model = model
        self.paintings = Paintings(suite, real, model, bench)
        seeds = range(suite.seeds * suite.segmentation_seeds)
        self.bench = replace(self.paintings.bench, seeds=seeds)
        targets = [self.part.label, *self.part.further_labels]
        self.judged = Judged(real.judged, real.labels, targets, suite.judged_on)
        self.about = {"set": real.part.name, "recipe": model.name}

    def add_to(self, result: SuiteResult) -> Evaluation:
        """Trains the missing segmentation networks and adds rows to every table.

        Returns:
            The comparison of the recipe's synthetic cases with the other training sets.
        """
        painted = {
            name: [self.paintings.painted(run, PaintingSection()) for run in runs]
            for name, runs in self.paintings.runs.items()
        }
        models = contenders(
            self.real.sites,
            painted,
            seeds=self.suite.seeds,
            fedavg=int(self.suite.fedavg),
            augmented=self.model.augmented,
        )
        if self.suite.fedavg and self.model.without:
            models = {**models, FEDAVG_WITHOUT: [self._without()]}
        if not self.suite.single_sites:
            models = {name: sets for name, sets in models.items() if not of_single_sites(name)}
        evaluation = self._compare(models)
        self._add_rows(result, evaluation)
        self._add_distances(result)
        if self.suite.consistency:
            self._add_consistency(result, painted[SYNTHETIC])
        result.differences.extend(differences(self.part, self.model, evaluation))
        result.traffic.append(traffic(self.part, self.model, self.paintings.runs[SYNTHETIC]))
        self._add_pictures(result, painted)
        if self.model.completion:
            self._add_completions(result, models[REAL_ALL][0])
        if self.suite.check_budget:
            self._add_levelling(result)
        if self.model.checkpoints:
            run = self.paintings.runs[SYNTHETIC][0]
            judge = partial(self._compare, ending="checkpoints")
            found = judge_checkpoints(
                self.paintings, run, judge, self.model.name, seeds=self.suite.seeds
            )
            result.checkpoints.append(found)
        self._add_networks(result, {name: models[name] for name in (REAL_ALL, SYNTHETIC)})
        if self.model.paintings:
            self._add_paintings(result, models[REAL_ALL], evaluation)
        return evaluation

    def _add_rows(self, result: SuiteResult, evaluation: Evaluation) -> None:
        """Adds rows; those of real models only if no earlier recipe added them."""
        known = {(row["set"], row["model"]) for row in result.rows if not row["recipe"]}
        about = {
            name: self.about | {"recipe": self._recipe_of(name)}
            for name in evaluation.per_patient
            if self._recipe_of(name) or (self.part.name, name) not in known
        }
        result.evaluations[f"{self.part.name}, {self.model.name}"] = self._place()
        result.rows.extend(
            {**about[row.model], **asdict(row), **self._cost(row.model)}
            for row in evaluation.rows
            if row.model in about
        )
        result.apart.extend(
            {**about[row["model"]], **row}
            for row in apart(self.part, evaluation, self.real.judged)
            if row["model"] in about
        )

    def _recipe_of(self, model: str) -> str:
        painted = model in (SYNTHETIC, FEDGAN, FEDAVG_WITHOUT) or model.endswith(ADDED)
        return self.model.name if painted else ""

    def _cost(self, model: str) -> dict[str, float | None]:
        """Seconds and bytes of generators, or bytes of FedAvg's rounds; None for other models."""
        facts = [run.facts() for run in self.paintings.runs.get(model, [])]
        if facts:
            moved = [of_a_site(run.left_sites) + of_a_site(run.came_to_sites) for run in facts]
            return {"seconds": mean([run.seconds for run in facts]), "bytes": mean(moved)}
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
        return {"seconds": None, "bytes": None}

    def _add_distances(self, result: SuiteResult) -> None:
        owners = list(patients_of_masks(self.real.sites).values())
        for name, runs in self.paintings.runs.items():
            measured = [
                asdict(distances(self.paintings.alike(run), owners, self.real.sites))
                for run in runs
            ]
            result.distances.append({**self.about, "model": name, **_mean_of(measured)})

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
        for name, of_seeds in painted.items():
            if not self.paintings.runs[name][0].recipe().masks.release:
                continue
            path = Path(self._place()) / f"{name}.png"
            shown = [case for case in of_seeds[0] if case.name.endswith("_d0")]
            title = f"{self.model.name} on {self.part.name}"
            (self.bench.out / path).write_bytes(
                plot_paintings(shown, self.real.labels[self.part.label], title=title)
            )
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

    def _add_networks(self, result: SuiteResult, pair: Contenders) -> None:
        for network in self.suite.networks:
            rows = self._compare(pair, network=network, ending=network).rows
            result.networks.extend(
                {**self.about, "network": network, **asdict(row)}
                for row in rows
                if row.label == self.part.label
            )

    def _add_paintings(
        self, result: SuiteResult, real_all: Sequence[Any], evaluation: Evaluation
    ) -> None:
        """Adds a row for the default synthetic set, then one for each further synthetic set."""
        own = asdict(evaluation.row(SYNTHETIC, self.part.label))
        result.paintings.append({**self._about_painting(PaintingSection()), **own})
        for painting in self.model.paintings:
            cases = [
                self.paintings.painted(run, painting) for run in self.paintings.runs[SYNTHETIC]
            ]
            other = self._compare(
                {REAL_ALL: real_all, SYNTHETIC: cases}, ending=painting.ending(self.part)
            )
            row = other.row(SYNTHETIC, self.part.label)
            result.paintings.append({**self._about_painting(painting), **asdict(row)})

    def _about_painting(self, painting: PaintingSection) -> dict[str, Any]:
        fading = self.paintings.fading(painting)
        return {
            **self.about, **painting.model_dump(), "faded": painting.faded(self.part),
            "contrasts": fading.contrasts if fading.labels else (),
        }  # fmt: skip

    def _place(self, ending: str = "main") -> str:
        return f"evaluations/{self.part.name}/{self.model.name}/{ending}"

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
        return compare(together, self.judged, bench, about=self.about)


def _mean_of(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Element-wise mean of nested tables with the same keys."""
    return {
        key: _mean_of([table[key] for table in tables])
        if isinstance(value, Mapping)
        else mean([table[key] for table in tables])
        for key, value in tables[0].items()
    }
