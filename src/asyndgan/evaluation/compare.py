"""What a synthetic training set is worth: one network, trained on real and on synthetic cases.

Every model of a comparison has the same network, budget and augmentation (`segmentation.py`) and
is judged on the same real patients (`metrics.py`); only its training cases differ.
"""

import base64
import hashlib
import json
import math
import os
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

import monai
import numpy as np
import torch

from asyndgan.arrays import Masks
from asyndgan.data.case import Case
from asyndgan.data.splits import split_patients
from asyndgan.errors import DataError
from asyndgan.evaluation.figures import plot_dice, plot_examples
from asyndgan.evaluation.metrics import (
    PatientScore,
    bootstrap_interval,
    paired_ratio_interval,
    score_patients,
)
from asyndgan.evaluation.segmentation import (
    TRAINING_VERSION,
    SegmentationBudget,
    predict,
    train_segmenter,
)
from asyndgan.evaluation.table import (
    REAL_ALL,
    SITE_PREFIX,
    SYNTHETIC,
    Evaluation,
    Levelling,
    Row,
    Scores,
    counted,
)

HELD_OUT = 0.2
"""Part of each site's patients that `evaluate_on_validation` and `levelled_off` judge on."""

LONGER = 1.5
"""Times the budget that `levelled_off` compares the budget with."""

OnProgress = Callable[[str, int, int], None]
"""Called with what is being trained, the steps done and the steps of the whole evaluation.

A check of the budget counts its steps anew.
"""


