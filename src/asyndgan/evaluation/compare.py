"""What a synthetic training set is worth: one network, trained on real and on synthetic cases.

Every model of a comparison has the same network, budget and augmentation (`segmentation.py`) and
is judged on the same real patients (`metrics.py`); only its training cases differ.
"""

import base64
import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any, final

import monai
import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from asyndgan.arrays import IMAGE_LOW, Mask, Masks
from asyndgan.data.case import Case
from asyndgan.data.splits import split_patients
from asyndgan.errors import DataError
from asyndgan.evaluation.metrics import (
    PatientScore,
    bootstrap_interval,
    paired_ratio_interval,
    prepared_spacing,
    score_patients,
)
from asyndgan.evaluation.segmentation import (
    TRAINING_VERSION,
    SegmentationBudget,
    predict,
    train_segmenter,
)

REAL_ALL = "real-all"
SYNTHETIC = "synthetic"
SITE_PREFIX = "real:"

HELD_OUT = 0.2
"""Part of each site's patients that `evaluate_on_validation` and `levelled_off` judge on."""

LONGER = 1.5
"""Times the budget that `levelled_off` compares the budget with."""

OnProgress = Callable[[str, int, int], None]
"""Called with what is being trained, the steps done and the steps of the whole evaluation.

A check of the budget counts its steps anew.
"""

Scores = dict[str, dict[str, list[PatientScore]]]
"""Model to label to one score a patient, averaged over seeds."""


@final
@dataclass(frozen=True)
class Row:
    """One model judged by one label; numbers that cannot be computed are nan.

    Attributes:
        model: `real-all`, `real:SITE` or `synthetic`.
        label: name of the label.
        seeds: how many trainings each patient's values are averaged over.
        patients: how many patients count (see `metrics.py` on empty masks).
        cases: training cases.
        dice_mean: mean over patients, 0 to 1.
        dice_low: lower end of the 95 % bootstrap interval over patients.
        dice_high: upper end.
        hd95_mean: mean over patients, in millimetres (stored pixels without a spacing).
        assd_mean: the same.
        ratio: mean Dice as a part of `real-all`'s, over the patients that count in both.
        ratio_low: lower end of the 95 % bootstrap interval over patients.
        ratio_high: upper end.
    """

    model: str
    label: str
    seeds: int
    patients: int
    cases: int
    dice_mean: float
    dice_low: float
    dice_high: float
    hd95_mean: float
    assd_mean: float
    ratio: float
    ratio_low: float
    ratio_high: float


@final
@dataclass(frozen=True)
class Levelling:
    """Whether the real cases would gain from half as many steps again, for one label.

    Attributes:
        label: name of the label.
        steps: of the budget.
        longer_steps: of the longer training.
        dice: mean over held-out patients after `steps`.
        longer_dice: after `longer_steps`.
        difference: `longer_dice - dice`.
        patients: held-out patients that count.
        seeds: how many trainings each is averaged over.
    """

    label: str
    steps: int
    longer_steps: int
    dice: float
    longer_dice: float
    difference: float
    patients: int
    seeds: int


