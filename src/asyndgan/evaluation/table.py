"""The table that an evaluation comes to, and its form as JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

from asyndgan.evaluation.metrics import SCORES, PatientScore
from asyndgan.evaluation.segmentation import SegmentationBudget

REAL_ALL = "real-all"
SYNTHETIC = "synthetic"
FEDAVG = "fedavg"
FEDAVG_WITHOUT = "fedavg-without"
FEDGAN = "fedgan-synthetic"
SITE_PREFIX = "real:"
ADDED = "+synthetic"
AUGMENTED = "+augmented"
"""After a site's model: its real cases and the synthetic ones together."""

Scores = dict[str, dict[str, list[PatientScore]]]
"""Model to label to one score a patient, averaged over seeds."""


@final
@dataclass(frozen=True)
class Row:
    """One model judged by one label; numbers that cannot be computed are nan.

    Attributes:
        model: `real-all`, `synthetic`, `fedgan-synthetic`, `fedavg`, `fedavg-without` (each site
            without some modalities), `real:SITE` or `real:SITE+synthetic`.
        label: name of the label.
        seeds: how many trainings each patient's values are averaged over.
        patients: how many patients count: those who have the label.
        cases: training cases.
        dice_mean: mean over patients, 0 to 1.
        dice_low: lower end of the 95 % bootstrap interval over patients.
        dice_high: upper end.
        dice_least: lowest of the seeds' means over patients; the interval says nothing of how far
            trainings differ.
        dice_most: highest.
        hd95_mean: mean over patients, in millimetres (stored pixels without a spacing).
        assd_mean: the same.
        ratio: mean Dice as a part of `real-all`'s.
        ratio_low: lower end of the 95 % bootstrap interval over patients.
        ratio_high: upper end.
        healthy: patients who do not have the label.
        false_alarms: part of these in whom it was predicted all the same; nan if there is none.
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
class Gain:
    """What further training cases are worth to one site, patient by patient.

    Attributes:
        model: trained on them as well.
        over: the model of the site's real cases alone.
        label: name of the label.
        patients: that count.
        difference: of Dice, mean over patients.
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
        headline: a sentence a label.
        rows: one a model and label, in the order of the comparison's models.
        per_patient: the values behind the rows; a patient is a position in the list, not a name.
        levelling: one a label where the budget was checked.
        judged_on: "test", or "validation": patients held out of the sites.
        budget: of every training.
        seeds: of the trainings.
        about: what was evaluated, in words of the caller; kept as it is.
        gains: of sites' models that were given synthetic cases as well.
    """

    headline: str
    rows: tuple[Row, ...]
    per_patient: Scores = field(repr=False)
    levelling: tuple[Levelling, ...]
    judged_on: str
    budget: SegmentationBudget
    seeds: tuple[int, ...]
    about: Mapping[str, str] = field(default_factory=dict)
    gains: tuple[Gain, ...] = ()

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
        plain: dict[str, Any] = without_nan(tables)
        return plain


def _columns(scores: Sequence[PatientScore]) -> dict[str, list[float]]:
    return {name: [getattr(score, name) for score in scores] for name in SCORES}


def without_nan(value: Any) -> Any:
    """The same with None in place of nan, which JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def counted(number: int, noun: str) -> str:
    """A number and its noun: 1 patient, 21 patients."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def site_of(model: str) -> str:
    """The site whose real cases a model was trained on, with or without others; else nothing."""
    if not model.startswith(SITE_PREFIX):
        return ""
    return model.removeprefix(SITE_PREFIX).removesuffix(ADDED).removesuffix(AUGMENTED)


def of_single_sites(model: str) -> bool:
    """Whether a model was trained on one site's real cases alone."""
    return model.startswith(SITE_PREFIX) and not model.endswith((ADDED, AUGMENTED))
