"""Segmentation metrics of predicted masks, by patient.

The unit is the patient, because slices of one patient resemble each other: a patient's slices are
pooled, and intervals come from a bootstrap over patients.

How empty masks count:

- Truth empty in all of a patient's slices: the patient has no Dice for that label (nan), whatever
  was predicted, so that every model is judged on the same patients. Predictions of the label in
  such patients are counted separately, as false alarms.
- Truth not empty, prediction empty in the whole patient: Dice 0.
- Only one of them empty in a slice: the slice's distances are the diagonal of the image.
- Both empty in a slice: the slice has no distances and is left out of the patient's average.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from statistics import fmean
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from asyndgan.arrays import Masks
from asyndgan.errors import DataError
from asyndgan.lazy import Late
from asyndgan.store.case import prepared_spacing
from asyndgan.store.prepared import Case

stats: Any = Late("scipy.stats")  # a second that most commands need not wait for


@final
@dataclass(frozen=True)
class PatientScore:
    """Scores of one patient for one label; nan if the patient does not have the label."""

    dice: float  # 0 to 1
    # 95th percentile of the distance between the contours, the larger of both directions, in
    # millimetres (stored pixels if the format has no spacing)
    hd95: float
    assd: float  # average symmetric distance, likewise
    false_alarm: float = math.nan  # without the label: 1 if it was predicted, 0 if not; else nan


SCORES = tuple(field.name for field in fields(PatientScore))
"""Names of a patient's scores."""

ScoreArray = NDArray[np.float64]
"""Scores of patients, [seeds, patients, scores], in the order of `SCORES`."""


def score_patients(truth: Sequence[Case], predicted: Masks, label: int) -> dict[str, PatientScore]:
    """Scores predictions of these cases by patient, over all slices of the patient.

    All labels but one count as background. Patients are in the order in which they first appear.
    Raises `DataError` if the number or the size of the masks does not match the cases.
    """
    if len(truth) != len(predicted) or any(
        case.mask.shape != mask.shape for case, mask in zip(truth, predicted, strict=True)
    ):
        raise DataError(
            f"{len(truth)} cases cannot be compared with masks of shape {tuple(predicted.shape)}; "
            "predict exactly these cases."
        )
    of_patient: dict[str, list[int]] = {}
    for index, case in enumerate(truth):
        of_patient.setdefault(case.patient, []).append(index)
    return {
        patient: _score([truth[i] for i in indices], predicted[indices], label)
        for patient, indices in of_patient.items()
    }


def score_array(truth: Sequence[Case], of_seeds: Sequence[Masks], label: int) -> ScoreArray:
    """Scores of the predictions of several seeds; arguments and errors as `score_patients`."""
    scored = (score_patients(truth, masks, label).values() for masks in of_seeds)
    return np.array([[astuple(score) for score in own] for own in scored])


def dice(first: Bool[Tensor, "*space"], second: Bool[Tensor, "*space"]) -> float:
    """Dice coefficient: twice the shared volume over the sum of both volumes; nan if both are 0."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else math.nan


def surface_distances(
    first: Bool[Tensor, "*space"], second: Bool[Tensor, "*space"], spacing: tuple[float, ...]
) -> tuple[float, float]:
    """HD95 and ASSD of two contours, or of two surfaces: 95th percentile and average distance.

    In the units of `spacing`, which is of each side: nan if both masks are empty, the image's
    diagonal if only one is.
    """
    held = [bool(mask.any()) for mask in (first, second)]
    if not all(held):
        sides = (side * mm for side, mm in zip(first.shape, spacing, strict=True))
        diagonal = math.hypot(*sides) if any(held) else math.nan
        return diagonal, diagonal
    from monai.metrics import get_mask_edges, get_surface_distance  # slow to import

    # MONAI's functions for each of the two would crop, and find contours and distances, twice.
    found, true = get_mask_edges(first, second, crop=False)
    ahead = torch.as_tensor(get_surface_distance(found, true, spacing=spacing))
    back = torch.as_tensor(get_surface_distance(true, found, spacing=spacing))
    hd95 = max(torch.quantile(distances, 0.95).item() for distances in (ahead, back))
    return hd95, torch.cat((ahead, back)).mean().item()


def average(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis, such as seeds, of the values that are not nan."""
    with warnings.catch_warnings(action="ignore"):  # nan where there is none
        return np.nanmean(values, axis=0)


