"""Measures the fingerprint of a data set, slice by slice, in one pass over its files.

Figures are means over a patient's cases, then summed up over patients, so that no patient counts
for more than others. Each comes with the number of patients behind it (`Counted.behind`).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean, median_low
from typing import Any, Final, final

import numpy as np
from pydantic import ValidationError

from asyndgan.errors import DataError
from asyndgan.intake.dataset import NOT_ACQUIRED, DataSet, painted
from asyndgan.intake.findings import LABELS_AGAIN
from asyndgan.intake.listing import CaseFiles
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
from asyndgan.store.case import RawCase
from asyndgan.store.geometry import AXES
from asyndgan.store.info import DatasetInfo
from asyndgan.store.plan import shared_modalities
from asyndgan.texts import bounded_text, parsed_json

SAMPLED: Final = 2**18
"""Most pixels of a case and modality from which percentiles are taken."""

MOST_BYTES: Final = 2**21
"""Longest fingerprint of another party, in bytes: one of 64 modalities and 1,023 labels fits."""

_WHERE: Final = ("whole", "inside", "outside")


def measured(folder: Path) -> Fingerprint:
    """Measures a folder.

    Args:
        folder: a data set of acquired images.

    Raises:
        DataError: it cannot be read, is synthetic, holds intensities that are not finite, or no
            mask with a label.
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
        tally.add(files, data)
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
        self.turns: dict[str, set[str]] = defaultdict(set)
        self.swapped: dict[tuple[int, int], set[str]] = defaultdict(set)
        """Patients by the orientation of a case, and by two labels that a mirror exchanges."""
        self.mirrored = np.zeros((self.most, self.most), np.int64)
        self.cases: Counter[str] = Counter()
        self.slices: Counter[str] = Counter()

    def add(self, files: CaseFiles, data: DataSet) -> None:
        """Adds one case."""
        patient = data.patients[files.name]
        case: _Case | None = None
        slices = 0
        for raw in data.raw(files, ImageSection()):
            if case is None:
                shape = raw.source.shape if raw.source else ()
                columns = next(iter(raw.channels.values())).shape[1]
                case = _Case(self.most, math.prod(shape), columns)
            case.add(raw, self.modalities)
            slices += 1
        if case is None or raw.source is None:
            return
        self.cases[patient] += 1
        self.slices[patient] += slices
        sides = len(raw.source.shape)
        self.turns[raw.source.orientation].add(patient)
        self._keep("spaced", patient, sides == 3)
        rgb = len(files.images) == 1 and len(self.info.modalities) == 3
        self._keep("coloured", patient, rgb)
        for axis, (voxels, mm) in enumerate(zip(raw.source.shape, raw.source.spacing, strict=True)):
            for key, value in (("voxels", voxels), ("mm", mm), ("view", voxels * mm)):
                self._keep(f"{key} {axis} of {sides}", patient, value)
        for axis, (empty, every) in case.unlabelled().items():
            if sides == 3 or axis == AXES["axial"]:
                self._keep(f"unlabelled {axis}", patient, empty / every)
        for name in case.samples:
            self._keep(f"bits {name}", patient, (case.bits[name] > 8, case.bits[name] > 16))
            self._keep(f"ends {name}", patient, (case.lowest[name], case.highest[name]))
            levels = case.levels(name)
            for where, found in levels.items():
                self._keep(f"{where} {name}", patient, found)
            if "inside" in levels:
                self._add_explained(case, name, patient, levels)
        self._add_labels(case, patient, slices)

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

    def _add_labels(self, case: _Case, patient: str, slices: int) -> None:
        self.mirrored += case.mirrored
        own = case.mirrored.diagonal()
        for one, other in np.argwhere(case.mirrored > np.maximum(own, own[:, None])):
            self.swapped[int(one), int(other)].add(patient)
        for label in self.info.labels.values():
            areas = case.areas.get(label, [])
            self._keep(f"slices {label}", patient, len(areas) / slices)
            if not areas:
                continue
            self._keep(f"area {label}", patient, fmean(areas))
            both = int(case.left[label] + case.right[label])
            side = (case.left[label] - case.right[label]) / both if both else 0.0
            self._keep(f"side {label}", patient, float(side))
            self._keep(f"kept {label}", patient, own[label] / case.mirrored[label].sum())

    def _keep(self, key: str, patient: str, value: Any) -> None:
        self.found[key][patient].append(value)

    @property
    def painted(self) -> bool:
        """Whether a mask holds a label."""
        return any(self.found[f"area {label}"] for label in self.info.labels.values() if label)

    @property
    def spaced(self) -> bool:
        """Whether most patients' cases are volumes; a TIFF may be either."""
        return self._most("spaced")

    def _of_patients(self, key: str) -> np.ndarray:
        """One row a patient: the mean over their cases."""
        return np.array([np.mean(values, 0) for values in self.found[key].values()])

    def _most(self, key: str) -> bool:
        return bool(self._of_patients(key).mean() > 0.5)

    def _spread(self, key: str) -> Spread:
        return _spread(self._of_patients(key))

    def _extent(self, key: str) -> Spread:
        """Of lengths; the geometric mean of a patient's cases keeps view = voxels times mm."""
        own = (np.array(values, np.float64) for values in self.found[key].values())
        means = [each[0] if np.ptp(each) == 0 else np.exp(np.log(each).mean()) for each in own]
        return _spread(np.array(means))

    def fingerprint(self) -> Fingerprint:
        """The figures of all cases."""
        patients = len(self.cases)
        names = {number: name for name, number in self.info.labels.items()}
        turn = max(self.turns, key=lambda each: len(self.turns[each]))
        sides = 3 if self.spaced else 2
        cut = {
            axis: _fraction(self._of_patients(f"unlabelled {place}"))
            for axis, place in AXES.items()
            if (self.spaced or axis == "axial") and self.found[f"unlabelled {place}"]
        }
        return Fingerprint(
            cases=self.cases.total(),
            slices=self.slices.total(),
            patients=patients,
            spaced=self.spaced,
            axes=tuple(self._side(f"{axis} of {sides}") for axis in range(sides)),
            orientation=turn,
            modalities=tuple(
                self._modality(name) for name in self.modalities if self.found[f"ends {name}"]
            ),
            labels=tuple(self._label(number, names) for number in sorted(names) if number),
            unlabelled={axis: share for axis, (share, _) in cut.items()},
            behind={
                "patients": (patients, 0, 0),
                "cases": (patients, median_low(self.cases.values()), 0),
                "slices": (patients, median_low(self.slices.values()), 0),
                "axes": (len(self.found[f"voxels 0 of {sides}"]), 0, 0),
                "orientation": (len(self.turns[turn]), 0, 0),
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
        found = {where: self._of_patients(f"{where} {name}") for where in _WHERE}
        patients = len(found["whole"])
        if not patients:
            return ModalityFigures(name=name)
        kind = self._kind(name)
        explained = self._of_patients(f"explained {'ct' if kind == 'ct' else 'other'} {name}")
        deep, deeper = (self._of_patients(f"bits {name}") > 0).sum(0).tolist()
        behind = {where: (len(rows), 0, 0) for where, rows in found.items()}
        behind["outside"] = min(behind["outside"], behind["inside"])  # the others' whole is outside
        levels = {
            where: Levels(**dict(zip(Levels.model_fields, map(_spread, rows.T), strict=True)))
            for where, rows in found.items()
            if rows.size
        }
        share = None
        if explained.size:
            share, behind["explained"] = _fraction(explained)
        return ModalityFigures(
            name=name,
            kind=kind,
            bits=32 if deeper else 16 if deep else 8,
            patients=patients,
            explained=share,
            behind={
                **behind,
                "patients": (patients, len(self.cases) - patients, 0),
                "kind": (patients, 0, 0),
                "bits": (patients, deep, deeper),
            },
            **levels,
        )

    def _kind(self, name: str) -> str:
        if not self.spaced:
            return "rgb" if self._most("coloured") else "grey"
        unit = units_of(self.info.extra).get(name)
        lowest, highest = self._of_patients(f"ends {name}").T.tolist()
        return "ct" if in_hounsfield(name, lowest, highest, unit) else "mri"

    def _label(self, number: int, names: Mapping[int, str]) -> LabelFigures:
        name, patients = names[number], len(self.found[f"area {number}"])
        if not patients:
            return LabelFigures(name=name, number=number)
        mirrored, own = self.mirrored, self.mirrored.diagonal()
        swapped = [
            other
            for other in names
            if other not in (0, number)
            and mirrored[number, other] > own[number]
            and mirrored[other, number] > own[other]
        ]
        votes = len(self.swapped[number, swapped[0]]) if swapped else 0
        slices, kept, side = (
            _fraction(self._of_patients(f"{key} {number}"), least)
            for key, least in (("slices", 0.0), ("kept", 0.0), ("side", -1.0))
        )
        return LabelFigures(
            name=name,
            number=number,
            patients=patients,
            slices=slices[0],
            area=self._spread(f"area {number}"),
            side=side[0],
            kept=kept[0],
            exchanged=names[swapped[0]] if swapped else None,
            behind={
                "patients": (patients, len(self.cases) - patients, 0),
                "area": (patients, 0, 0),
                "slices": (patients, *slices[1][1:]),
                "kept": kept[1],
                "side": side[1],
                "exchanged": (votes, 0, 0),
            },
        )


def _fraction(own: np.ndarray, least: float = 0.0) -> tuple[float, tuple[int, int, int]]:
    """The mean over patients; how many there are, are above the least value, and below 1."""
    return float(own.mean()), (own.size, int((own > least).sum()), int((own < 1).sum()))


def _spread(values: np.ndarray) -> Spread:
    low, middle, high = np.percentile(values, (10, 50, 90)).tolist()
    return Spread(low=low, middle=middle, high=high)
