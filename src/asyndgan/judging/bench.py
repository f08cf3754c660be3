"""Trains segmentation networks in parallel, or reads their predictions from a cache."""

import base64
import json
import os
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import nn

from asyndgan.arrays import Masks
from asyndgan.errors import DataError
from asyndgan.judging.metrics import ScoreArray, score_array
from asyndgan.judging.table import Scores
from asyndgan.judging.work import OnProgress, Work
from asyndgan.models.budgets import SegmentationBudget
from asyndgan.received import contents
from asyndgan.store.cohort import digest_of
from asyndgan.store.prepare import blanked, lacked_by_all
from asyndgan.store.prepared import Case
from asyndgan.texts import sha256_of, storing, without_empty
from asyndgan.training.segmentation import TRAINING_VERSION, predict, train_segmenter

TrainingSet = Sequence[Case] | Mapping[str, Sequence[Case]]
"""The cases of one training; by site if `Bench.federated` trains one network of all sites."""

Contenders = Mapping[str, Sequence[TrainingSet]]
"""Training sets of each model, one per seed, by the model's name."""


class Found(NamedTuple):
    """Scores of each seed and patient, and the predictions of each model's first seed."""

    scores: Scores
    masks: dict[str, Masks]


@final
@dataclass(frozen=True)
class Judged:
    """Whom networks are judged on, and by which labels."""

    cases: Sequence[Case]  # real, of patients that train no network
    labels: Mapping[str, int]  # value by name, background included
    targets: Sequence[str] | None = None  # labels to judge by; None: all whose value is not 0
    kind: str = "test"  # or "validation", if the cases were held out of the sites' patients

    def names(self) -> list[str]:
        """Names of the labels that are judged; raises `DataError` if one or all are none."""
        known = [name for name, value in self.labels.items() if value]
        names = known if self.targets is None else list(self.targets)
        unknown = [name for name in names if name not in self.labels]
        if unknown or not names:
            raise DataError(
                f"cannot judge by label {unknown[0] if unknown else '(none)'}; "
                f"the data set has {', '.join(self.labels)}."
            )
        return names

    def scores(self, of_seeds: Sequence[Masks], *, unlabelled: bool) -> dict[str, ScoreArray]:
        """Scores of each label that is judged, of the predictions of several seeds.

        `unlabelled` as in `SegmentationBudget`.
        """
        if unlabelled:
            known = torch.stack([case.mask for case in self.cases]) != 0
            of_seeds = [one.where(known, 0) for one in of_seeds]
        return {name: score_array(self.cases, of_seeds, self.labels[name]) for name in self.names()}


@final
@dataclass(frozen=True)
class Bench:
    """How segmentation networks are trained, and where what comes of it is kept."""

    out: Path  # folder of what is found
    budget: SegmentationBudget = field(default_factory=SegmentationBudget)  # of every training
    seeds: Sequence[int] = (0,)  # each model is trained once per seed
    # networks to train in parallel, on one thread each; None: as many as torch has threads
    workers: int | None = None
    device: str = "cpu"  # to train on
    on_progress: OnProgress | None = None  # takes a text, the steps done and all steps
    # folder of cached predictions, for several comparisons; None: in `out`
    cache: Path | None = None
    # trains a network of cases by site; takes and returns what `train_segmenter` does
    federated: Callable[..., nn.Module] | None = None

    def scores(self, models: Contenders, judged: Judged) -> Found:
        """Trains and judges the models, `workers` networks in parallel on one thread each.

        Raises:
            DataError: a model or the test set has no cases, or they or the labels do not fit
                together.
            NotFiniteError: a loss became infinite or NaN.
            ValueError: a model has no training set, or more than there are seeds.
        """
        for model, training_sets in models.items():
            if not 0 < len(training_sets) <= len(self.seeds):
                raise ValueError(f"{model}: {len(training_sets)} sets for {len(self.seeds)} seeds.")
            for cases in training_sets:
                _check_fit(cases, judged)
        work = Work(self.on_progress, sum(map(len, models.values())) * self.budget.steps)
        trained = _Trainings(self, judged, work)
        workers = self.workers or torch.get_num_threads()
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            trainings = {
                model: [
                    pool.submit(trained.attempt, model, cases, seed)
                    for seed, cases in zip(self.seeds, training_sets, strict=False)
                ]
                for model, training_sets in models.items()
            }
            try:
                masks = {model: [one.result() for one in own] for model, own in trainings.items()}
            except BaseException as error:  # Ctrl-C is raised here, not in the threads
                work.failed = work.failed or error
                raise work.failed from None
        scores = {
            model: judged.scores(own, unlabelled=self.budget.unlabelled)
            for model, own in masks.items()
        }
        return Found(scores, {model: own[0] for model, own in masks.items()})


