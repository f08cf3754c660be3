"""Completion of the modalities that a patient's case lacks, at the site that holds the case.

A network and a linear regression learn, on complete cases painted by the generator, to map the
present modalities to the missing ones; both are then applied to the patient's real images, and
their mean is taken. No site needs a complete real case.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Image, Mask
from asyndgan.errors import DataError
from asyndgan.export.copying import write_completed
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.findings import check_contrast, check_uncut
from asyndgan.intake.listing import CaseFiles
from asyndgan.models.budgets import TranslationBudget
from asyndgan.models.segmenters import check_size
from asyndgan.painting.painter import check_labels_of
from asyndgan.painting.pictures import plot_paintings
from asyndgan.painting.provenance import provenance_of
from asyndgan.painting.synthesise import digests_of
from asyndgan.painting.translation import REGRESSED, Incomplete, translated, translator_of
from asyndgan.recipe import ImageSection
from asyndgan.runs import RunFolder
from asyndgan.store import Case, derived_seed
from asyndgan.store.prepare import invert, prepare, stored_as

MOST_MASKS: Final = 1000
"""Most masks that the training images of a folder's translator are painted from, for its memory, if
they measure at most 64 x 64 pixels; of larger ones as many fewer.

By default they give 6,000 images, of which training draws 32,000, each moved anew: 0.6 GB for four
modalities.
"""

GALLERY: Final = "gallery.png"
"""A few completed cases, beside the completed set."""


def own_masks(cases: Sequence[Incomplete], image: ImageSection) -> list[tuple[str, Mask]]:
    """The masks of a site's cases, complete or not, as a run's generator was shown masks.

    Those without a label are among them only if `image.slices` is "all".
    """
    return [
        (f"own-{number:05d}", each.case.mask)
        for number, each in enumerate(cases)
        if each.masked and (image.slices == "all" or each.case.preparation.labelled)
    ]


def drawn_masks(masks: Sequence[tuple[str, Mask]], *, seed: int = 0) -> list[tuple[str, Mask]]:
    """All of the masks in their order, or as many as `MOST_MASKS` says, drawn at random."""
    largest = max((mask.numel() for _, mask in masks), default=1)
    most = max(1, MOST_MASKS * 64**2 // max(64**2, largest))
    random = torch.Generator().manual_seed(derived_seed(seed, "complete", "masks"))
    places = torch.randperm(len(masks), generator=random)[:most].sort().values
    return [masks[place] for place in places.tolist()]


def complete_folder(
    run: RunFolder,
    data: DataSet,
    out: Path,
    *,
    masks: Sequence[tuple[str, Mask]],
    source: str,
    budget: TranslationBudget,
    seed: int = 0,
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
) -> tuple[int, tuple[str, ...]]:
    """Copies a site's data set and adds the modalities that its cases lack, on this machine only.

    A picture of a few cases, `GALLERY`, lies beside the files in the new folder `out`.
    `on_progress` is called after every step of the translator's training with the steps done.
    `masks`, which `source` describes, are painted from in addition to the site's own; at most
    `MOST_MASKS` of all are used.

    Returns:
        The number of files added, and the names of the added modalities.

    Raises:
        DataError: no case lacks a modality, a case has none of them or cannot be read, there are no
            masks to paint from, or the run cannot complete this set, or paints only a part of its
            images.
        RunError: a mask holds a label that the run does not know.
        NotFiniteError: the translator's loss became infinite or NaN.
    """
    image = run.recipe().image
    check_size(image.size, "the run's images", "Complete by a run with another image.size.")
    check_own_set(run, data)
    read = _read(run, data, masks)
    own = own_masks([each for _, slices in read for each in slices], image)
    lacking = [each for _, slices in read for each in slices if each.case.absent]
    if not lacking:
        raise DataError(
            f"every case in {data.folder} has {', '.join(run.facts().modalities)} already."
        )
    check_uncut([each.case for each in lacking], image, data.folder)
    drawn = drawn_masks([*own, *masks], seed=seed)
    if not drawn:
        raise DataError(
            f"{data.folder} has no masks to paint training cases from (image.slices of the run is "
            f"'{image.slices}'), and this run kept none. Name a folder of masks with --masks."
        )
    translator = translator_of(
        run, lacking, drawn, budget=budget, seed=seed, device=device, on_progress=on_progress
    )
    images = translated(translator, lacking)
    planes = _planes(read, images, image)
    names = tuple(dict.fromkeys(name for of_case in planes.values() for name in of_case))
    made_from = {
        files.name: "the acquired modalities" + " and the mask" * any(e.masked for e in slices)
        for files, slices in read
    }
    provenance = {
        **provenance_of(run),
        "seed": seed,
        "looks": {name: _sites_of_look(run, name) for name in names},
        "translator": {
            "masks": f"{len(drawn)} out of {len(own)} of the site's own and {len(masks)} "
            f"others ({source}), moved at random",
            "masks_sha256": digests_of(mask for _, mask in drawn),
            "budget": asdict(budget),
            "regressed": REGRESSED,
        },
        "acquired": list(data.info.modalities),
        "intensity": {name: _scale_of(image, name) for name in names},
    }
    count = write_completed(
        data, out, planes, axis=image.axis, made_from=made_from, provenance=provenance
    )
    # For whoever completes: the first look at what came out belongs beside it.
    shown = [replace(e.case, image=found) for e, found in zip(lacking, images, strict=True)]
    title = "framed: synthetic, never acquired"
    (out / GALLERY).write_bytes(plot_paintings(shown, None, title=title))
    return count, names


def _read(
    run: RunFolder, data: DataSet, masks: Sequence[tuple[str, Mask]]
) -> list[tuple[CaseFiles, list[Incomplete]]]:
    """The files of each case with its slices on the recipe's grid, whose labels the run knows."""
    facts, image = run.facts(), run.recipe().image
    read: list[tuple[CaseFiles, list[Incomplete]]] = []
    for files in data.files:
        read.append((files, []))
        for raw in data.raw(files, image):
            if len(raw.channels) > len(files.images):
                raise DataError(
                    f"{data.folder} holds RGB pictures, beside which no further channel can be "
                    "stored. Store each channel as a grey picture first."
                )
            case = prepare(raw, image, facts.modalities, incomplete=True)
            read[-1][1].append(Incomplete(case, raw.mask is not None))
    every = [each for _, slices in read for each in slices]
    stored = [*(each.case.mask for each in every if each.masked), *(mask for _, mask in masks)]
    check_labels_of(stored, facts.scope.labels)
    check_contrast([each.case for each in every], image, data.folder)
    return read


