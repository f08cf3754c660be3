"""Runs a suite: trains what is missing, judges it, and gathers its tables."""

import hashlib
import json
import math
import operator
import platform
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import reduce
from multiprocessing import get_context
from pathlib import Path
from re import fullmatch
from typing import Any, final

import monai
import numpy as np
import torch
from scipy.stats import spearmanr

from asyndgan import __version__
from asyndgan.data import Case
from asyndgan.data.nnunet import describe, list_cases, patient_of
from asyndgan.data.prepare import load_cases
from asyndgan.data.splits import hold_out
from asyndgan.errors import RecipeError
from asyndgan.evaluation.agreement import agreeing
from asyndgan.evaluation.baselines import LOCAL_STEPS, networks_weight, weight
from asyndgan.evaluation.bench import Contenders, OnProgress, mean, pooled, write_whole
from asyndgan.evaluation.compare import compare, contenders
from asyndgan.evaluation.distance import distances, features_of
from asyndgan.evaluation.figures import plot_paintings
from asyndgan.evaluation.metrics import PatientScore, bootstrap_interval
from asyndgan.evaluation.of_run import MOVED, OF_SITES, masks_of, painted_once
from asyndgan.evaluation.result import Checkpoints, Difference, SuiteResult, Traffic
from asyndgan.evaluation.segmentation import SegmentationBudget, build_segmenter
from asyndgan.evaluation.suite import (
    VALIDATION_PART,
    ModelSection,
    PaintingSection,
    SetSection,
    Suite,
    Training,
)
from asyndgan.evaluation.synthesise import synthesise
from asyndgan.evaluation.table import (
    ADDED,
    FEDAVG,
    FEDGAN,
    REAL_ALL,
    SITE_PREFIX,
    SYNTHETIC,
    Evaluation,
    of_single_sites,
)
from asyndgan.models.features import Moments, distance
from asyndgan.recipe import ImageSection
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.training.checkpoint import stored_steps

_SCORES = ("dice", "hd95", "assd")


def run_suite(
    text: str,
    data: Path,
    out: Path,
    *,
    workers: int = 1,
    on_training: OnProgress | None = None,
    on_evaluation: OnProgress | None = None,
) -> SuiteResult:
    """Trains and judges what a suite names, as far as it is not there yet.

    Args:
        text: of the suite, TOML.
        data: folder that holds the sets.
        out: for runs, evaluations, the cache and `suite.json`.
        workers: trainings at a time, one core each.
        on_training: told about the generators: a text, steps done, all steps.
        on_evaluation: told about the segmentation networks.

    Raises:
        RecipeError: the suite or a recipe in it cannot be used.
        DataError, CohortError, RunError, NotFiniteError: as in `train` and `evaluate`.
    """
    suite = Suite.from_toml(text)
    _check_apart(suite, data)
    _train_all(list(suite.trainings(data, out)), workers, on_training)
    result = SuiteResult(
        suite=suite.name,
        judged_on=suite.judged_on,
        versions={
            "asyndgan": __version__, "torch": torch.__version__, "monai": monai.__version__,
            "numpy": np.__version__, "python": platform.python_version(),
        },
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )  # fmt: skip
    for part in suite.sets:
        for model in suite.models:
            _Judging(suite, part, model, data, out, workers, on_evaluation).add_to(result)
    write_whole(out / "suite.json", json.dumps(result.to_tables(), indent=1).encode())
    return result


def _check_apart(suite: Suite, data: Path) -> None:
    """Before hours of training, not after them."""
    for part in suite.sets:
        test = data / part.folder / part.test
        names = [patient_of(files.name) for files in list_cases(test, describe(test))]
        for pattern in part.apart.values():
            if not any(fullmatch(pattern, name) for name in names):
                raise RecipeError(f"set {part.name}: no test patient's name matches '{pattern}'.")