@final
@dataclass(frozen=True)
class _Trainings:
    """Trainings in progress on one bench, whose steps are counted together."""

    bench: Bench
    judged: Judged
    work: Work

    def attempt(self, model: str, cases: TrainingSet, seed: int) -> Masks:
        """The predictions of a network, trained unless they are kept already."""
        try:
            self.work.go_on()
            return self._predicted(model, cases, seed)
        except BaseException as error:
            self.work.failed = self.work.failed or error
            raise

    def _predicted(self, model: str, cases: TrainingSet, seed: int) -> Masks:
        lacking = lacked_by_all(pooled(cases))
        test = [blanked(case, lacking) if lacking else case for case in self.judged.cases]
        inputs = self._inputs(cases, test, seed)
        key = sha256_of(json.dumps(inputs, sort_keys=True))
        path = (self.bench.cache or self.bench.out / "cache") / f"{key[:32]}.json"
        if path.exists():
            self.work.did(self.bench.budget.steps, f"{model}, seed {seed}")
        else:
            started = time.monotonic()
            train: Any = self.bench.federated if isinstance(cases, Mapping) else train_segmenter
            network: nn.Module = train(
                cases, classes=max(self.judged.labels.values()) + 1, budget=self.bench.budget,
                seed=seed, device=self.bench.device,
                on_progress=lambda *_: self.work.did(1, f"{model}, seed {seed}"),
            )  # fmt: skip
            found = predict(network, torch.stack([case.image for case in test]))
            seconds = round(time.monotonic() - started, 1)
            entry = {"inputs": inputs, "seconds": seconds, **_packed(found)}
            write_whole(path, json.dumps(entry).encode())
        return _unpacked(json.loads(contents(path, 2**32)))

    def _inputs(self, cases: TrainingSet, test: Sequence[Case], seed: int) -> dict[str, Any]:
        """Everything that the predictions depend on."""
        return {
            "training": {site: digest_of_cases(own, with_masks=True) for site, own in cases.items()}
            if isinstance(cases, Mapping)
            else digest_of_cases(cases, with_masks=True),
            "test": digest_of_cases(test, with_masks=False),
            "classes": max(self.judged.labels.values()) + 1,
            "budget": {
                name: value
                for name, value in asdict(self.bench.budget).items()
                if name != "unlabelled" or value  # what was cached before the key came stays good
            },
            "seed": seed,
            "device": torch.device(self.bench.device).type,
            "version": TRAINING_VERSION,
            "torch": torch.__version__,
            "monai": version("monai"),
            "numpy": np.__version__,
        }


def _check_fit(cases: TrainingSet, judged: Judged) -> None:
    flat = pooled(cases)
    if not flat or not judged.cases:
        raise DataError("a comparison needs training cases of every model and test cases.")
    first, other = flat[0], judged.cases[0]
    if first.modalities != other.modalities or first.image.shape != other.image.shape:
        raise DataError(
            f"training cases have {', '.join(first.modalities)} in size "
            f"{tuple(first.image.shape[1:])}, test cases {', '.join(other.modalities)} in "
            f"size {tuple(other.image.shape[1:])}; prepare all by one recipe."
        )


def pooled(cases: TrainingSet) -> list[Case]:
    """All cases of a training set, over all sites."""
    return list(chain.from_iterable(cases.values()) if isinstance(cases, Mapping) else cases)


def digest_of_cases(cases: Sequence[Case], *, with_masks: bool) -> str:
    """SHA-256 of the cases' tensors in their order, since a training depends on the order."""
    parts = ((case.image, case.mask) if with_masks else (case.image,) for case in cases)
    return digest_of(chain.from_iterable(parts))


def _packed(masks: Masks) -> dict[str, Any]:
    data = zlib.compress(masks.to(torch.int16).cpu().numpy().astype("<i2").tobytes())
    return {"shape": list(masks.shape), "masks": base64.b64encode(data).decode()}


def _unpacked(entry: Mapping[str, Any]) -> Masks:
    data = np.frombuffer(zlib.decompress(base64.b64decode(entry["masks"])), dtype="<i2")
    return torch.from_numpy(data.astype(np.int64)).reshape(entry["shape"])


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file atomically, also from several threads; raises `StorageError` if it cannot."""
    with storing(path), without_empty(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
