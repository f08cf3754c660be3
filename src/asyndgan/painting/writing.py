"""Writing of a synthetic data set: its files, folds, provenance and model card."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, Self, final

import numpy as np

from asyndgan.arrays import Mask
from asyndgan.data import Case, RawCase
from asyndgan.data.case import prepared_spacing
from asyndgan.data.dataset import DataSet, in_stored_units
from asyndgan.data.folds import write_folds
from asyndgan.data.readers import READERS
from asyndgan.data.writing import write_dataset
from asyndgan.painting.card import model_card
from asyndgan.painting.synthesise import PAINTING_VERSION, masks_digest
from asyndgan.recipe.image import Intensity
from asyndgan.runs import RunFolder


@final
@dataclass(frozen=True)
class Storage:
    """How a synthetic set is stored.

    Attributes:
        ending: one of `data.description.FILE_ENDINGS`.
        spacing: millimetres per row and per column.
        units: by modality, the stored intensities of the darkest and the brightest image value;
            other modalities are stored from 0 to 255.
    """

    ending: str = ".png"
    spacing: tuple[float, float] = (1.0, 1.0)
    units: Mapping[str, Intensity] = field(default_factory=dict)

    @classmethod
    def like(cls, data: DataSet, run: RunFolder) -> Self:
        """As a site's data set is stored: its format and, of NIfTI, its spacing and intensities.

        The spacing is that of the recipe, or else the median of the site's prepared cases.
        """
        image, ending = run.recipe().image, data.info.file_ending
        if not READERS[ending].spaced:
            return cls(ending)
        spacing = image.spacing
        if spacing is None:
            held = [prepared_spacing(case.preparation) for case in data.cases(image, unmasked=True)]
            rows, columns = (median(axis) for axis in zip(*held, strict=True))
            spacing = (rows, columns)
        return cls(ending, spacing, in_stored_units(image, run.facts().modalities))

    def raw(self, case: Case) -> RawCase:
        """A painted case as it is stored."""
        shown = case.image.numpy() + 1
        bounds = [
            (units.low, units.high) if (units := self.units.get(name)) else (0.0, 255.0)
            for name in case.modalities
        ]
        return RawCase(
            name=case.name,
            patient=case.patient,
            channels={
                name: plane * np.float32((high - low) / 2) + np.float32(low)
                for name, plane, (low, high) in zip(case.modalities, shown, bounds, strict=True)
            },
            mask=case.mask.numpy(),
            spacing=self.spacing,
        )


PICTURES: Final = Storage()
"""PNG with 8 bits: 0 is the lowest and 255 the highest intensity of the recipe's normalisation."""


def write_synthetic(
    folder: Path,
    run: RunFolder,
    cases: Iterable[Case],
    *,
    masks: Sequence[tuple[str, Mask]],
    source: str,
    painting: Mapping[str, Any],
    audited: str | None = None,
    storage: Storage = PICTURES,
) -> int:
    """Writes synthetic cases as an nnU-Net data set, with folds, provenance and a model card.

    Args:
        folder: folder to create.
        run: run that painted the cases.
        cases: result of `synthesise`; each is written before the next one is painted.
        masks: masks that the cases were painted from, before any of them was moved.
        source: description of where the masks came from.
        painting: parameters of the painting, such as images per mask, for the provenance.
        audited: findings of the audit that permits the release of the set, if there was one.
        storage: how the files are stored.

    Returns:
        The number of cases.
    """
    facts, recipe = run.facts(), run.recipe()
    provenance: dict[str, Any] = {
        "generator_sha256": facts.generator_sha256,
        "run": facts.run,
        "recipe": recipe.name,
        "recipe_sha256": facts.recipe_digest,
        "asyndgan": facts.version,
        "shares": {site: about["share"] for site, about in facts.teachers.items()},
        "masks": source,
        "masks_sha256": masks_digest(masks),
        "privacy": recipe.privacy.kind,
        **painting,
        "painting_version": PAINTING_VERSION,
        "intensity": {
            name: recipe.image.intensity_of(name).model_dump() for name in facts.modalities
        },
    }
    groups: dict[str, str] = {}

    def stored() -> Iterator[RawCase]:
        for case in cases:
            groups[case.name] = re.sub(r"_d\d+$", "", case.name)
            yield storage.raw(case)

    count = write_dataset(
        folder,
        stored(),
        file_ending=storage.ending,
        modalities=facts.modalities,
        labels={name: int(number) for number, name in facts.labels.items()},
        name=f"synthetic ({recipe.name}, {', '.join(facts.teachers)})",
        extra={
            "synthetic": True,
            "reference": f"painted by asyndgan {facts.version}, see MODEL_CARD.md",
            "licence": "not stated: ask the sites whose images the generator learned from",
            "release": facts.generator_sha256[:12],
            "provenance": provenance,
        },
    )
    write_folds(folder, groups)
    if audited:
        provenance["audited"] = audited
    card = model_card(facts, provenance, count, recipe)
    (folder / "MODEL_CARD.md").write_text(card, "utf-8")
    return count
