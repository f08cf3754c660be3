"""The result of an evaluation: its frame of scores, its tables, and their form as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, TypeVar, final

import numpy as np
from pydantic import BeforeValidator, PlainValidator, TypeAdapter

from asyndgan.errors import DataError, MissingPackageError, RunError
from asyndgan.judging.metrics import SCORES, ScoreArray, average
from asyndgan.models.budgets import SegmentationBudget
from asyndgan.texts import bounded_text, lacking, parsed_json, replace_text, without_nan

if TYPE_CHECKING:
    import pandas as pd

REAL_ALL = "real-all"
SYNTHETIC = "synthetic"
SITE_PREFIX = "real:"
ADDED = "+synthetic"
"""Suffix of a site's model that is trained on synthetic cases beside its real ones."""

EVALUATION_FILE: Final = "evaluation.json"

MOST_BYTES: Final = 2**26
"""Largest result: `evaluation.json` holds the scores of each patient by each model."""

T = TypeVar("T")

Scores = dict[str, dict[str, ScoreArray]]
"""Model to label to the scores of each seed and patient."""

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number; nan if it cannot be computed, which is null in JSON."""


@final
@dataclass(frozen=True)
class Row:
    """One model judged by one label; numbers that cannot be computed are nan.

    Keys that end in `low` and `high` are 95 % bootstrap intervals over patients.
    """

    # `real-all`, `synthetic`, `real:SITE` or `real:SITE+synthetic`; in a suite also `lab.result`'s
    model: str
    label: str
    seeds: int  # number of trainings that each patient's values are averaged over
    patients: int  # number of those with the label, who count
    cases: int  # number of distinct training cases
    dice_mean: Number  # mean over patients, 0 to 1
    dice_low: Number
    dice_high: Number
    hd95_mean: Number  # mean over patients, in millimetres (stored pixels without a spacing)
    assd_mean: Number  # in the same unit
    ratio: Number  # mean Dice relative to that of `real-all`
    ratio_low: Number
    ratio_high: Number
    dice_least: Number = math.nan  # lowest of the seeds' means over patients
    dice_most: Number = math.nan  # highest of the seeds' means
    healthy: int = 0  # number of patients without the label
    # fraction of these with the label predicted; nan if there are none
    false_alarms: Number = math.nan


@final
@dataclass(frozen=True)
class Overall:
    """One model judged by all labels together: means over a patient's labels, then over patients.

    Dice and intersection over union lie from 0 to 1; the ratio is of mean IoU, to that of
    `real-all`.
    """

    model: str
    dice: Number
    iou: Number
    ratio: Number
    ratio_low: Number
    ratio_high: Number


@final
@dataclass(frozen=True)
class Gain:
    """Gain in Dice of a site's model over another one, without the further cases, by patient."""

    model: str
    over: str
    label: str
    patients: int
    difference: Number
    low: Number
    high: Number


def _arrays(stored: Mapping[str, Any]) -> Scores:
    """The scores of a file, which has null for nan."""
    return {
        model: {
            label: np.array([own[name] for name in SCORES], np.float64).transpose(1, 2, 0)
            for label, own in labels.items()
        }
        for model, labels in stored.items()
    }