@final
@dataclass(frozen=True)
class Evaluation:
    """The outcome of a comparison; `evaluation.json` holds the same.

    Attributes:
        headline: a sentence a label.
        rows: one a model and label, models in the order real-all, synthetic, sites.
        per_patient: the values behind the rows; a patient is a position in the list, not a name.
        levelling: one a label where the budget was checked.
        judged_on: "test", or "validation": patients held out of the sites.
        budget: of every training.
        seeds: of the trainings.
    """

    headline: str
    rows: tuple[Row, ...]
    per_patient: Scores = field(repr=False)
    levelling: tuple[Levelling, ...]
    judged_on: str
    budget: SegmentationBudget
    seeds: tuple[int, ...]

    def row(self, model: str, label: str) -> Row:
        """The row of one model and label; KeyError if there is none."""
        for row in self.rows:
            if (row.model, row.label) == (model, label):
                return row
        raise KeyError(f"{model}, {label}")

    def to_tables(self) -> dict[str, Any]:
        """Nested dictionaries and lists for JSON; None where a number cannot be computed."""
        tables = asdict(self)
        tables["per_patient"] = {
            model: {label: _columns(scores) for label, scores in labels.items()}
            for model, labels in self.per_patient.items()
        }
        plain: dict[str, Any] = _without_nan(tables)
        return plain


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
        done: steps that are done or were found.
    """

    test: Sequence[Case]
    labels: Mapping[str, int]
    targets: Sequence[str]
    seeds: Sequence[int]
    out: Path
    device: str
    on_progress: OnProgress | None
    total: int
    done: int = 0

    def scores(
        self, model: str, cases: Sequence[Case], budget: SegmentationBudget
    ) -> tuple[dict[str, list[PatientScore]], Masks]:
        """Scores by label, averaged over seeds, and the masks that the first seed predicts."""
        _check_fit(cases, self.test)
        digest = _digest(cases, with_masks=True)
        masks = [self._predicted(model, cases, digest, budget, seed) for seed in self.seeds]
        by_label = {
            target: _average(
                [score_patients(self.test, found, self.labels[target]) for found in masks]
            )
            for target in self.targets
        }
        return by_label, masks[0]

    def _predicted(
        self,
        model: str,
        cases: Sequence[Case],
        digest: str,
        budget: SegmentationBudget,
        seed: int,
    ) -> Masks:
        inputs = self._inputs(digest, budget, seed)
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
        device: where to train.
        on_progress: called with a text, the steps done and all steps.

    Raises:
        DataError: there are no cases, or cases, labels or targets do not fit together.
        NotFiniteError: a loss became infinite or not a number.
    """
    return _evaluate(
        sites, test, synthetic, labels, out, targets, seeds, budget or SegmentationBudget(),
        check_budget, device, on_progress, "test",
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
        device: as in `evaluate`.
        on_progress: as in `evaluate`.

    Raises:
        DataError: as `evaluate` does.
        NotFiniteError: as `evaluate` does.
    """
    training, validation = hold_out(sites, seed=split_seed)
    return _evaluate(
        training, validation, synthetic, labels, out, targets, seeds,
        budget or SegmentationBudget(), False, device, on_progress, "validation",
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
    bench = _Bench(validation, labels, names, seeds, out, device, on_progress, total)
    pooled = [case for cases in training.values() for case in cases]
    short, _ = bench.scores("budget check", pooled, budget)
    long, _ = bench.scores("budget check, longer", pooled, longer)
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
    device: str,
    on_progress: OnProgress | None,
    judged_on: str,
) -> Evaluation:
    names = _targets(labels, targets)
    training = _models(sites, synthetic)
    total = len(training) * len(seeds) * budget.steps
    bench = _Bench(test, labels, names, seeds, out, device, on_progress, total)
    scores: Scores = {}
    masks: dict[str, Masks] = {}
    for model, cases in training.items():
        scores[model], masks[model] = bench.scores(model, cases, budget)
    rows = tuple(
        _row(model, name, scores, len(training[model]), len(seeds))
        for name in names
        for model in training
    )
    levelling: tuple[Levelling, ...] = ()
    if check_budget:
        levelling = levelled_off(
            sites=sites, labels=labels, targets=names, seeds=seeds, budget=budget, out=out,
            device=device, on_progress=on_progress,
        )  # fmt: skip
    headline = "\n".join(_headline(name, rows) for name in names)
    evaluation = Evaluation(headline, rows, scores, levelling, judged_on, budget, tuple(seeds))
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
    counts = f"{_count(real.patients, 'patient')}, {_count(real.seeds, 'seed')}"
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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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


def _columns(scores: Sequence[PatientScore]) -> dict[str, list[float]]:
    return {name: [getattr(score, name) for score in scores] for name in ("dice", "hd95", "assd")}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


_INK = "#22303c"
_FAINT = "#b8c1c9"
_COLOURS = {REAL_ALL: _INK, SYNTHETIC: "#d1495b"}
_SITE_COLOUR = "#4a7fa5"
_DASHES = (0, (3, 2))
_LABEL_COLOURS = ("#ffb000", "#4cc9f0", "#ff5d8f", "#8ac926")
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.edgecolor": _FAINT,
    "svg.hashsalt": "asyndgan",
}


def plot_dice(evaluation: Evaluation, out: Path) -> None:
    """Writes `dice.png` and `dice.svg`: mean Dice of each model with its interval, by label.

    Args:
        evaluation: what to show.
        out: folder.
    """
    labels = list(dict.fromkeys(row.label for row in evaluation.rows))
    models = list(dict.fromkeys(row.model for row in evaluation.rows))
    with rc_context(_STYLE):
        size = (1.6 + 4.2 * len(labels), 1.3 + 0.36 * len(models))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(labels), squeeze=False, sharey=True)[0]
        for panel, label in zip(panels, labels, strict=True):
            _dice_panel(panel, evaluation, label, models)
        panels[0].set_yticks(range(len(models)), models)
        panels[0].invert_yaxis()
        # No date in the file, so that the same figures make the same file.
        figure.savefig(out / "dice.svg", metadata={"Date": None})
        figure.savefig(out / "dice.png", dpi=160)


def _dice_panel(panel: Axes, evaluation: Evaluation, label: str, models: Sequence[str]) -> None:
    rows = [evaluation.row(model, label) for model in models]
    panel.axvline(rows[0].dice_mean, color=_FAINT, linestyle=(0, (4, 3)), linewidth=1, zorder=0)
    shown = [[score.dice for score in evaluation.per_patient[name][label]] for name in models]
    beside = panel.get_yaxis_transform()  # across: parts of the panel; up: its data
    for height, (row, values) in enumerate(zip(rows, shown, strict=True)):
        colour = _COLOURS.get(row.model, _SITE_COLOUR)
        spread = np.random.default_rng(height).uniform(-0.16, 0.16, len(values))
        panel.scatter(values, height + spread, s=7, color=colour, alpha=0.22, linewidths=0)
        panel.plot([row.dice_low, row.dice_high], [height, height], color=colour, linewidth=2.2)
        panel.plot(row.dice_mean, height, "o", color=colour, markersize=7, markeredgecolor="white")
        text = "-" if math.isnan(row.dice_mean) else f"{row.dice_mean:.3f}"
        panel.text(1.02, height, text, va="center", color=colour, transform=beside)
    patients = max(row.patients for row in rows)
    panel.set_title(f"{label}  ({_count(patients, 'patient')})", loc="left", fontsize=10)
    panel.set_xlabel("Dice: dots are patients, bars 95 % intervals of the mean")
    lowest = min((score for row in shown for score in row if not math.isnan(score)), default=0.0)
    lowest = math.floor(lowest * 10) / 10
    margin = 0.02 * (1.1 - lowest)
    panel.set_xlim(lowest - margin, 1 + margin)
    panel.set_ylim(-0.6, len(models) - 0.4)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(left=False)


def plot_examples(
    evaluation: Evaluation,
    test: Sequence[Case],
    masks: Mapping[str, Masks],
    labels: Mapping[str, int],
    out: Path,
) -> None:
    """Writes `examples.png`: truth and predictions for a good, a middling and a bad patient.

    Patients are chosen by the synthetic model's Dice of the last label (by `real-all`'s if there
    is no synthetic model); of each, the slice with most of that label is shown.

    Args:
        evaluation: whose rows to show.
        test: the cases that were judged.
        masks: what each model predicts for them.
        labels: name and value of the labels to outline.
        out: folder.
    """
    judge = SYNTHETIC if SYNTHETIC in masks else REAL_ALL
    name = list(labels)[-1]
    chosen = _chosen(evaluation.per_patient[judge][name])
    if not chosen:
        return
    models = _shown(evaluation, name)
    channel = _telling_channel(test, labels[name])
    patients = list(dict.fromkeys(case.patient for case in test))
    with rc_context(_STYLE):
        size = (2.1 * (len(models) + 1) + 0.3, 2.3 * len(chosen) + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(chosen), len(models) + 1, squeeze=False)
        for line, (word, patient) in zip(grid, chosen.items(), strict=True):
            index, place = _largest(test, patients[patient], labels[name])
            _example(line[0], test[index], None, place, channel, labels)
            line[0].set_ylabel(word)
            for panel, model in zip(line[1:], models, strict=True):
                _example(panel, test[index], masks[model][index], place, channel, labels)
                dice = evaluation.per_patient[model][name][patient].dice
                panel.set_xlabel(f"{name}: Dice {dice:.2f}", labelpad=3)
        for panel, title in zip(grid[0], ["truth", *models], strict=True):
            panel.set_title(title, fontsize=10)
        lines = [Line2D([], [], color=colour) for _, colour in _coloured(labels)]
        figure.legend(
            [*lines, Line2D([], [], color=_FAINT, linestyle=_DASHES)],
            [*labels, "truth"],
            loc="outside lower center",
            ncols=len(labels) + 1,
            frameon=False,
        )
        figure.savefig(out / "examples.png", dpi=160)


def _chosen(scores: Sequence[PatientScore]) -> dict[str, int]:
    """Positions of the best, the median and the worst patient, without repeating one."""
    order = sorted(
        (index for index, score in enumerate(scores) if not math.isnan(score.dice)),
        key=lambda index: -scores[index].dice,
    )
    if not order:
        return {}
    best, median, worst = order[0], order[len(order) // 2], order[-1]
    words = {worst: "worst patient", median: "median patient", best: "best patient"}
    return {words[index]: index for index in dict.fromkeys((best, median, worst))}


def _shown(evaluation: Evaluation, label: str) -> list[str]:
    """The pooled models and the best single site."""
    models = [row.model for row in evaluation.rows if row.label == label]
    single = [model for model in models if model.startswith(SITE_PREFIX)]
    single.sort(key=lambda model: -evaluation.row(model, label).dice_mean)
    return [model for model in models if model not in single] + single[:1]


def _telling_channel(test: Sequence[Case], label: int) -> int:
    """The channel whose intensities tell the label best from what else is in the image."""
    images = torch.stack([case.image for case in test]).flatten(2)
    inside = torch.stack([case.mask for case in test]).flatten(1) == label
    contrast = []
    for channel in images.unbind(1):
        other = channel[~inside & (channel > IMAGE_LOW + 0.05)]
        if not inside.any() or not len(other):
            return 0
        contrast.append(float((channel[inside].mean() - other.mean()).abs() / (other.std() + 1e-6)))
    return int(np.argmax(contrast))


def _largest(test: Sequence[Case], patient: str, label: int) -> tuple[int, int]:
    """The patient's case and, in a volume, the slice with most of the label."""
    areas = {
        (index, place): int((mask == label).sum())
        for index, case in enumerate(test)
        if case.patient == patient
        for place, mask in enumerate(_slices(case.mask))
    }
    return max(areas, key=lambda where: areas[where])


