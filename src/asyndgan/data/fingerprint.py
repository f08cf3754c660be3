"""Measures the fingerprint of a data set, slice by slice, in one pass over its files.

Figures are means over a patient's cases, then summed up over patients, so that no patient counts
for more than others.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, Final, final

import numpy as np
from pydantic import ValidationError

from asyndgan.data.case import RawCase
from asyndgan.data.description import DatasetInfo, describe
from asyndgan.data.listing import CaseFiles, list_cases
from asyndgan.data.nnunet import AXES, DEFAULT_PATIENT_PATTERN, patients_of, read_case
from asyndgan.data.plan import shared_modalities
from asyndgan.data.readers import DataFileError
from asyndgan.data.remedies import LABELS_AGAIN
from asyndgan.data.units import in_hounsfield, units_of
from asyndgan.errors import DataError
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
from asyndgan.texts import bounded_text, parsed_json

SAMPLED: Final = 2**18
"""Most pixels of a case and modality from which percentiles are taken."""

MOST_BYTES: Final = 2**20
"""Longest fingerprint of another party, in bytes: one of 64 modalities and 1,023 labels fits."""

_WHERE: Final = ("whole", "inside", "outside")


def measured(folder: Path, patient_pattern: str = DEFAULT_PATIENT_PATTERN) -> Fingerprint:
    """Measures a folder; all its files are read once.

    Args:
        folder: a data set of acquired images.
        patient_pattern: see `asyndgan.data.nnunet.patient_of`.

    Raises:
        DataError: it cannot be read, is synthetic, holds intensities that are not finite, or no
            mask with a label.
    """
    info = describe(folder)
    if info.synthetic or info.synthetic_cases:
        raise DataFileError(
            folder, "holds synthetic images, and patients are wanted", "Name a folder of theirs."
        )
    tally = _Tally(info)
    cases = list_cases(folder, info)
    patients = patients_of((files.name for files in cases), patient_pattern)
    for files in cases:
        tally.add(files, patients[files.name])
    if not tally.slices_with.keys() - {0}:
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

    Raises:
        DataError: it cannot be read, is too long or deep, or has other fields or values.
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
class _Case:
    """Sums over the slices of one case.

    Args:
        labels: largest number of a label, and 1.
        pixels: of the case, in each modality.
        columns: of each slice.
    """

    def __init__(self, labels: int, pixels: int, columns: int) -> None:
        self.labels, self.columns = labels, columns
        self.every = math.ceil(pixels / SAMPLED) | 1  # odd, lest it keep to some columns
        self.samples: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
        """Intensities and labels by slice; the labels of a slice without one are -1."""
        self.bits: dict[str, int] = {}
        self.lowest: dict[str, float] = {}
        self.highest: dict[str, float] = {}
        self.mirrored = np.zeros((labels, labels), np.int64)
        self.left, self.right = np.zeros((2, labels), np.int64)
        self.areas: dict[int, list[float]] = defaultdict(list)
        self.labelled: list[np.ndarray] = []  # by axial slice: its columns, then its rows

    def add(self, raw: RawCase, modalities: Iterable[str]) -> None:
        """Adds one slice."""
        shape = next(iter(raw.channels.values())).shape
        mask = np.zeros(shape, np.int64) if raw.mask is None else raw.mask
        for name in (name for name in modalities if name in raw.channels):
            self._add_plane(raw, name, mask)
        if raw.mask is None:
            return
        pairs = (mask * self.labels + mask[:, ::-1]).ravel()
        self.mirrored += np.bincount(pairs, minlength=self.labels**2).reshape(self.mirrored.shape)
        half = shape[1] // 2
        self.left += np.bincount(mask[:, :half].ravel(), minlength=self.labels)
        self.right += np.bincount(mask[:, shape[1] - half :].ravel(), minlength=self.labels)
        counts = np.bincount(mask.ravel(), minlength=self.labels)
        for label in counts.nonzero()[0]:
            self.areas[int(label)].append(counts[label] / mask.size)
        self.labelled.append(np.concatenate([(mask > 0).any(0), (mask > 0).any(1)]))

    def _add_plane(self, raw: RawCase, name: str, mask: np.ndarray) -> None:
        plane = raw.channels[name]
        if not np.isfinite(plane).all():
            raise DataError(
                f"case {raw.name}, modality {name}: some intensities are infinite or not numbers. "
                "Replace them; 'asyndgan check' names every such file."
            )
        low, high, whole = plane.min(), plane.max(), bool((plane == np.rint(plane)).all())
        fits = [low >= 0 and high < 2**8, low >= -(2**15) and high < 2**16]
        bits = 8 if whole and fits[0] else 16 if whole and fits[1] else 32
        self.bits[name] = max(bits, self.bits.get(name, 8))
        self.lowest[name] = min(float(low), self.lowest.get(name, math.inf))
        self.highest[name] = max(float(high), self.highest.get(name, -math.inf))
        values, labels = (each.ravel()[:: self.every] for each in (plane, mask))
        labels = labels.astype(np.int16) if mask.any() else np.full(labels.shape, -1, np.int16)
        self.samples[name].append((values.copy(), labels))

    def _sampled(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Intensities and labels of all slices, which are joined once."""
        if len(self.samples[name]) > 1:
            values, labels = map(np.concatenate, zip(*self.samples[name], strict=True))
            self.samples[name] = [(values, labels)]
        return self.samples[name][0]

    def explained(self, name: str, low: float, high: float) -> float | None:
        """Part of a modality's variance between labels, where slices hold one, in a range.

        Intensities beyond the range count as its ends: so a recipe clips them. None: no slice
        holds a label, or the intensities are constant.
        """
        values, labels = self._sampled(name)
        values, labels = values[labels >= 0], labels[labels >= 0]
        if not values.size:
            return None
        kept = values.clip(low, high).astype(np.float64)
        kept -= kept.mean()
        count, total = (np.bincount(labels, each, self.labels) for each in (None, kept))
        whole = (kept**2).sum()
        between = (total**2 / np.maximum(count, 1)).sum()
        return float(np.clip(between / whole, 0, 1)) if whole > 0 else None

    def levels(self, name: str) -> dict[str, np.ndarray]:
        """Percentiles of a modality, in the whole case, inside labels and outside."""
        values, labels = self._sampled(name)
        inside = labels > 0
        parts = zip(_WHERE, (values, values[inside], values[~inside]), strict=True)
        return {where: np.percentile(part, PERCENTILES) for where, part in parts if part.size}

    def unlabelled(self) -> dict[int, tuple[int, int]]:
        """Slices without a label and all slices, by the axis along which they are cut."""
        if not self.labelled:
            return {}
        found = np.stack(self.labelled)
        lines = np.asarray(found.any(0))
        by_axis = (lines[: self.columns], lines[self.columns :], found.any(1))
        return {axis: (int((~each).sum()), each.size) for axis, each in enumerate(by_axis)}


