"""Runs a suite: trains the missing models, evaluates them and collects the tables."""

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from asyndgan import __version__
from asyndgan.errors import RecipeError
from asyndgan.judging.bench import Bench, OnProgress, write_whole
from asyndgan.painting.synthesise import PAINTING_VERSION
from asyndgan.painting.translation import TRANSLATION_VERSION
from asyndgan.training.segmentation import TRAINING_VERSION
from lab.digests import digest_of_files
from lab.fedavg import train_fedavg
from lab.judging import Judging
from lab.real import Real, groups_of
from lab.result import SuiteResult
from lab.scores import by_key, joined, pd, write_scores
from lab.suite import Suite
from lab.trainings import Training, train_all, trainings_of
from lab.views import views


def run_suite(
    text: str,
    data: Path,
    out: Path,
    *,
    workers: int = 1,
    device: str = "cpu",
    on_training: OnProgress | None = None,
    on_evaluation: OnProgress | None = None,
) -> SuiteResult:
    """Trains and evaluates the models of a suite; results that exist already are reused.

    Args:
        text: the suite, as TOML.
        data: folder that contains the data sets.
        out: folder for runs, evaluations, the cache, `suite.json` and `scores.csv.gz`.
        workers: number of trainings in parallel, one core each.
        device: device of the networks.
        on_training: progress of the generators: called with a text, the steps done and all steps.
        on_evaluation: progress of the segmentation networks, likewise.

    Raises:
        RecipeError: the suite or a recipe in it is invalid.
        DataError, CohortError, RunError, NotFiniteError: as in `train` and `evaluate`.
    """
    suite = Suite.from_toml(text)
    suite.plan(data)
    # Loading the real cases first reports errors in them before hours of training.
    real = {part.name: Real(suite, part, data) for part in suite.sets}
    judged = {part.name: _patients(suite, real[part.name], data) for part in suite.sets}
    trainings = list(trainings_of(suite, data, out, device))
    train_all(trainings, workers, on_training)
    result = _begun(suite, trainings, data, device)
    bench = Bench(
        out, workers=workers, device=device, on_progress=on_evaluation, cache=out / "cache",
        federated=train_fedavg,
    )  # fmt: skip
    scores: list[pd.DataFrame] = []
    for part in suite.sets:
        result.groups[part.name] = groups_of(part, judged[part.name])
        for fold in range(suite.folds):
            own = Real(suite, part, data, fold) if fold else real[part.name]
            first = judged[part.name].index(own.patients[0])
            for model in suite.models:
                scores += Judging(suite, own, model, bench, first).add_to(result)
    table = joined(scores)
    write_scores(table, out)
    for name, rows in views(suite, by_key(table), result.groups, result.costs).items():
        getattr(result, name).extend(rows)
    write_whole(out / "suite.json", json.dumps(result.to_tables(), indent=1).encode())
    return result


def _patients(suite: Suite, real: Real, data: Path) -> tuple[str, ...]:
    """The patients judged in a set, fold by fold.

    Raises:
        RecipeError: a site has too few patients for the folds.
    """
    folds = range(1, suite.folds)
    others = (Real(suite, real.part, data, fold).patients for fold in folds)
    patients = tuple(chain(real.patients, *others))
    kept = {f"{site}/{case.patient}" for site, cases in real.sites.items() for case in cases}
    if folds and sorted(patients) != sorted({*kept, *real.patients}):
        raise RecipeError(
            f"set {real.part.name}: a site has too few patients for {suite.folds} folds, so they "
            "would judge somebody twice or not at all. Set folds to a smaller number."
        )
    return patients


def _begun(suite: Suite, trainings: Sequence[Training], data: Path, device: str) -> SuiteResult:
    """The result of a suite, without rows, and the digest of everything that it depends on."""
    about = {one.name: one.about() for one in trainings}
    judged_on = {
        f"{part.folder}/{name}": digest_of_files(data / part.folder / name, truths)
        for part in suite.sets
        for name, truths in part.unseen(suite.judged_on).items()
    }
    versions = {
        "asyndgan": __version__, "torch": torch.__version__, "monai": version("monai"),
        "numpy": np.__version__, "python": platform.python_version(),
    }  # fmt: skip
    hashed = [
        suite.model_dump(mode="json"), about, judged_on, device, versions, PAINTING_VERSION,
        TRAINING_VERSION,
    ]  # fmt: skip
    recipes = {part.name: suite.recipe(part, suite.models[0], 0) for part in suite.sets}
    if unmirrored := [name for name, recipe in recipes.items() if not recipe.training.flip]:
        hashed.append(unmirrored)  # once they were judged by networks that saw mirrored images
    if any(part.completion for part in suite.sets):
        hashed.append(TRANSLATION_VERSION)
    return SuiteResult(
        suite=suite.name,
        judged_on=suite.judged_on,
        seeds=suite.seeds,
        segmentation_seeds=suite.segmentation_seeds,
        versions=versions,
        folds=suite.folds,
        digest=hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest(),
        device=device,
        test_sets=judged_on,
        trainings=about,
    )  # fmt: skip