def _sites_of_look(run: RunFolder, modality: str) -> list[str]:
    """Sites in one of whose looks a modality may be painted; none if the generator has none."""
    facts = run.facts()
    within = facts.whole or list(facts.teachers)
    styled = run.recipe().generator.style
    return [site for site in within if styled and modality in facts.sites[site]["modalities"]]


def check_own_set(run: RunFolder, data: DataSet) -> None:
    """Checks that a run's generator can paint images for a site's own data set.

    Raises `DataError` if the run does not paint images from masks, or the set holds synthetic
    cases, modalities that the run does not paint, or labels of another meaning.
    """
    facts, info = run.facts(), data.info
    data.check_labels(facts.labels)
    recipe = run.recipe()
    if recipe.condition.kind != "mask" or recipe.image.source != "images":
        raise DataError(
            f"the run in {run.path} does not paint images from masks (condition.kind "
            f"'{recipe.condition.kind}', image.source '{recipe.image.source}'), so what it paints "
            "would not fit a case's mask. Take another run."
        )
    if info.synthetic or info.synthetic_cases:
        raise DataError(
            f"{data.folder} holds synthetic cases, which nobody acquired. Name the set that it was "
            "made from."
        )
    if unknown := [name for name in info.modalities if name not in facts.modalities]:
        raise DataError(
            f"{data.folder} holds {', '.join(unknown)}, which this run does not paint; it paints "
            f"{', '.join(facts.modalities)}. Modalities match by name."
        )


def _planes(
    read: Sequence[tuple[CaseFiles, Sequence[Incomplete]]],
    images: Sequence[Image],
    image: ImageSection,
) -> dict[str, dict[str, list[np.ndarray]]]:
    """Stored slices of the modalities that cases lack, by case and modality.

    `images` are the completed ones of the slices that lack a modality, in their order.
    """
    found = iter(images)
    planes: dict[str, dict[str, list[np.ndarray]]] = {}
    for files, slices in read:
        for each in slices:
            if each.case.absent:
                painted = next(found)
            for modality in each.case.absent:
                stored = _stored(painted, each.case, modality, image)
                of_case = planes.setdefault(files.name, {}).setdefault(modality, [])
                of_case.extend([stored] if stored.ndim == 2 else stored)
    return planes


def _scale_of(image: ImageSection, modality: str) -> dict[str, object]:
    """What the numbers mean in which a painted channel is stored."""
    scale, shift = stored_as(image, modality)
    black, white = (round((end - shift) / scale, 6) for end in (IMAGE_LOW, IMAGE_HIGH))
    acquired = image.intensity_of(modality).kind == "range"
    return {"black": black, "white": white, "units": "as acquired" if acquired else "its own"}


def _stored(painted: Image, case: Case, modality: str, image: ImageSection) -> np.ndarray:
    """One painted channel on the grid and in the intensities in which the case is stored."""
    scale, shift = stored_as(image, modality)
    place = case.modalities.index(modality)
    alone = replace(case.preparation, scale=(scale,), shift=(shift,))
    return invert(painted[[place]], alone)[0]