def _train_all(trainings: Sequence[Training], workers: int, on_progress: OnProgress | None) -> None:
    waiting = [training for training in trainings if not training.finished()]
    steps = sum(training.recipe.training.steps for training in trainings)
    before = steps - sum(training.recipe.training.steps for training in waiting)
    if not waiting:
        return
    # Spawned: a forked copy of a process in which torch has run may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending: set[Future[None]] = {pool.submit(training.run) for training in waiting}
        try:
            while pending:
                ended, pending = wait(pending, timeout=5, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()
                if on_progress:
                    done = before + sum(training.steps_done() for training in waiting)
                    at_work = [t.out.name for t in waiting if t.at_work()]
                    on_progress(", ".join(at_work) or "generators", done, steps)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@final
@dataclass(frozen=True)
class _Judging:
    """One recipe on one set: its comparison, and what it adds to the suite's tables."""

    suite: Suite
    part: SetSection
    model: ModelSection
    data: Path
    out: Path
    workers: int
    on_progress: OnProgress | None

    def add_to(self, result: SuiteResult) -> None:
        """Adds rows; those of real models only where an earlier recipe did not bring them."""
        real, judged = self._real()
        runs = self._runs()
        painted = self._painted(runs, real, PaintingSection())
        models = contenders(
            real,
            painted,
            seeds=self.suite.seeds,
            fedavg=self.suite.fedavg,
            augmented=self.model.augmented,
        )
        if not self.suite.single_sites:
            models = {name: sets for name, sets in models.items() if not of_single_sites(name)}
        evaluation = self._compare(models, judged)
        known = {(row["set"], row["model"]) for row in result.rows if not row["recipe"]}
        about = {
            name: {"set": self.part.name, "recipe": self._recipe_of(name)}
            for name in evaluation.per_patient
            if self._recipe_of(name) or (self.part.name, name) not in known
        }
        result.evaluations[f"{self.part.name}, {self.model.name}"] = self._place()
        result.rows.extend(
            {
                **about[row.model],
                **asdict(row),
                **self._cost(
                    row.model,
                    [run.facts() for run in runs.get(row.model, [])],
                    channels=len(judged[0].modalities),
                ),
            }
            for row in evaluation.rows
            if row.model in about
        )
        result.apart.extend(
            {**about[row["model"]], **row}
            for row in _apart(self.part, evaluation, judged)
            if row["model"] in about
        )
        self._show(painted, result)
        for name, of_seeds in painted.items():
            measured = [asdict(distances(cases, real)) for cases in of_seeds]
            result.distances.append({**about[name], "model": name, **_mean_of(measured)})
        result.differences.extend(_differences(self.part, self.model, evaluation))
        result.traffic.append(_traffic(self.part, self.model, runs[SYNTHETIC]))
        if self.model.checkpoints:
            run = runs[SYNTHETIC][0]
            result.checkpoints.append(self._judge_checkpoints(run, real, judged))
        pair = {name: models[name] for name in (REAL_ALL, SYNTHETIC)}
        for network in self.suite.networks:
            result.networks.extend(
                {
                    "set": self.part.name,
                    "recipe": self.model.name,
                    "network": network,
                    **asdict(row),
                }
                for row in self._compare(pair, judged, network=network, ending=network).rows
                if row.label == self.part.label
            )
        if self.model.paintings:  # beside the others, the one that the table is about
            own = asdict(evaluation.row(SYNTHETIC, self.part.label))
            result.paintings.append({**about[SYNTHETIC], **PaintingSection().model_dump(), **own})
        for painting in self.model.paintings:
            models = {
                REAL_ALL: models[REAL_ALL],
                SYNTHETIC: self._painted({SYNTHETIC: runs[SYNTHETIC]}, real, painting)[SYNTHETIC],
            }
            evaluation = self._compare(models, judged, ending=painting.ending)
            row = evaluation.row(SYNTHETIC, self.part.label)
            result.paintings.append({**about[SYNTHETIC], **painting.model_dump(), **asdict(row)})

    def _judge_checkpoints(
        self, run: RunFolder, real: Mapping[str, Sequence[Case]], judged: Sequence[Case]
    ) -> Checkpoints:
        masks, steps = masks_of(real), stored_steps(run.generators)
        features = {site: features_of(cases) for site, cases in real.items()}
        together = torch.cat(list(features.values()))
        clip = run.recipe().selection.clip or float(together.double().norm(dim=1).median())
        of_sites = [Moments.of(own, clip=clip) for own in features.values()]
        reference = reduce(operator.add, of_sites)
        exact, clipped, models = [], [], {REAL_ALL: [pooled(real)] * self.suite.seeds}
        for step in steps:
            cases = synthesise(run, masks, step=step)
            cases += synthesise(run, masks, draws=MOVED, move=True, step=step)
            models[f"step {step}"] = [cases] * self.suite.seeds
            painted = features_of(cases)
            exact.append(distance(Moments.of(painted), Moments.of(together)))
            clipped.append(distance(Moments.of(painted, clip=clip), reference))
        rows = self._compare(models, judged, ending="checkpoints").rows
        dice = [
            row.dice_mean for row in rows if row.model != REAL_ALL and row.label == self.part.label
        ]
        pairs = {
            "pooled and Dice": (exact, [-one for one in dice]),
            "clipped and Dice": (clipped, [-one for one in dice]),
            "clipped and pooled": (clipped, exact),
        }
        correlations = {name: float(spearmanr(*pair).statistic) for name, pair in pairs.items()}
        return Checkpoints(
            self.part.name, self.model.name, clip, steps, exact, clipped, dice, correlations
        )

    def _show(self, painted: Mapping[str, Sequence[Sequence[Case]]], result: SuiteResult) -> None:
        """Keeps pictures of moved masks, which are no patient's, and what was painted from them."""
        for name, of_seeds in painted.items():
            path = Path(self._place()) / f"{name}.png"
            shown = [case for case in of_seeds[0] if case.name.endswith("_d0")]
            (self.out / path).write_bytes(
                plot_paintings(shown, self._labels[self.part.label], title=self.model.name)
            )
            result.pictures[f"{self.part.name}, {self.model.name}: {name}"] = str(path)

    def _cost(self, model: str, runs: Sequence[RunFacts], channels: int) -> dict[str, float | None]:
        """Seconds and bytes of generators; bytes of FedAvg's rounds; else nothing moved."""
        if runs:
            moved = [_of_a_site(run.left_sites) + _of_a_site(run.came_to_sites) for run in runs]
            return {"seconds": mean([run.seconds for run in runs]), "bytes": mean(moved)}
        if model == FEDAVG:
            with torch.device("meta"):
                network = build_segmenter(
                    channels, max(self._labels.values()) + 1, self._budget(),
                    space=self._image.size,
                )  # fmt: skip
            rounds = math.ceil(self._budget().steps / LOCAL_STEPS)
            return {"seconds": None, "bytes": float(2 * rounds * weight(network))}
        return {"seconds": None, "bytes": None}

    def _recipe_of(self, model: str) -> str:
        painted = model in (SYNTHETIC, FEDGAN) or model.endswith(ADDED)
        return self.model.name if painted else ""

    @property
    def _folders(self) -> dict[str, Path]:
        return {name: self.data / self.part.folder / name for name in self.part.sites}

    @property
    def _image(self) -> ImageSection:
        return self.suite.recipe(self.part, self.model, 0).image

    def _real(self) -> tuple[dict[str, list[Case]], list[Case]]:
        real = {name: load_cases(folder, self._image) for name, folder in self._folders.items()}
        if self.suite.judged_on == "validation":
            return hold_out(real, part=VALIDATION_PART)
        return real, load_cases(self.data / self.part.folder / self.part.test, self._image)

    def _runs(self) -> dict[str, list[RunFolder]]:
        kinds = {SYNTHETIC: ""} | ({FEDGAN: "-fedgan"} if self.model.fedgan else {})
        where = self.out / "runs" / self.part.name
        return {
            name: [
                RunFolder(where / f"{self.model.name}{kind}-{seed}")
                for seed in range(self.suite.seeds)
            ]
            for name, kind in kinds.items()
        }

    def _painted(
        self,
        runs: Mapping[str, Sequence[RunFolder]],
        real: Mapping[str, Sequence[Case]],
        painting: PaintingSection,
    ) -> dict[str, list[list[Case]]]:
        """A set for each seed, from the sites' own masks: a baseline has no released ones."""
        masks = masks_of(real)

        def of(run: RunFolder) -> list[Case]:
            folder = painted_once(
                run, masks, OF_SITES, run.path / painting.folder, moved=painting.images - 1,
                mixed=painting.mixed, label=self._labels[self.part.label],
            )  # fmt: skip
            return agreeing(
                load_cases(folder, self._image), painting.dropped, label=self.part.label,
                labels=self._labels, budget=self._budget(), cache=self.out / "cache",
                workers=self.workers, on_progress=self.on_progress,
            )  # fmt: skip

        return {name: [of(run) for run in of_seeds] for name, of_seeds in runs.items()}

    @property
    def _labels(self) -> dict[str, int]:
        return describe(next(iter(self._folders.values()))).labels

    def _budget(self, network: str = "unet") -> SegmentationBudget:
        steps = self.part.segmentation_steps or self.suite.segmentation_steps
        return SegmentationBudget(network=network, steps=steps)

    def _place(self, ending: str = "") -> str:
        return "-".join([f"evaluations/{self.part.name}", self.model.name, *filter(None, [ending])])

    def _compare(
        self,
        models: Contenders,
        judged: Sequence[Case],
        *,
        network: str = "unet",
        ending: str = "",
    ) -> Evaluation:
        repeats = self.suite.segmentation_seeds
        return compare(
            {name: [one for one in sets for _ in range(repeats)] for name, sets in models.items()},
            test=judged,
            labels=self._labels,
            out=self.out / self._place(ending),
            cache=self.out / "cache",
            targets=[self.part.label, *self.part.further_labels],
            seeds=range(self.suite.seeds * repeats),
            budget=self._budget(network),
            judged_on=self.suite.judged_on,
            about={"set": self.part.name, "recipe": self.model.name},
            workers=self.workers,
            device="cpu",
            on_progress=self.on_progress,
        )


def _traffic(part: SetSection, model: ModelSection, runs: Sequence[RunFolder]) -> Traffic:
    recipe, facts = runs[0].recipe(), [run.facts() for run in runs]
    generator, discriminator = networks_weight(recipe, facts[0].scope)
    sent = mean([_of_a_site(one.left_sites) / one.steps for one in facts])
    received = mean([_of_a_site(one.came_to_sites) / one.steps for one in facts])
    fedgan_round = 2 * (generator + discriminator)
    return Traffic(
        part.name, model.name, facts[0].steps, sent, received, generator, discriminator,
        fedgan_round, fedgan_round / (sent + received),
    )  # fmt: skip


def _of_a_site(moved: Mapping[str, Mapping[str, int]]) -> float:
    """Bytes in the whole run, mean over sites."""
    return mean([float(sum(kinds.values())) for kinds in moved.values()])


def _mean_of(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of nested tables with the same keys."""
    return {
        key: _mean_of([table[key] for table in tables])
        if isinstance(value, Mapping)
        else mean([table[key] for table in tables])
        for key, value in tables[0].items()
    }


def _apart(
    part: SetSection, evaluation: Evaluation, judged: Sequence[Case]
) -> Iterator[dict[str, Any]]:
    """Rows of test patients that the set reports apart, such as a hospital that no site knows."""
    if evaluation.judged_on != "test":
        return
    patients = list(dict.fromkeys(case.patient for case in judged))
    for heading, pattern in part.apart.items():
        chosen = [place for place, name in enumerate(patients) if fullmatch(pattern, name)]
        for name, scores in evaluation.per_patient.items():
            own = [scores[part.label][place] for place in chosen]
            yield {
                "apart": heading,
                "model": name,
                "label": part.label,
                "patients": len(own),
                **{key: mean([getattr(one, key) for one in own]) for key in _SCORES},
            }


def _differences(
    part: SetSection, model: ModelSection, evaluation: Evaluation
) -> Iterator[Difference]:
    scores = {name: own[part.label] for name, own in evaluation.per_patient.items()}

    def difference(name: str, over: str, pairs: Sequence[tuple[float, float]]) -> Difference:
        gains = [a - b for a, b in pairs if not math.isnan(a - b)]
        low, high = bootstrap_interval(gains)
        return Difference(
            part.name, model.name, name, over, part.label, len(gains), mean(gains), low, high
        )

    def pairs(name: str, over: str) -> list[tuple[float, float]]:
        return [(a.dice, b.dice) for a, b in zip(scores[name], scores[over], strict=True)]

    for over in scores:
        if over != SYNTHETIC and not over.endswith(ADDED):
            yield difference(SYNTHETIC, over, pairs(SYNTHETIC, over))
    augmented = [name for name in scores if name.endswith(ADDED)]
    alone = [name.removesuffix(ADDED) for name in augmented]
    if augmented and all(name in scores for name in alone):
        for name, over in zip(augmented, alone, strict=True):
            yield difference(name, over, pairs(name, over))
        yield difference(
            f"every {SITE_PREFIX}NAME{ADDED}",
            f"{SITE_PREFIX}NAME",
            list(zip(_over_models(scores, augmented), _over_models(scores, alone), strict=True)),
        )


def _over_models(
    scores: Mapping[str, Sequence[PatientScore]], models: Sequence[str]
) -> list[float]:
    """Each patient's Dice, averaged over models."""
    return [
        mean([score.dice for score in of_patient])
        for of_patient in zip(*(scores[name] for name in models), strict=True)
    ]
