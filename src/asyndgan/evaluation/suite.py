"""A suite of comparisons, read from a file: what to train, on which sets, with which seeds.

Everything that a suite trains lies in its output folder and is found again there: a suite that was
interrupted goes on where it stopped, and one that gained a line trains only that.
"""

import hashlib
import json
import math
import platform
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from re import fullmatch
from typing import Annotated, Any, Literal, Self, final

import monai
import numpy as np
import torch
from pydantic import Field, StringConstraints, ValidationError, model_validator

from asyndgan import __version__
from asyndgan.data import Case
from asyndgan.data.nnunet import describe, list_cases, patient_of
from asyndgan.data.prepare import load_cases
from asyndgan.data.splits import hold_out
from asyndgan.errors import RecipeError, RunError
from asyndgan.evaluation.agreement import agreeing
from asyndgan.evaluation.baselines import train_fedgan
from asyndgan.evaluation.bench import Contenders, OnProgress, mean, write_whole
from asyndgan.evaluation.compare import compare, contenders
from asyndgan.evaluation.distance import distances
from asyndgan.evaluation.metrics import PatientScore, bootstrap_interval
from asyndgan.evaluation.of_run import MOVED, OF_SITES, masks_of, painted_once
from asyndgan.evaluation.segmentation import SegmentationBudget
from asyndgan.evaluation.table import (
    ADDED,
    FEDGAN,
    REAL_ALL,
    SITE_PREFIX,
    SYNTHETIC,
    Evaluation,
    of_single_sites,
    without_nan,
)
from asyndgan.recipe import ImageSection, Recipe, Section, explained
from asyndgan.runs import RunFacts, RunFolder, load_recipe, train

_SCORES = ("dice", "hd95", "assd")

VALIDATION_PART = 0.2
"""Part of each site's patients that a suite judged on validation holds out of every training."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


@final
class SetSection(Section):
    """A data set with its sites."""

    name: Name
    folder: str = Field(description="below the data folder")
    sites: tuple[Name, ...] = Field(min_length=1, description="folders of the sites in it")
    test: str = Field("test", description="folder of the test patients in it")
    label: str = Field(description="what to judge by")
    apart: dict[str, str] = Field(
        {}, description="test patients to report apart: heading to a pattern of their names"
    )
    overrides: tuple[str, ...] = Field((), description="KEY=VALUE of the recipes on this set")


@final
class ModelSection(Section):
    """A recipe and what to compare it with."""

    name: Name
    recipe: str = Field(description="name or file of a recipe")
    overrides: tuple[str, ...] = Field((), description="KEY=VALUE of the recipe")
    on: dict[str, tuple[str, ...]] = Field(
        {}, description="further KEY=VALUE on one set, by the set's name"
    )
    fedgan: bool = Field(False, description="also by averaging weights, with the same networks")
    augmented: bool = Field(False, description="also each site's real cases with synthetic ones")


@final
class PaintingSection(Section):
    """A synthetic set; the defaults are those of `asyndgan evaluate`."""

    images: int = Field(
        1 + MOVED, ge=1, le=1000, description="of each mask: one of itself, the others of it moved"
    )
    mixed: int = Field(
        0,
        ge=0,
        le=1000,
        description="further images of each mask, with regions of the set's label exchanged for "
        "those of another mask",
    )
    dropped: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="part of the images left out: those that a network trained on the others "
        "contradicts most",
    )

    @property
    def folder(self) -> str:
        """Of the set, in a run's folder; what is dropped lies there too."""
        return f"synthetic-x{self.images}" + (f"-mixed{self.mixed}" if self.mixed else "")

    @property
    def ending(self) -> str:
        """Of the folder of its evaluation."""
        dropped = f"-without{self.dropped:g}" if self.dropped else ""
        return self.folder.removeprefix("synthetic-") + dropped


