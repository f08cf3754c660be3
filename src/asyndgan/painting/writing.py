"""Writing of a synthetic data set: its files, folds, provenance and model card."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, Final, Self, final

import numpy as np

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Mask
from asyndgan.export.lists import write_lists
from asyndgan.export.writing import write_dataset
from asyndgan.intake import reading
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.readers import AXIAL, READERS, DataFileError, Geometry, Stored, lossless
from asyndgan.intake.units import units_of
from asyndgan.lazy import Late
from asyndgan.painting.card import model_card
from asyndgan.painting.provenance import provenance_of
from asyndgan.painting.synthesise import (
    PAINTING_VERSION,
    Grid,
    Origin,
    mask_of,
    masks_digest,
    source_of_masks,
    volume_of,
)
from asyndgan.recipe.image import ImageSection, Intensity
from asyndgan.runs import RunFolder
from asyndgan.runs.shipped import licence_of
from asyndgan.store import Case, RawCase
from asyndgan.store.case import prepared_spacing
from asyndgan.store.fitting import SYNTHETIC_INTENSITY
from asyndgan.store.geometry import AXES
from asyndgan.store.prepare import invert, invert_mask

nib: Any = Late("nibabel")  # half a second that pictures need not


@final
@dataclass(frozen=True)
class Storage:
    """How a synthetic set is stored."""

    ending: str = ".png"  # one of `readers.LOSSLESS`
    # by modality, stored intensities of the darkest and the brightest image value; else 0 to 255
    units: Mapping[str, Intensity] = field(default_factory=dict)
    # by modality, the number type of its files; else as the format has it
    kinds: Mapping[str, np.dtype] = field(default_factory=dict)
    # millimetres per row, column; whole volumes: slice first
    spacing: tuple[float, ...] = (1.0, 1.0)
    geometry: Geometry = AXIAL  # how slices lie in the files
    # by modality, the unit of its stored values where it is known, such as HU
    measured_in: Mapping[str, str] = field(default_factory=dict)
    # where masks of volumes lie, by their names: what is painted from them lies there too, and
    # slices of one volume are one case
    grids: Mapping[str, Grid] = field(default_factory=dict)

    @classmethod
    def plain(cls, image: ImageSection, grids: Mapping[str, Grid] = MappingProxyType({})) -> Self:
        """PNG with 8 bits, from the lowest to the highest intensity of the recipe's normalisation.

        Volumes are NIfTI: on the grids of their masks, with the recipe's spacing or of 1 mm.
        """
        if not (image.whole or grids):
            return cls()
        apart = image.spacing or (1.0,) * len(image.size)
        return cls(".nii.gz", spacing=apart, geometry=Geometry(AXES[image.axis]), grids=grids)

    @classmethod
    def like(
        cls, data: DataSet, run: RunFolder, grids: Mapping[str, Grid] = MappingProxyType({})
    ) -> Self:
        """As a site's data set is stored, with the intensities as far as the recipe knows them.

        JPEG becomes PNG. The spacing is that of the recipe, or else the median of the site's
        prepared cases. Arrays are turned as the site's first file is. Of masks of volumes all of
        this is as theirs. Raises `DataError` if the set cannot be read, or is no site's.
        """
        image, ending = run.recipe().image, lossless(data.info.file_ending)
        names, spaced = run.facts().modalities, READERS[ending].spaced
        if set(names).isdisjoint(data.info.modalities):
            raise DataFileError(
                data.folder / "dataset.json",
                f"names {', '.join(data.info.modalities)}; the run paints {', '.join(names)}",
                "Name with --like the data set of a site of the run.",
            )
        files = _first_of_each(data)
        first = next(iter(files.values()))
        stored = {
            name: _stored_as(
                image.intensity_of(name), files.get(name, first).values.dtype, whole=not spaced
            )
            for name in names
        }
        units = {name: own for name, (own, _) in stored.items()}
        kinds = {name: kind for name, (_, kind) in stored.items()}
        known = units_of(data.info.extra).items()
        told = {name: unit for name, unit in known if units.get(name) == image.intensity_of(name)}
        told = {name: unit for name, unit in told.items() if units[name].kind == "range"}
        alike = cls(ending, units, kinds, measured_in=told)
        if not spaced:
            return alike
        axis = AXES[image.axis]
        held = [case.preparation for case in data.cases(image, unmasked=True)]
        sides = image.spacing or map(median, zip(*map(prepared_spacing, held), strict=True))
        alike = replace(alike, spacing=tuple(sides))
        if not READERS[ending].volumes:
            return alike
        slices = [made.source.spacing[axis] for made in held if made.source]
        codes = nib.orientations.ornt2axcodes(first.turn)
        return replace(alike, geometry=Geometry(axis, median(slices), codes), grids=grids)

    def bounds(self, modality: str) -> tuple[float, float]:
        """The stored intensities of the darkest and the brightest image value."""
        units = self.units.get(modality, SYNTHETIC_INTENSITY)
        return units.low, units.high

    def stored(self, cases: Iterable[Case]) -> Iterator[RawCase]:
        """Painted cases as they are stored: slices of a volume as one, dark where none is."""
        if not self.grids:
            yield from map(self.raw, cases)
            return
        for name, slices in groupby(cases, lambda case: volume_of(case.name) or case.name):
            yield self._volume(name, [*slices])

    def _volume(self, name: str, slices: Sequence[Case]) -> RawCase:
        """The slices of a volume, or a whole one, on the grid of its mask."""
        grids = [self.grids[mask_of(case.name)] for case in slices]
        source = grids[0].preparation.source
        assert source
        shape = (source.shape[self.geometry.axis], *grids[0].preparation.shape[-2:])
        images = np.full((len(slices[0].modalities), *shape), IMAGE_LOW, np.float32)
        labels = np.zeros(shape, np.int64)
        one, none = (1.0,) * len(images), (0.0,) * len(images)
        for case, grid in zip(slices, grids, strict=True):
            made = replace(grid.preparation, scale=one, shift=none)
            images[:, grid.index] = invert(case.image, made).clip(IMAGE_LOW, IMAGE_HIGH)
            labels[grid.index] = invert_mask(case.mask, made)
        whole = self._raw(name, slices[0].modalities, images, labels)
        return replace(whole, source=source)

    def lies(self, case: RawCase) -> Geometry:
        """How a stored case lies in its files."""
        for grid in self.grids.values():
            if grid.preparation.source is case.source:
                return Geometry.of(reading.mask(grid.file), self.geometry.axis)
        return self.geometry

    def raw(self, case: Case) -> RawCase:
        """A painted case as it is stored."""
        return self._raw(case.name, case.modalities, case.image.numpy(), case.mask.numpy())

    def _raw(
        self, name: str, modalities: Sequence[str], images: np.ndarray, mask: np.ndarray
    ) -> RawCase:
        pairs = zip(modalities, images + 1, strict=True)
        channels = {modality: self._stored(modality, plane) for modality, plane in pairs}
        return RawCase(name, name, channels, mask, self.spacing)

    def _stored(self, modality: str, plane: np.ndarray) -> np.ndarray:
        """A channel from 0 to 2 as it is stored."""
        low, high = self.bounds(modality)
        plane = plane * np.float32((high - low) / 2) + np.float32(low)
        kind = self.kinds.get(modality)
        if kind is None or kind.kind == "f":
            return plane
        return np.clip(np.round(plane), low, high).astype(kind)


LEVELS: Final = 255
"""Fewest steps between the ends of a range that is stored in whole numbers in NIfTI."""


def _first_of_each(data: DataSet) -> dict[str, Stored]:
    """The first stored array of each modality of a data set."""
    names, found = data.info.modalities, dict[str, Stored]()
    for files in data.files:
        for number, path in files.images.items():
            if names[number] not in found:
                most = len(names) if number == 0 else 1
                planes = READERS[data.info.file_ending].image(path, most=most)
                found |= dict(zip(names[number:], planes, strict=False))
        if len(found) == len(names):
            break
    return found


def _stored_as(how: Intensity, kind: np.dtype, *, whole: bool) -> tuple[Intensity, np.dtype]:
    """The range and the number type in which a site's painted files are stored.

    Percentiles and standard deviations are of each patient, so no painted image has any. If
    `whole`, the format stores whole numbers from 0 on only, in 8 or 16 bits.
    """
    own = how if how.kind == "range" else SYNTHETIC_INTENSITY
    if whole:
        kind = np.dtype(np.uint8 if kind.itemsize == 1 else np.uint16)
        most = np.iinfo(kind).max
        fits = how.kind == "range" and how.low >= 0 and how.high <= most
        return (how if fits else Intensity(low=0, high=most)), kind
    if kind.kind in "iu" and kind.itemsize <= 4 and own.high - own.low >= LEVELS:
        limits = np.iinfo(kind)
        if limits.min <= own.low and own.high <= limits.max:
            return own, kind.newbyteorder("=")
    return own, np.dtype(np.float32)


def write_synthetic(
    folder: Path,
    run: RunFolder,
    cases: Iterable[Case],
    *,
    masks: Sequence[tuple[str, Mask]],
    origin: Origin,
    painting: Mapping[str, Any],
    findings: Mapping[str, str] | None = None,
    storage: Storage | None = None,
) -> int:
    """Writes synthetic cases as an nnU-Net data set, with folds, provenance and a model card.

    Each case is written before the next one is painted. Images of one patient's masks share a fold,
    or images of one mask if patients are unknown. `painting` are its parameters, for the
    provenance; `findings` as of `model_card`. Returns the number of cases.
    """
    facts, recipe = run.facts(), run.recipe()
    storage = storage or Storage.plain(recipe.image)
    provenance: dict[str, Any] = {
        **provenance_of(run),
        "masks": origin.text,
        "masks_sha256": masks_digest(masks),
        **painting,
        "painting_version": PAINTING_VERSION,
        "intensity": {
            name: recipe.image.intensity_of(name).model_dump() for name in facts.modalities
        },
        "stored": {name: storage.bounds(name) for name in facts.modalities},
    }
    if storage.grids:
        provenance["grid"] = "masks"
    patients = {volume_of(mask) or mask: whose for mask, whose in origin.patients.items()}
    of_masks = _groups([volume_of(name) or name for name, _ in masks], patients)
    provenance["folds"] = "patient" if of_masks else "mask"
    groups: dict[str, str] = {}

    def stored() -> Iterator[RawCase]:
        for case in storage.stored(cases):
            mask = mask_of(case.name)
            mask = volume_of(mask) or mask
            groups[case.name] = of_masks.get(mask, mask)
            yield case

    count = write_dataset(
        folder,
        stored(),
        file_ending=storage.ending,
        geometry=storage.lies,
        modalities=facts.modalities,
        labels={name: int(number) for number, name in facts.labels.items()},
        name=f"synthetic ({recipe.name}, {', '.join(facts.teachers)})",
        extra={
            "synthetic": True,
            **({"units": dict(storage.measured_in)} if storage.measured_in else {}),
            "reference": f"painted by asyndgan {facts.version}, see MODEL_CARD.md",
            "licence": licence_of(run.path, masks=origin.text.startswith(source_of_masks(run))),
            "release": facts.generator_sha256[:12],
            "provenance": provenance,
        },
    )
    write_lists(folder, groups)
    card = model_card(facts, provenance, count, recipe, findings)
    (folder / "MODEL_CARD.md").write_text(card, "utf-8")
    return count


def _groups(masks: Sequence[str], patients: Mapping[str, str]) -> dict[str, str]:
    """The first mask of the patient of each mask; empty if they are unknown, or one alone."""
    first: dict[str, str] = {}
    found = {mask: first.setdefault(patients.get(mask, mask), mask) for mask in masks}
    return found if patients and len(first) > 1 else {}