def mean(values: Iterable[float]) -> float:
    """Mean of the values that are not nan; nan if there is none."""
    counted = [value for value in values if not math.isnan(value)]
    return fmean(counted) if counted else math.nan


def area_under_curve(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Probability that a positive scores above a negative one; ties count half, nan gives nan."""
    if np.isnan(positive).any() or np.isnan(negative).any():
        return math.nan
    above, below = np.sort(positive), np.sort(negative)  # both: in order they are found sooner
    twice = [np.searchsorted(below, above, side).sum() for side in ("left", "right")]
    return float(sum(twice) / 2 / (len(positive) * len(negative)))


def known(values: Iterable[float]) -> int:
    """Number of the values that are not nan."""
    return sum(not math.isnan(value) for value in values)


def paired(scores: ArrayLike, others: ArrayLike) -> tuple[int, float, float, float]:
    """Paired differences `scores - others`: patients counted, mean, ends of its interval."""
    found = np.subtract(scores, others)
    return known(found), mean(found), *bootstrap_interval(found)


def paired_ratio(scores: ArrayLike, others: ArrayLike) -> tuple[float, float, float]:
    """Mean of `scores` over that of `others`, low and high of its interval, counted as `paired`."""
    both = np.array([scores, others], dtype=np.float64)
    above, below = map(mean, both[:, ~np.isnan(both).any(0)])
    return above / below if below else math.nan, *paired_ratio_interval(scores, others)


def bootstrap_interval(values: ArrayLike, *, draws: int = 2000) -> tuple[float, float]:
    """The 95 % bias-corrected and accelerated (BCa) bootstrap interval of the mean over patients.

    Where the correction is undefined, as for equal values, it is the percentile interval. Values
    that are nan do not count; both ends are nan with fewer than two others.
    """
    return _interval([values], np.mean, draws)


def fraction_interval(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval (Clopper and Pearson) of a fraction of which `count` of `of` were seen."""
    found = stats.binomtest(count, of).proportion_ci(0.95)
    return float(found.low), float(found.high)


def paired_ratio_interval(
    numerator: ArrayLike, denominator: ArrayLike, *, draws: int = 2000
) -> tuple[float, float]:
    """As `bootstrap_interval`, of mean(numerator) / mean(denominator) over the same patients.

    Resamples whose denominator is 0 do not count.
    """
    return _interval([numerator, denominator], _ratio_of_means, draws)


def _ratio_of_means(above: np.ndarray, below: np.ndarray, axis: int = -1) -> Any:
    means = np.asarray(below.mean(axis))
    return above.mean(axis) / np.where(means, means, math.nan)


def _interval(
    samples: Sequence[ArrayLike], statistic: Callable[..., Any], draws: int
) -> tuple[float, float]:
    """BCa interval of a statistic of paired samples, or the percentile one where that is nan."""
    values = np.asarray(samples, dtype=np.float64)
    values = values[:, ~np.isnan(values).any(0)]
    if values.shape[1] < 2:
        return math.nan, math.nan
    with warnings.catch_warnings(action="ignore"):  # of what the percentile interval is for
        found = stats.bootstrap(
            tuple(values), statistic, n_resamples=draws, paired=True, vectorized=True,
            rng=np.random.default_rng(0),
        )  # fmt: skip
        low, high = found.confidence_interval
        if math.isnan(low + high):
            low, high = np.nanquantile(found.bootstrap_distribution, [0.025, 0.975])
    return float(low), float(high)


def _score(cases: Sequence[Case], predicted: Masks, label: int) -> PatientScore:
    truth = torch.stack([case.mask for case in cases]) == label
    found = predicted == label
    if not truth.any():
        return PatientScore(math.nan, math.nan, math.nan, float(found.any()))
    distances = np.array(
        [
            surface_distances(found_case, true_case, prepared_spacing(case.preparation))
            for case, found_case, true_case in zip(cases, found, truth, strict=True)
        ]
    )
    distances = distances[~np.isnan(distances[:, 0])]
    hd95, assd = distances.mean(0) if len(distances) else (math.nan, math.nan)
    return PatientScore(dice(found, truth), float(hd95), float(assd))
