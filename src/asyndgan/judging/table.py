"""The result table of an evaluation, and its form as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, final

from asyndgan.judging.metrics import SCORES, ScoreArray, average
from asyndgan.models.budget import SegmentationBudget
from asyndgan.texts import without_nan

REAL_ALL = "real-all"
SYNTHETIC = "synthetic"
SITE_PREFIX = "real:"
ADDED = "+synthetic"
AUGMENTED = "+augmented"
"""Suffix of a site's model that is trained on a set of its real cases and synthetic ones."""

Scores = dict[str, dict[str, ScoreArray]]
"""Model to label to the scores of each seed and patient."""


@final
@dataclass(frozen=True)
class Row:
    """One model judged by one label; numbers that cannot be computed are nan.

    Attributes:
        model: `real-all`, `synthetic`, `real:SITE`, `real:SITE+synthetic` or
            `real:SITE+augmented`; in a suite also those of `lab.result`.
        label: name of the label.
        seeds: number of trainings that each patient's values are averaged over.
        patients: number of patients that count, which are those with the label.
        cases: number of distinct training cases.
        dice_mean: mean over patients, 0 to 1.
        dice_low: lower end of the 95 % bootstrap interval over patients.
        dice_high: upper end.
        dice_least: lowest of the seeds' means over patients; the interval does not cover how much
            trainings differ.
        dice_most: highest of the seeds' means.
        hd95_mean: mean HD95 over patients, in millimetres (stored pixels without a spacing).
        assd_mean: mean ASSD over patients, in the same unit.
        ratio: mean Dice relative to that of `real-all`.
        ratio_low: lower end of the 95 % bootstrap interval over patients.
        ratio_high: upper end.
        healthy: number of patients without the label.
        false_alarms: fraction of these in whom the label was predicted; nan if there are none.
    """

    model: str
    label: str
    seeds: int
    patients: int
    cases: int
    dice_mean: float
    dice_low: float
    dice_high: float
    dice_least: float
    dice_most: float
    hd95_mean: float
    assd_mean: float
    ratio: float
    ratio_low: float
    ratio_high: float
    healthy: int
    false_alarms: float


@final
@dataclass(frozen=True)
class Overall:
    """One model judged by all labels together: means over a patient's labels, then over patients.

    Attributes:
        model: as in `Row`.
        dice: mean Dice, 0 to 1.
        iou: mean intersection over union, 0 to 1, as is usual for street scenes.
        ratio: mean IoU relative to that of `real-all`.
        ratio_low: lower end of the 95 % bootstrap interval over patients.
        ratio_high: upper end.
    """

    model: str
    dice: float
    iou: float
    ratio: float
    ratio_low: float
    ratio_high: float


@final
@dataclass(frozen=True)
class Levelling:
    """Whether training on the real cases would gain from 50 % more steps, for one label.

    Attributes:
        label: name of the label.
        steps: steps of the budget.
        longer_steps: steps of the longer training.
        dice: mean Dice over held-out patients after `steps`.
        longer_dice: mean Dice after `longer_steps`.
        difference: `longer_dice - dice`.
        patients: number of held-out patients that count.
        seeds: number of trainings that each patient's Dice is averaged over.
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
class Gain:
    """Gain in Dice of a site's model from further training cases, paired by patient.

    Attributes:
        model: model trained with the further cases.
        over: model trained on the site's real cases alone.
        label: name of the label.
        patients: number of patients that count.
        difference: mean difference of Dice over patients.
        low: lower end of the 95 % bootstrap interval over patients.
        high: upper end.
    """

    model: str
    over: str
    label: str
    patients: int
    difference: float
    low: float
    high: float


@final
@dataclass(frozen=True)
class Evaluation:
    """The outcome of a comparison; `evaluation.json` holds the same.

    Attributes:
        headline: one line per label.
        rows: one per model and label; by label, then in the order of the comparison's models.
        per_patient: the scores behind the rows, of each seed and patient; patients are positions,
            not names. In `evaluation.json`, averaged over seeds.
        levelling: one per label if the budget was checked; else empty.
        judged_on: "test", or "validation" for patients held out of the sites.
        budget: budget of every training.
        seeds: seeds of the trainings.
        about: the caller's metadata about what was evaluated, stored unchanged.
        gains: gains of sites' models trained with synthetic cases as well.
        overall: one per model, if there are several labels.
    """

    headline: str
    rows: tuple[Row, ...]
    per_patient: Scores
    levelling: tuple[Levelling, ...]
    judged_on: str
    budget: SegmentationBudget
    seeds: tuple[int, ...]
    about: Mapping[str, str] = field(default_factory=dict)
    gains: tuple[Gain, ...] = ()
    overall: tuple[Overall, ...] = ()

    def __repr__(self) -> str:
        return f"Evaluation on real {self.judged_on} patients:\n{self.headline}"

    def row(self, model: str, label: str) -> Row:
        """The row of one model and label; raises `KeyError` if there is none."""
        for row in self.rows:
            if (row.model, row.label) == (model, label):
                return row
        raise KeyError(f"{model}, {label}")

    def dice(self, model: str, label: str) -> list[float]:
        """Dice of each patient, averaged over seeds; nan where the patient lacks the label."""
        found: list[float] = average(self.per_patient[model][label])[:, 0].tolist()
        return found

    def to_tables(self) -> dict[str, Any]:
        """Nested dictionaries and lists for JSON, with None in place of nan."""
        tables = asdict(self)
        tables["per_patient"] = {
            model: {
                label: dict(zip(SCORES, average(scores).T.tolist(), strict=True))
                for label, scores in labels.items()
            }
            for model, labels in self.per_patient.items()
        }
        plain: dict[str, Any] = without_nan(tables)
        return plain


def site_of(model: str) -> str:
    """The site whose real cases a model was trained on, with or without others; "" if none."""
    if not model.startswith(SITE_PREFIX):
        return ""
    return model.removeprefix(SITE_PREFIX).removesuffix(ADDED).removesuffix(AUGMENTED)


def of_single_sites(model: str) -> bool:
    """Whether a model was trained on one site's real cases alone."""
    return model.startswith(SITE_PREFIX) and not model.endswith((ADDED, AUGMENTED))