@final
@dataclass
class _Bench:
    """Trains networks on one machine, or finds what they predicted in the cache.

    Attributes:
        test: whom the networks are judged on.
        labels: every label's value.
        targets: the labels that are judged.
        seeds: of the trainings of each model.
        out: the evaluation's folder.
        device: where to train.
        on_progress: told after every step.
        total: steps of the whole evaluation.
        workers: networks that are trained at a time.
        done: steps that are done or were found.
        lock: over `done`.
        stop: set when one training failed, so that the others end too.
    """

    test: Sequence[Case]
    labels: Mapping[str, int]
    targets: Sequence[str]
    seeds: Sequence[int]
    out: Path
    device: str
    on_progress: OnProgress | None
    total: int
    workers: int
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)

    def scores(
        self, models: Mapping[str, Sequence[Case]], budget: SegmentationBudget
    ) -> tuple[Scores, dict[str, Masks]]:
        """Scores averaged over seeds, and the masks that each model's first seed predicts.

        `workers` networks are trained at a time, on one thread each.
        """
        for cases in models.values():
            _check_fit(cases, self.test)
        with ThreadPoolExecutor(
            self.workers, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            trainings = {
                model: [
                    pool.submit(self._attempt, model, cases, budget, seed) for seed in self.seeds
                ]
                for model, cases in models.items()
            }
            try:
                masks = {model: [one.result() for one in own] for model, own in trainings.items()}
            except BaseException:  # Ctrl-C comes here, not to the threads
                self.stop.set()
                raise
        scores = {
            model: {target: self._average_score(found, target) for target in self.targets}
            for model, found in masks.items()
        }
        return scores, {model: found[0] for model, found in masks.items()}

    def _attempt(
        self, model: str, cases: Sequence[Case], budget: SegmentationBudget, seed: int
    ) -> Masks:
        if self.stop.is_set():
            raise CancelledError
        try:
            return self._predicted(model, cases, budget, seed)
        except BaseException:
            self.stop.set()
            raise

    def _average_score(self, masks: Sequence[Masks], target: str) -> list[PatientScore]:
        return _average([score_patients(self.test, found, self.labels[target]) for found in masks])

    def _predicted(
        self,
        model: str,
        cases: Sequence[Case],
        budget: SegmentationBudget,
        seed: int,
    ) -> Masks:
        inputs = self._inputs(_digest(cases, with_masks=True), budget, seed)
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        path = self.out / "cache" / f"{key[:32]}.json"
        if not path.exists():
            started = time.monotonic()
            network = train_segmenter(
                cases,
                classes=inputs["classes"],
                budget=budget,
                seed=seed,
                on_progress=lambda step, _: self._tell(f"{model}, seed {seed}", step),
                device=self.device,
            )
            found = predict(network, torch.stack([case.image for case in self.test]))
            seconds = round(time.monotonic() - started, 1)
            entry = {"inputs": inputs, "seconds": seconds, **_packed(found)}
            _write(path, json.dumps(entry).encode())
        with self.lock:
            self.done += budget.steps
        self._tell(f"{model}, seed {seed}", 0)
        return _unpacked(json.loads(path.read_bytes()))

    def _inputs(self, digest: str, budget: SegmentationBudget, seed: int) -> dict[str, Any]:
        """Everything that the predictions depend on."""
        return {
            "training": digest,
            "test": _digest(self.test, with_masks=False),
            "classes": max(self.labels.values()) + 1,
            "budget": asdict(budget),
            "seed": seed,
            "device": torch.device(self.device).type,
            "version": TRAINING_VERSION,
            "torch": torch.__version__,
            "monai": monai.__version__,
            "numpy": np.__version__,
        }

    def _tell(self, text: str, step: int) -> None:
        if self.stop.is_set():
            raise CancelledError
        if self.on_progress:
            self.on_progress(text, self.done + step, self.total)


def evaluate(
    *,
    sites: Mapping[str, Sequence[Case]],
    test: Sequence[Case],
    synthetic: Sequence[Case] | None,
    labels: Mapping[str, int],
    out: Path,
    targets: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    budget: SegmentationBudget | None = None,
    check_budget: bool = False,
    about: Mapping[str, str] | None = None,
    workers: int = 1,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Trains on all real cases, on each site's and on the synthetic ones; judges on `test`.

    What the networks predict is kept in `out/cache`, so an evaluation that was interrupted, or
    repeated with other labels, trains only what is missing.

    Args:
        sites: real training cases of each site, by the site's name.
        test: real cases of patients that no site holds.
        synthetic: synthetic training cases; None compares the real ones only.
        labels: name and value of every label, background included.
        out: folder for `evaluation.json`, `dice.png`, `dice.svg`, `examples.png` and `cache/`.
        targets: names of the labels to judge by; by default all but value 0.
        seeds: one training of each model a seed.
        budget: of every training; by default `SegmentationBudget()`.
        check_budget: also run `levelled_off`.
        about: kept in the table, such as the run that painted the synthetic cases.
        workers: networks to train at a time, on one thread each.
        device: where to train.
        on_progress: called with a text, the steps done and all steps.

    Raises:
        DataError: there are no cases, or cases, labels or targets do not fit together.
        NotFiniteError: a loss became infinite or not a number.
    """
    return _evaluate(
        sites, test, synthetic, labels, out, targets, seeds, budget or SegmentationBudget(),
        check_budget, workers, device, on_progress, "test", about or {},
    )  # fmt: skip


def evaluate_on_validation(
    *,
    sites: Mapping[str, Sequence[Case]],
    synthetic: Sequence[Case] | None,
    labels: Mapping[str, int],
    out: Path,
    targets: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    budget: SegmentationBudget | None = None,
    split_seed: int = 0,
    workers: int = 1,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Like `evaluate`, judged on a fifth of each site's patients: for choosing recipes.

    Test patients stay unseen until a recipe is chosen. The real models train on the other four
    fifths. The synthetic cases are taken as they are: train their generator without the held-out
    patients (`hold_out` names them), or `synthetic` is judged on patients that it has seen.

    Args:
        sites: as in `evaluate`.
        synthetic: as in `evaluate`.
        labels: as in `evaluate`.
        out: as in `evaluate`.
        targets: as in `evaluate`.
        seeds: as in `evaluate`.
        budget: as in `evaluate`.
        split_seed: of the choice of patients.
        workers: as in `evaluate`.
        device: as in `evaluate`.
        on_progress: as in `evaluate`.

    Raises:
        DataError: as `evaluate` does.
        NotFiniteError: as `evaluate` does.
    """
    training, validation = hold_out(sites, seed=split_seed)
    return _evaluate(
        training, validation, synthetic, labels, out, targets, seeds,
        budget or SegmentationBudget(), False, workers, device, on_progress, "validation", {},
    )  # fmt: skip


def levelled_off(
    *,
    sites: Mapping[str, Sequence[Case]],
    labels: Mapping[str, int],
    out: Path,
    targets: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    budget: SegmentationBudget | None = None,
    split_seed: int = 0,
    workers: int = 1,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
) -> tuple[Levelling, ...]:
    """Trains on all real cases for the budget and for half as many steps again.

    A budget is long enough to compare training sets by if the longer training gains next to
    nothing. Judged on a fifth of the sites' patients, never on test patients.

    Args:
        sites: as in `evaluate`.
        labels: as in `evaluate`.
        out: its `cache/` keeps what the networks predicted.
        targets: as in `evaluate`.
        seeds: as in `evaluate`.
        budget: as in `evaluate`.
        split_seed: of the choice of patients.
        workers: as in `evaluate`.
        device: as in `evaluate`.
        on_progress: as in `evaluate`.

    Returns:
        One result a target.

    Raises:
        DataError: as `evaluate` does.
        NotFiniteError: as `evaluate` does.
    """
    budget = budget or SegmentationBudget()
    longer = replace(budget, steps=math.ceil(LONGER * budget.steps))
    training, validation = hold_out(sites, seed=split_seed)
    total = len(seeds) * (budget.steps + longer.steps)
    names = _targets(labels, targets)
    bench = _Bench(validation, labels, names, seeds, out, device, on_progress, total, workers)
    pooled = [case for cases in training.values() for case in cases]
    (short,) = bench.scores({"budget check": pooled}, budget)[0].values()
    (long,) = bench.scores({"budget check, longer": pooled}, longer)[0].values()
    results = []
    for name in names:
        before, after = (_mean([s.dice for s in scores[name]]) for scores in (short, long))
        counted = sum(not math.isnan(score.dice) for score in short[name])
        results.append(
            Levelling(
                name, budget.steps, longer.steps, before, after, after - before, counted, len(seeds)
            )
        )
    return tuple(results)


def hold_out(
    sites: Mapping[str, Sequence[Case]], *, seed: int = 0
) -> tuple[dict[str, list[Case]], list[Case]]:
    """Splits each site's patients into four fifths for training and one for validation.

    Returns:
        The sites' remaining cases, and the held-out cases of all sites; those carry the site's
        name in front of the patient's, since two sites may use one name for two patients. A site
        of one patient keeps it.

    Raises:
        DataError: every site has one patient.
    """
    training: dict[str, list[Case]] = {}
    held_out: list[Case] = []
    parts = {"training": 1 - HELD_OUT, "validation": HELD_OUT}
    for site, cases in sites.items():
        patients = [case.patient for case in cases]
        if len(set(patients)) < len(parts):
            training[site] = list(cases)
            continue
        split = split_patients(patients, parts, seed)
        training[site] = [cases[index] for index in split["training"]]
        held_out += [
            replace(cases[index], patient=f"{site}/{cases[index].patient}")
            for index in split["validation"]
        ]
    if not held_out:
        raise DataError(
            "no site has a second patient, so none can be held out. Judge on test patients, "
            "without the check of the budget."
        )
    return training, held_out


def _evaluate(
    sites: Mapping[str, Sequence[Case]],
    test: Sequence[Case],
    synthetic: Sequence[Case] | None,
    labels: Mapping[str, int],
    out: Path,
    targets: Sequence[str] | None,
    seeds: Sequence[int],
    budget: SegmentationBudget,
    check_budget: bool,
    workers: int,
    device: str,
    on_progress: OnProgress | None,
    judged_on: str,
    about: Mapping[str, str],
) -> Evaluation:
    names = _targets(labels, targets)
    training = _models(sites, synthetic)
    total = len(training) * len(seeds) * budget.steps
    bench = _Bench(test, labels, names, seeds, out, device, on_progress, total, workers)
    scores, masks = bench.scores(training, budget)
    rows = tuple(
        _row(model, name, scores, len(training[model]), len(seeds))
        for name in names
        for model in training
    )
    levelling: tuple[Levelling, ...] = ()
    if check_budget:
        levelling = levelled_off(
            sites=sites, labels=labels, targets=names, seeds=seeds, budget=budget, out=out,
            workers=workers, device=device, on_progress=on_progress,
        )  # fmt: skip
    headline = "\n".join(_headline(name, rows) for name in names)
    evaluation = Evaluation(
        headline, rows, scores, levelling, judged_on, budget, tuple(seeds), about
    )
    _write(out / "evaluation.json", json.dumps(evaluation.to_tables(), indent=1).encode())
    plot_dice(evaluation, out)
    plot_examples(evaluation, test, masks, {name: labels[name] for name in names}, out)
    return evaluation


def _targets(labels: Mapping[str, int], targets: Sequence[str] | None) -> list[str]:
    names = [name for name, value in labels.items() if value] if targets is None else list(targets)
    unknown = [name for name in names if name not in labels]
    if unknown or not names:
        raise DataError(
            f"cannot judge by label {unknown[0] if unknown else '(none)'}; "
            f"the data set has {', '.join(labels)}."
        )
    return names


def _models(
    sites: Mapping[str, Sequence[Case]], synthetic: Sequence[Case] | None
) -> dict[str, Sequence[Case]]:
    models: dict[str, Sequence[Case]] = {
        REAL_ALL: [case for cases in sites.values() for case in cases]
    }
    if synthetic is not None:
        models[SYNTHETIC] = synthetic
    return models | {SITE_PREFIX + name: cases for name, cases in sites.items()}


def _check_fit(cases: Sequence[Case], test: Sequence[Case]) -> None:
    if not cases or not test:
        raise DataError("a comparison needs training cases of every model and test cases.")
    if cases[0].modalities != test[0].modalities or cases[0].image.shape != test[0].image.shape:
        raise DataError(
            f"training cases have {', '.join(cases[0].modalities)} in size "
            f"{tuple(cases[0].image.shape[1:])}, test cases {', '.join(test[0].modalities)} in "
            f"size {tuple(test[0].image.shape[1:])}; prepare all by one recipe."
        )


def _average(by_seed: Sequence[Mapping[str, PatientScore]]) -> list[PatientScore]:
    """Each patient's scores, averaged over the seeds in which the patient counts."""
    return [
        PatientScore(
            *(
                _mean([getattr(scores[patient], name) for scores in by_seed])
                for name in ("dice", "hd95", "assd")
            )
        )
        for patient in by_seed[0]
    ]


def _mean(values: Sequence[float]) -> float:
    counted = [value for value in values if not math.isnan(value)]
    return math.fsum(counted) / len(counted) if counted else math.nan


def _row(model: str, label: str, scores: Scores, cases: int, seeds: int) -> Row:
    mine = scores[model][label]
    dice = [score.dice for score in mine]
    reference = [score.dice for score in scores[REAL_ALL][label]]
    both = [pair for pair in zip(dice, reference, strict=True) if not math.isnan(sum(pair))]
    below = _mean([pair[1] for pair in both])
    low, high = bootstrap_interval(dice)
    ratio_low, ratio_high = paired_ratio_interval(dice, reference)
    return Row(
        model=model,
        label=label,
        seeds=seeds,
        patients=sum(not math.isnan(value) for value in dice),
        cases=cases,
        dice_mean=_mean(dice),
        dice_low=low,
        dice_high=high,
        hd95_mean=_mean([score.hd95 for score in mine]),
        assd_mean=_mean([score.assd for score in mine]),
        ratio=_mean([pair[0] for pair in both]) / below if below else math.nan,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
    )


def _headline(label: str, rows: Sequence[Row]) -> str:
    of_model = {row.model: row for row in rows if row.label == label}
    real = of_model[REAL_ALL]
    counts = f"{counted(real.patients, 'patient')}, {counted(real.seeds, 'seed')}"
    single = _mean([row.ratio for row in of_model.values() if row.model.startswith(SITE_PREFIX)])
    sites = f"single sites {single:.2f} on average"
    if SYNTHETIC not in of_model:
        return f"{label}: all real images reach Dice {real.dice_mean:.3f} ({counts}); {sites}"
    synthetic = of_model[SYNTHETIC]
    return (
        f"{label}: a model trained on synthetic images alone reaches {synthetic.ratio:.2f} "
        f"({synthetic.ratio_low:.2f} to {synthetic.ratio_high:.2f}) of the all-real Dice "
        f"({synthetic.dice_mean:.3f} against {real.dice_mean:.3f}, {counts}); {sites}"
    )


def _digest(cases: Sequence[Case], *, with_masks: bool) -> str:
    """SHA-256 of the cases' tensors in their order, which a training depends on."""
    digest = hashlib.sha256()
    for case in cases:
        for tensor in (case.image, case.mask) if with_masks else (case.image,):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _packed(masks: Masks) -> dict[str, Any]:
    data = zlib.compress(masks.to(torch.int16).cpu().numpy().astype("<i2").tobytes())
    return {"shape": list(masks.shape), "masks": base64.b64encode(data).decode()}


def _unpacked(entry: Mapping[str, Any]) -> Masks:
    data = np.frombuffer(zlib.decompress(base64.b64decode(entry["masks"])), dtype="<i2")
    return torch.from_numpy(data.astype(np.int64)).reshape(entry["shape"])


def _write(path: Path, content: bytes) -> None:
    """All or nothing: an interruption leaves the old file, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
