"""Measures the fingerprint of a data set in one pass over its files.

Figures are means over a patient's cases, then summed up over patients, so that no patient counts
for more than others. Each comes with the number of patients behind it (`Counted.behind`).
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from pydantic import ValidationError

from asyndgan.errors import DataError
from asyndgan.intake.dataset import NOT_ACQUIRED, DataSet, painted
from asyndgan.intake.findings import LABELS_AGAIN
from asyndgan.intake.readers import DataFileError
from asyndgan.intake.units import in_hounsfield, units_of
from asyndgan.recipe import ImageSection, explained
from asyndgan.recipe.fingerprint import (
    PERCENTILES,
    Fingerprint,
    LabelFigures,
    Levels,
    ModalityFigures,
    Side,
    Spread,
)
from asyndgan.recipe.pooled import window
from asyndgan.store.case import Source
from asyndgan.store.fitting import check_finite, shared_modalities
from asyndgan.store.geometry import AXES
from asyndgan.store.info import DatasetInfo
from asyndgan.texts import bounded_text, parsed_json

SAMPLED: Final = 2**18
"""Most pixels of a case and modality from which percentiles are taken."""

MOST_BYTES: Final = 2**21
"""Longest fingerprint of another party, in bytes: one of 64 modalities and 1,023 labels fits."""


def measured(folder: Path) -> Fingerprint:
    """Measures a data set of acquired images.

    Raises `DataError` if it cannot be read, is synthetic, holds intensities that are not finite, or
    no mask with a label.
    """
    data = DataSet(folder)
    info = data.info
    if reason := painted(info) or (None if {*info.modalities} - info.painted else NOT_ACQUIRED):
        raise DataFileError(folder, *reason)
    tally = _Tally(info)
    if not any(files.mask for files in data.files):
        raise DataFileError(
            folder / "labelsTr",
            "no mask is there, and images are painted from masks",
            "Put each case's mask there, under the name of the case; only 'complete' needs none.",
        )
    for files in data.files:
        source, channels, mask = data.arrays(files)
        if source:
            tally.add(data.patients[files.name], source, channels, mask)
    if not tally.painted:
        raise DataFileError(
            folder / "labelsTr",
            "no mask there holds a label other than 0, so every mask would paint the same image",
            LABELS_AGAIN,
        )
    try:
        return tally.fingerprint()
    except ValidationError as error:
        raise DataFileError(
            folder,
            f"holds figures that no scanner stores ({explained(error, []).strip()})",
            "Check spacings and intensities; 'asyndgan check' shows them.",
        ) from error


def loaded(path: Path) -> Fingerprint:
    """Reads a fingerprint that `asyndgan fingerprint` wrote; it may come from a stranger.

    Raises `DataError` if it cannot be read, is too long or deep, or has other fields or values.
    """
    remedy = "Take a file that 'asyndgan fingerprint FOLDER --out FILE' wrote."
    try:
        table = parsed_json(bounded_text(path, MOST_BYTES, links=True))
        if not isinstance(table, dict):
            raise ValueError("it is no JSON object")
        return Fingerprint.model_validate(table)
    except ValidationError as error:
        faults = explained(error, [*Fingerprint.model_fields])
        raise DataError(f"{path} is no fingerprint:\n{faults}\n{remedy}") from error
    except (OSError, ValueError) as error:
        raise DataFileError(path, f"is no fingerprint ({error})", remedy) from error


@final
class _Tally:
    """Figures of the cases of a data set, by what they are of, and by patient."""

    def __init__(self, info: DatasetInfo) -> None:
        self.info = info
        self.modalities = shared_modalities(info, ImageSection())
        self.found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))

    def add(
        self,
        patient: str,
        source: Source,
        channels: Mapping[str, np.ndarray],
        mask: np.ndarray | None,
    ) -> None:
        """Adds one case: its modalities and mask, all of `source.shape`."""
        sides = len(source.shape)
        self._keep("spaced", patient, sides == 3)
        for axis, (voxels, mm) in enumerate(zip(source.shape, source.spacing, strict=True)):
            for key, value in (("voxels", voxels), ("mm", mm), ("view", voxels * mm)):
                self._keep(f"{key} {axis} of {sides}", patient, value)
        labels = None if mask is None else _slices(mask)
        if labels is not None:
            self._add_mask(patient, labels, volume=sides == 3)
        for name in (name for name in self.modalities if name in channels):
            values = channels[name]
            check_finite(source.name, name, values)
            self._add_modality(patient, name, _slices(values), labels)

    def _add_mask(self, patient: str, labels: np.ndarray, *, volume: bool) -> None:
        """Adds labels (slices, rows, columns)."""
        marked, half = labels > 0, labels.shape[2] // 2
        for axis, place in AXES.items():
            if volume or axis == "axial":
                others = tuple(each for each in range(3) if each != 2 - place)
                self._keep(f"unlabelled {axis}", patient, (~marked.any(others)).mean())
        most = max(self.info.labels.values()) + 1
        left, right, counts = (
            np.stack([np.bincount(plane.ravel(), minlength=most) for plane in part])
            for part in (labels[..., :half], labels[..., labels.shape[2] - half :], labels)
        )
        for label in self.info.labels.values():
            held = counts[:, label] > 0
            self._keep(f"slices {label}", patient, held.mean())
            if held.any():
                area = counts[held, label].mean() / labels[0].size
                self._keep(f"area {label}", patient, area)
                one, other = left[:, label].sum(), right[:, label].sum()
                self._keep(f"side {label}", patient, (one - other) / max(one + other, 1))

    def _add_modality(
        self, patient: str, name: str, values: np.ndarray, labels: np.ndarray | None
    ) -> None:
        """Adds intensities, and those of samples inside labels; each (slices, rows, columns)."""
        low, high = float(values.min()), float(values.max())
        whole = bool((values == np.rint(values)).all())
        fits = (low >= 0 and high < 2**8, low >= -(2**15) and high < 2**16)
        self._keep(f"bits {name}", patient, [not (whole and each) for each in fits])
        self._keep(f"ends {name}", patient, (low, high))
        every = math.ceil(values.size / SAMPLED) | 1  # odd, lest it keep to some columns
        sampled = values.flat[::every]
        ends = np.percentile(sampled, PERCENTILES)
        self._keep(f"whole {name}", patient, ends)
        if labels is None or not (inside := labels.flat[::every] > 0).any():
            return
        inner = np.percentile(sampled[inside], PERCENTILES)
        self._keep(f"inside {name}", patient, inner)
        ct = window(inner[:1], inner[1:])
        joined = np.array([*ends, *inner])
        # Slices without a label say nothing of what labels explain.
        held = np.flatnonzero(labels.any((1, 2)))
        shown = np.isin(np.arange(0, values.size, every) // labels[0].size, held)
        own, numbers = sampled[shown], labels.flat[::every][shown]
        for key, clip in (("ct", (ct.low, ct.high)), ("other", (joined.min(), joined.max()))):
            if (share := _explained(own.clip(*clip).astype(np.float64), numbers)) is not None:
                self._keep(f"explained {key} {name}", patient, share)

    def _keep(self, key: str, patient: str, value: Any) -> None:
        self.found[key][patient].append(value)

    @property
    def painted(self) -> bool:
        """Whether a mask holds a label."""
        return any(self.found[f"area {label}"] for label in self.info.labels.values() if label)

    @property
    def spaced(self) -> bool:
        """Whether most patients' cases are volumes; a TIFF may be either."""
        return bool(self._of_patients("spaced").mean() > 0.5)

    def _of_patients(self, key: str) -> np.ndarray:
        """One row a patient: the mean over their cases."""
        return np.array([np.mean(values, 0) for values in self.found[key].values()])

    def _extent(self, key: str) -> Spread:
        """Of lengths; the geometric mean of a patient's cases keeps view = voxels times mm."""
        own = (np.array(values, np.float64) for values in self.found[key].values())
        means = [each[0] if np.ptp(each) == 0 else np.exp(np.log(each).mean()) for each in own]
        return _spread(np.array(means))

    def fingerprint(self) -> Fingerprint:
        """The figures of all cases."""
        patients = len(self.found["spaced"])
        sides = 3 if self.spaced else 2
        cut = {
            axis: _fraction(self._of_patients(f"unlabelled {axis}"))
            for axis in AXES
            if (self.spaced or axis == "axial") and self.found[f"unlabelled {axis}"]
        }
        return Fingerprint(
            patients=patients,
            spaced=self.spaced,
            axes=tuple(self._side(f"{axis} of {sides}") for axis in range(sides)),
            modalities=tuple(
                self._modality(name) for name in self.modalities if self.found[f"ends {name}"]
            ),
            labels=tuple(
                self._label(name, number)
                for name, number in sorted(self.info.labels.items(), key=lambda item: item[1])
                if number
            ),
            unlabelled={axis: share for axis, (share, _) in cut.items()},
            behind={
                "patients": (patients, 0, 0),
                "axes": (len(self.found[f"voxels 0 of {sides}"]), 0, 0),
                **{axis: behind for axis, (_, behind) in cut.items()},
            },
        )

    def _side(self, axis: str) -> Side:
        """One axis, as `_keep` knows it."""
        own = self.found[f"voxels {axis}"].values()
        shares: dict[int, float] = defaultdict(float)
        for sizes in own:
            for voxels in sizes:
                shares[voxels] += 1 / len(sizes)
        usual = max(shares, key=shares.__getitem__)
        common, behind = _fraction(np.array([each.count(usual) / len(each) for each in own]))
        return Side(
            voxels=self._extent(f"voxels {axis}"),
            mm=self._extent(f"mm {axis}"),
            view=self._extent(f"view {axis}"),
            common=common,
            behind={"common": behind, **dict.fromkeys(("voxels", "mm", "view"), (len(own), 0, 0))},
        )

    def _modality(self, name: str) -> ModalityFigures:
        found = {where: self._of_patients(f"{where} {name}") for where in ("whole", "inside")}
        patients, every = len(found["whole"]), len(self.found["spaced"])
        kind = self._kind(name)
        explained = self._of_patients(f"explained {'ct' if kind == 'ct' else 'other'} {name}")
        deep, deeper = (self._of_patients(f"bits {name}") > 0).sum(0).tolist()
        share, behind = _fraction(explained) if explained.size else (None, (0, 0, 0))
        return ModalityFigures(
            name=name,
            kind=kind,
            bits=32 if deeper else 16 if deep else 8,
            patients=patients,
            explained=share,
            behind={
                **{where: (len(rows), 0, 0) for where, rows in found.items()},
                "explained": behind,
                "patients": (patients, every - patients, 0),
                "kind": (patients, 0, 0),
                "bits": (patients, deep, deeper),
            },
            **{
                where: Levels(p0_5=_spread(rows[:, 0]), p99_5=_spread(rows[:, 1]))
                for where, rows in found.items()
                if rows.size
            },
        )

    def _kind(self, name: str) -> str:
        if not self.spaced:
            return "grey"
        unit = units_of(self.info.extra).get(name)
        lowest, highest = self._of_patients(f"ends {name}").T.tolist()
        return "ct" if in_hounsfield(name, lowest, highest, unit) else "mri"

    def _label(self, name: str, number: int) -> LabelFigures:
        areas = self._of_patients(f"area {number}")
        if not areas.size:
            return LabelFigures(name=name, number=number)
        slices, above = _fraction(self._of_patients(f"slices {number}"))
        side, beside = _fraction(self._of_patients(f"side {number}"), least=-1.0)
        return LabelFigures(
            name=name,
            number=number,
            patients=areas.size,
            slices=slices,
            area=_spread(areas),
            side=side,
            behind={
                "patients": (areas.size, len(self.found["spaced"]) - areas.size, 0),
                "area": (areas.size, 0, 0),
                "slices": (areas.size, *above[1:]),
                "side": beside,
            },
        )


def _slices(values: np.ndarray) -> np.ndarray:
    """A picture, or a volume, as its axial slices are viewed: a view (slices, rows, columns)."""
    return values[None] if values.ndim == 2 else np.flip(values).T


def _explained(values: np.ndarray, labels: np.ndarray) -> float | None:
    """Part of the variance of values that their labels explain; None: they are constant."""
    values = values - values.mean()
    count, total = (np.bincount(labels, each) for each in (None, values))
    whole = (values**2).sum()
    between = (total**2 / np.maximum(count, 1)).sum()
    return float(np.clip(between / whole, 0, 1)) if whole > 0 else None


def _fraction(own: np.ndarray, least: float = 0.0) -> tuple[float, tuple[int, int, int]]:
    """The mean over patients; how many there are, are above the least value, and below 1."""
    return float(own.mean()), (own.size, int((own > least).sum()), int((own < 1).sum()))


def _spread(values: np.ndarray) -> Spread:
    low, middle, high = np.percentile(values, (10, 50, 90)).tolist()
    return Spread(low=low, middle=middle, high=high)