@final
@dataclass(frozen=True)
class Evaluation:
    """The outcome of a comparison; `evaluation.json` holds the same.

    Attributes:
        headline: one line per label.
        rows: one per model and label; by label, then in the order of the comparison's models.
        per_patient: the scores behind the rows, of each seed and patient; patients are positions,
            not names.
        judged_on: "test", or "validation" for patients held out of the sites.
        budget: budget of every training.
        seeds: seeds of the trainings.
        about: the caller's metadata about what was evaluated.
        gains: gains of sites' models trained with synthetic cases as well.
        overall: one per model, if there are several labels.
    """

    headline: str
    rows: tuple[Row, ...]
    per_patient: Annotated[Scores, PlainValidator(_arrays)] = field(default_factory=dict)
    judged_on: str = "test"
    budget: SegmentationBudget = field(default_factory=SegmentationBudget)
    seeds: tuple[int, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    gains: tuple[Gain, ...] = ()
    overall: tuple[Overall, ...] = ()

    def __repr__(self) -> str:
        return f"Evaluation on real {self.judged_on} patients:\n{self.headline}"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads `evaluation.json` of a folder; raises `RunError` if none can be read."""
        what = "evaluation of images that can be read"
        return read_result(folder / EVALUATION_FILE, TypeAdapter(cls), what, "asyndgan evaluate")

    @property
    def frame(self) -> "pd.DataFrame":
        """The scores, one row for each model, label, seed and patient.

        Columns are `model`, `label`, `cases` (distinct training cases), `seed`, `patient`
        (positions, not names), and the fields of `PatientScore`. Raises `MissingPackageError` if
        pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingPackageError("frames of scores", "pandas", "tables") from error
        parts = []
        for row in self.rows:
            scores = self.per_patient[row.model][row.label]
            seed, patient = np.indices(scores.shape[:2]).reshape(2, -1)
            about = {"model": row.model, "label": row.label, "cases": row.cases}
            part = pd.DataFrame(scores.reshape(-1, len(SCORES)), columns=list(SCORES))
            parts.append(part.assign(**about, seed=np.take(self.seeds, seed), patient=patient))
        columns = ["model", "label", "cases", "seed", "patient", *SCORES]
        return pd.concat(parts, ignore_index=True)[columns]

    def by_label(self) -> dict[str, list[Row]]:
        """The rows of each label."""
        rows: dict[str, list[Row]] = {}
        for row in self.rows:
            rows.setdefault(row.label, []).append(row)
        return rows

    def row(self, model: str, label: str) -> Row:
        """The row of one model and label; raises `KeyError` if there is none."""
        for row in self.rows:
            if (row.model, row.label) == (model, label):
                return row
        raise KeyError(f"{model}, {label}")

    def dice(self, model: str, label: str) -> list[float]:
        """Dice of each patient, averaged over seeds; nan where the patient lacks the label."""
        scores = self.per_patient.get(model, {}).get(label)
        found: list[float] = [] if scores is None else average(scores)[:, 0].tolist()
        return found

    def write(self, folder: Path) -> None:
        """Writes `evaluation.json`, for `read`."""
        text = json.dumps(self.to_tables(), indent=1)
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / EVALUATION_FILE, text)

    def to_tables(self) -> dict[str, Any]:
        """Nested dictionaries and lists for JSON, with None in place of nan."""
        tables = asdict(replace(self, per_patient={}))  # without a copy of each array
        tables["per_patient"] = {
            model: {
                label: {name: scores[..., n].tolist() for n, name in enumerate(SCORES)}
                for label, scores in labels.items()
            }
            for model, labels in self.per_patient.items()
        }
        plain: dict[str, Any] = without_nan(tables)
        return plain


def read_result(path: Path, kind: TypeAdapter[T], what: str, command: str) -> T:
    """Reads a file that a command wrote; raises `RunError` if there is none that can be read."""
    if fault := lacking(path, command):
        raise RunError(fault)
    try:
        return kind.validate_python(parsed_json(bounded_text(path, MOST_BYTES)))
    except (AttributeError, DataError, LookupError, OSError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} is no {what}; make it anew with '{command}', or take the whole file if it was "
            "cut off."
        ) from error


def site_of(model: str) -> str:
    """The site whose real cases a model was trained on, with or without others; "" if none."""
    if not model.startswith(SITE_PREFIX):
        return ""
    return model.removeprefix(SITE_PREFIX).removesuffix(ADDED)


def of_single_sites(model: str) -> bool:
    """Whether a model was trained on one site's real cases alone."""
    return model.startswith(SITE_PREFIX) and not model.endswith(ADDED)