@final
class Suite(Section):
    """What to compare."""

    name: Name
    judged_on: Literal["test", "validation"] = "test"
    seeds: int = Field(1, ge=1, le=100, description="trainings of everything")
    segmentation_seeds: int = Field(
        1, ge=1, le=100, description="segmentation networks a training set of each seed"
    )
    segmentation_steps: int = Field(SegmentationBudget().steps, ge=1)
    single_sites: bool = Field(True, description="also each site's real cases alone")
    networks: tuple[str, ...] = Field(
        (), description="further segmentation networks for all real and synthetic cases"
    )
    paintings: tuple[PaintingSection, ...] = Field(
        (), description="further synthetic sets of every model"
    )
    fedavg: bool = Field(False, description="also one network that all sites train together")
    sets: tuple[SetSection, ...] = Field(min_length=1)
    models: tuple[ModelSection, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_name_once(self) -> Self:
        for kind, parts in (("sets", self.sets), ("models", self.models)):
            (name, count), *_ = Counter(part.name for part in parts).most_common(1)
            if count > 1:
                raise ValueError(f"two of {kind} are called '{name}'; rename one")
        names = [part.name for part in self.sets]
        for model in self.models:
            unknown = [name for name in model.on if name not in names]
            if unknown:
                raise ValueError(f"model {model.name} is set on '{unknown[0]}', which is no set")
        return self

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Reads a suite.

        Raises:
            RecipeError: on anything that is unknown, missing or out of range, in the suite or in
                one of the recipes that it names.
        """
        try:
            tables = tomllib.loads(text)
            suite = cls.model_validate(tables)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"the suite is not valid TOML: {error}") from error
        except ValidationError as error:
            known = [*cls.model_fields, *SetSection.model_fields, *ModelSection.model_fields]
            name = tables.get("name", "unnamed")
            raise RecipeError(f"suite '{name}':\n{explained(error, known)}") from error
        for network in suite.networks:
            SegmentationBudget(network=network)
        for part in suite.sets:
            grids = {model.name: suite.recipe(part, model, 0).image for model in suite.models}
            first, *others = grids
            for other in others:
                if grids[other] != grids[first]:
                    raise RecipeError(
                        f"suite '{suite.name}', set {part.name}: models {first} and {other} "
                        "prepare images in different ways, so their tables cannot be one. Give "
                        "them the same image section, or make two suites."
                    )
        return suite

    def recipe(self, part: SetSection, model: ModelSection, seed: int) -> Recipe:
        """The resolved recipe of one training."""
        held_out = VALIDATION_PART if self.judged_on == "validation" else 0.0
        return load_recipe(
            model.recipe,
            [
                *model.overrides,
                *part.overrides,
                *model.on.get(part.name, ()),
                f"training.seed={seed}",
                f"training.hold_out={held_out}",
            ],
        )

    def trainings(self, data: Path, out: Path) -> Iterator["Training"]:
        """Everything that has to be trained before segmentation networks are."""
        for seed in range(self.seeds):
            for part in self.sets:
                for model in self.models:
                    recipe = self.recipe(part, model, seed)
                    sites = {name: data / part.folder / name for name in part.sites}
                    where = out / "runs" / part.name
                    yield Training(recipe, sites, where / f"{model.name}-{seed}", fedgan=False)
                    if model.fedgan:
                        yield Training(
                            recipe, sites, where / f"{model.name}-fedgan-{seed}", fedgan=True
                        )


@final
@dataclass(frozen=True)
class Training:
    """One generator to train; `run` may happen in another process.

    Attributes:
        recipe: resolved.
        sites: folder of each site's data by name.
        out: its run folder.
        fedgan: by averaging weights.
    """

    recipe: Recipe
    sites: dict[str, Path]
    out: Path
    fedgan: bool

    def finished(self) -> bool:
        """Whether the run is there as wanted.

        Raises:
            RunError: if the folder holds a run of another recipe.
        """
        folder = RunFolder(self.out)
        if not folder.facts_file.exists():
            return False
        if folder.recipe().digest() != self.recipe.digest():
            raise RunError(
                f"{self.out} holds a run of another recipe. Rename the model in the suite, or "
                "remove the folder."
            )
        return folder.facts().state == "finished"

    def steps_done(self) -> int:
        """As its metrics tell."""
        records = RunFolder(self.out).metrics()
        return records[-1]["step"] + 1 if records else 0

    def run(self) -> None:
        """Trains on one thread, from the newest checkpoint if there is one."""
        torch.set_num_threads(1)
        if self.fedgan:
            train_fedgan(self.recipe, self.sites, self.out)
        else:
            resume = RunFolder(self.out).facts_file.exists()
            train(self.recipe, self.sites, self.out, resume=resume)


@final
@dataclass(frozen=True)
class Difference:
    """A paired difference of Dice: positive where `model` is better than `over`.

    Attributes:
        set_name: of the data.
        recipe: name of the suite's model.
        model: row of the table.
        over: row that it is compared with. `every real:NAME+synthetic` over `real:NAME` compares
            each patient's mean over the sites' models.
        label: what it is judged by.
        patients: that count in both.
        difference: mean over patients.
        low: lower end of the 95 % bootstrap interval over patients.
        high: upper end.
    """

    set_name: str
    recipe: str
    model: str
    over: str
    label: str
    patients: int
    difference: float
    low: float
    high: float


@final
@dataclass(frozen=True)
class SuiteResult:
    """What a suite found; `suite.json` holds the same.

    Attributes:
        suite: name.
        judged_on: test or validation patients.
        versions: of what computed it.
        digest: SHA-256 of the suite's own text, in hexadecimal.
        rows: one for each set, recipe and model: the keys of `table.Row`, and `set`, `recipe`;
            `bytes_a_step` and `seconds` of generators, mean over seeds.
        apart: the same keys, for patients that a set reports apart.
        differences: paired.
        distances: one for each set, recipe and generator: `Distances`, mean over seeds.
        networks: rows of further segmentation networks: the keys of `table.Row`, and `network`.
        paintings: rows of further synthetic sets: the keys of `table.Row` and `PaintingSection`.
        evaluations: folder of each (set, recipe), below the output folder.
    """

    suite: str
    judged_on: str
    versions: dict[str, str]
    digest: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    apart: list[dict[str, Any]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    distances: list[dict[str, Any]] = field(default_factory=list)
    networks: list[dict[str, Any]] = field(default_factory=list)
    paintings: list[dict[str, Any]] = field(default_factory=list)
    evaluations: dict[str, str] = field(default_factory=dict)

    def to_tables(self) -> dict[str, Any]:
        """Nested dictionaries and lists for JSON; None where a number cannot be computed."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain


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
        futures: dict[Future[None], Training] = {
            pool.submit(training.run): training for training in waiting
        }
        try:
            pending: set[Future[None]] = set(futures)
            while pending:
                ended, pending = wait(pending, timeout=5, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()
                if on_progress:
                    done = before + sum(training.steps_done() for training in waiting)
                    at_work = [str(futures[f].out.name) for f in pending if f.running()]
                    on_progress(", ".join(at_work[:workers]) or "generators", done, steps)
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
                **_cost([run.facts() for run in runs.get(row.model, [])]),
            }
            for row in evaluation.rows
            if row.model in about
        )
        result.apart.extend(
            {**about[row["model"]], **row}
            for row in _apart(self.part, evaluation, judged)
            if row["model"] in about
        )
        for name, of_seeds in painted.items():
            measured = [asdict(distances(cases, real)) for cases in of_seeds]
            result.distances.append({**about[name], "model": name, **_mean_of(measured)})
        result.differences.extend(_differences(self.part, self.model, evaluation))
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
            )
        for painting in self.suite.paintings:
            models = {
                REAL_ALL: models[REAL_ALL],
                SYNTHETIC: self._painted({SYNTHETIC: runs[SYNTHETIC]}, real, painting)[SYNTHETIC],
            }
            evaluation = self._compare(models, judged, ending=painting.ending)
            row = evaluation.row(SYNTHETIC, self.part.label)
            result.paintings.append({**about[SYNTHETIC], **painting.model_dump(), **asdict(row)})

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
        return SegmentationBudget(network=network, steps=self.suite.segmentation_steps)

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
            targets=[self.part.label],
            seeds=range(self.suite.seeds * repeats),
            budget=self._budget(network),
            judged_on=self.suite.judged_on,
            about={"set": self.part.name, "recipe": self.model.name},
            workers=self.workers,
            device="cpu",
            on_progress=self.on_progress,
        )


def _cost(runs: Sequence[RunFacts]) -> dict[str, float | None]:
    """Mean over seeds: seconds of training, and bytes that left and came to a site a step."""
    if not runs:
        return {"seconds": None, "bytes_a_step": None}
    return {
        "seconds": mean([run.seconds for run in runs]),
        "bytes_a_step": round(mean([run.bytes_a_step for run in runs])),
    }


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