@final
class _Tally:
    """Sums over the cases of a data set."""

    def __init__(self, info: DatasetInfo) -> None:
        self.info = info
        self.modalities = shared_modalities(info, ImageSection())
        self.most = max(info.labels.values(), default=0) + 1
        self.found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        """Figures of cases, by what they are of, and by patient."""
        self.shapes: list[tuple[int, ...]] = []
        self.turns: Counter[str] = Counter()
        self.patients: set[str] = set()
        self.mirrored = np.zeros((self.most, self.most), np.int64)
        self.bits: dict[str, int] = {}
        self.lowest: dict[str, list[float]] = {}
        self.highest: dict[str, list[float]] = {}
        self.coloured: set[bool] = set()
        self.slices = 0
        self.slices_with: Counter[int] = Counter()
        self.unlabelled = np.zeros((3, 2), np.int64)

    def add(self, files: CaseFiles, patient: str) -> None:
        """Reads and adds one case."""
        case: _Case | None = None
        for raw in read_case(files, self.info, patient=patient):
            if case is None:
                shape = raw.source.shape if raw.source else ()
                columns = next(iter(raw.channels.values())).shape[1]
                case = _Case(self.most, math.prod(shape), columns)
            case.add(raw, self.modalities)
            self.slices += 1
        if case is None or raw.source is None:
            return
        self.patients.add(raw.patient)
        self.shapes.append(raw.source.shape)
        self.turns[raw.source.orientation] += 1
        self.coloured.add(len(files.images) == 1 and len(self.info.modalities) == 3)
        for axis, (voxels, mm) in enumerate(zip(raw.source.shape, raw.source.spacing, strict=True)):
            for key, value in (("voxels", voxels), ("mm", mm), ("view", voxels * mm)):
                self._keep(f"{key} {axis}", raw.patient, value)
        for name in case.samples:
            self.bits[name] = max(case.bits[name], self.bits.get(name, 8))
            self.lowest.setdefault(name, []).append(case.lowest[name])
            self.highest.setdefault(name, []).append(case.highest[name])
            levels = case.levels(name)
            for where, found in levels.items():
                self._keep(f"{where} {name}", raw.patient, found)
            if "inside" in levels:
                self._add_explained(case, name, raw.patient, levels)
        self._add_labels(case, raw.patient)

    def _add_explained(
        self, case: _Case, name: str, patient: str, levels: Mapping[str, np.ndarray]
    ) -> None:
        """Keeps what labels explain, in either range that a plan may take."""
        whole, inside = levels["whole"], levels["inside"]
        ct = window([inside[0]], [inside[-1]])
        ends = min(whole[0], inside[0]), max(whole[-1], inside[-1])
        for key, (low, high) in {"ct": (ct.low, ct.high), "other": ends}.items():
            if (share := case.explained(name, float(low), float(high))) is not None:
                self._keep(f"explained {key} {name}", patient, share)

    def _add_labels(self, case: _Case, patient: str) -> None:
        self.mirrored += case.mirrored
        for axis, counts in case.unlabelled().items():
            self.unlabelled[axis] += counts
        for label, areas in case.areas.items():
            self.slices_with[label] += len(areas)
            self._keep(f"area {label}", patient, fmean(areas))
            both = int(case.left[label] + case.right[label])
            side = (case.left[label] - case.right[label]) / both if both else 0.0
            self._keep(f"side {label}", patient, float(side))

    def _keep(self, key: str, patient: str, value: Any) -> None:
        self.found[key][patient].append(value)

    @property
    def spaced(self) -> bool:
        """Whether the cases are volumes; a TIFF may be either."""
        return all(len(shape) == 3 for shape in self.shapes)

    def _of_patients(self, key: str) -> np.ndarray:
        """One row a patient: the mean over their cases."""
        return np.array([np.mean(values, 0) for values in self.found[key].values()])

    def _spread(self, key: str) -> Spread:
        return _spread(self._of_patients(key))

    def _extent(self, key: str) -> Spread:
        """Of lengths; the geometric mean of a patient's cases keeps view = voxels times mm."""
        own = (np.array(values, np.float64) for values in self.found[key].values())
        means = [each[0] if np.ptp(each) == 0 else np.exp(np.log(each).mean()) for each in own]
        return _spread(np.array(means))

    def fingerprint(self) -> Fingerprint:
        """The figures of all cases."""
        sides = len(self.shapes[0]) if len(set(map(len, self.shapes))) == 1 else 0
        names = {number: name for name, number in self.info.labels.items()}
        cut = {axis: self.unlabelled[place].tolist() for axis, place in AXES.items()}
        return Fingerprint(
            cases=len(self.shapes),
            slices=self.slices,
            patients=len(self.patients),
            spaced=self.spaced,
            axes=tuple(map(self._side, range(sides))),
            orientation=self.turns.most_common(1)[0][0] if self.turns else "",
            modalities=tuple(self._modality(name) for name in self.modalities),
            labels=tuple(self._label(number, names) for number in sorted(names) if number),
            unlabelled={
                axis: empty / every
                for axis, (empty, every) in cut.items()
                if every and (self.spaced or axis == "axial")
            },
        )

    def _side(self, axis: int) -> Side:
        voxels = Counter(shape[axis] for shape in self.shapes)
        return Side(
            voxels=self._extent(f"voxels {axis}"),
            mm=self._extent(f"mm {axis}"),
            view=self._extent(f"view {axis}"),
            common=max(voxels.values()) / len(self.shapes),
        )

    def _modality(self, name: str) -> ModalityFigures:
        levels: dict[str, Levels] = {}
        for where in _WHERE:
            if self.found[f"{where} {name}"]:
                columns = zip(
                    Levels.model_fields, self._of_patients(f"{where} {name}").T, strict=True
                )
                levels[where] = Levels(**{key: _spread(values) for key, values in columns})
        kind = self._kind(name)
        explained = self._of_patients(f"explained {'ct' if kind == 'ct' else 'other'} {name}")
        return ModalityFigures(
            name=name,
            kind=kind,
            bits=self.bits.get(name, 32),
            patients=len(self.found[f"whole {name}"]) or None,
            explained=float(explained.mean()) if explained.size else None,
            **levels,
        )

    def _kind(self, name: str) -> str:
        if not (lows := self.lowest.get(name)):
            return "unknown"
        if not self.spaced:
            return "rgb" if self.coloured == {True} else "grey"
        unit = units_of(self.info.extra).get(name)
        ct = in_hounsfield(name, lows, self.highest[name], volumes=True, unit=unit)
        return "ct" if ct else "mri"

    def _label(self, number: int, names: Mapping[int, str]) -> LabelFigures:
        name, row = names[number], self.mirrored[number]
        if not row.any():
            return LabelFigures(name=name, number=number)
        mirrored, own = self.mirrored, self.mirrored.diagonal()
        swapped = [
            other
            for other in names
            if other not in (0, number)
            and mirrored[number, other] > own[number]
            and mirrored[other, number] > own[other]
        ]
        return LabelFigures(
            name=name,
            number=number,
            patients=len(self.found[f"area {number}"]),
            slices=self.slices_with[number] / self.slices,
            area=self._spread(f"area {number}"),
            side=float(self._of_patients(f"side {number}").mean()),
            kept=float(row[number] / row.sum()),
            exchanged=names[swapped[0]] if swapped else None,
        )


def _spread(values: np.ndarray) -> Spread:
    low, middle, high = np.percentile(values, (10, 50, 90)).tolist()
    return Spread(low=low, middle=middle, high=high)