def _example(
    panel: Axes,
    case: Case,
    found: Mask | None,
    place: int,
    channel: int,
    labels: Mapping[str, int],
) -> None:
    """One slice with the outlines of the truth or, over a dashed truth, of what was found."""
    rows, columns = prepared_spacing(case.preparation)
    picture = _slices(case.image[channel])[place].numpy()
    panel.imshow(
        picture,
        cmap="gray",
        vmin=IMAGE_LOW,
        vmax=max(float(np.quantile(picture, 0.995)), IMAGE_LOW + 0.1),
        aspect=rows / columns,
    )
    truth = _slices(case.mask)[place]
    for value, colour in _coloured(labels):
        if found is None:
            _outline(panel, truth == value, colour, "solid")
        else:
            _outline(panel, truth == value, "white", _DASHES)
            _outline(panel, _slices(found)[place] == value, colour, "solid")
    if found is None:
        panel.set_xlabel(case.modalities[channel], labelpad=3)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)


def _coloured(labels: Mapping[str, int]) -> list[tuple[int, str]]:
    return list(zip(labels.values(), cycle(_LABEL_COLOURS), strict=False))


def _outline(panel: Axes, mask: Tensor, colour: str, style: Any) -> None:
    if mask.any() and not mask.all():
        panel.contour(
            mask.numpy(), levels=[0.5], colors=[colour], linewidths=1.1, linestyles=[style]
        )


def _slices(array: Tensor) -> Tensor:
    """An image or a volume (..., rows, columns) as slices (n, rows, columns)."""
    return array.reshape(-1, *array.shape[-2:])
