"""Completion of the modalities that a patient's case lacks, at the site that holds the case.

There are two ways. Painted: the central generator paints the missing modalities from the mask, the
only thing that it knows about the patient (Multi-modal AsynDGAN, Chang et al. 2020). Translated: a
network and a linear regression learn, on complete cases painted by the generator, to map the
present modalities to the missing ones; both are then applied to the patient's real images, and
their mean is taken. No site needs a complete real case.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, final

import numpy as np
import torch

from asyndgan import __version__
from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Image, Mask
from asyndgan.errors import DataError
from asyndgan.export.copying import write_completed
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.findings import check_contrast, check_uncut
from asyndgan.intake.listing import CaseFiles
from asyndgan.models.segmenters import check_size
from asyndgan.painting.budget import TranslationBudget
from asyndgan.painting.looks import check_look, looks_of
from asyndgan.painting.pictures import plot_paintings
from asyndgan.painting.synthesise import check_labels_of, digests_of, synthesise
from asyndgan.painting.translation import (
    REGRESSED,
    Incomplete,
    filled,
    translated,
    translator_of,
    without_mask,
)
from asyndgan.recipe import ImageSection
from asyndgan.runs import RunFolder
from asyndgan.store import Case, derived_seed
from asyndgan.store.prepare import invert, prepare, stored_as

Way = Literal["translated", "painted"]
MOST_MASKS: Final = 1000
"""Most masks that the training images of a folder's translator are painted from, for its memory, if
they measure at most 64 x 64 pixels; of larger ones as many fewer.

By default they give 6,000 images, of which training draws 32,000, each moved anew: 0.6 GB for four
modalities.
"""

GALLERY: Final = "gallery.png"
"""A few completed cases, beside the completed set."""


def painted_from_masks(
    run: RunFolder, cases: Sequence[Incomplete], *, seed: int = 0, look: str | None = None
) -> list[Image]:
    """Completes cases like `translated`, but painted by the generator from each mask alone.

    All slices of a patient have the same look: that of the site `look`, or one drawn per patient.
    So has what this site does not hold: that of one which does, drawn per patient.

    Raises:
        DataError: a case has no mask.
    """
    for each in cases:
        if not each.masked:
            raise DataError(
                f"case {each.case.name} has no mask to paint from. Add it, or complete by "
                "translation."
            )
    masks = [(each.case.name, each.case.mask) for each in cases]
    patients = [each.case.patient for each in cases]
    looks = looks_of(patients, run, look=look, seed=seed)
    painted = synthesise(run, masks, seed=seed, looks=looks, patients=patients)
    return [filled(each.case, own.image) for each, own in zip(cases, painted, strict=True)]


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


@final
@dataclass(frozen=True)
class Completion:
    """How the modalities that cases lack are painted.

    Attributes:
        way: `translated` or `painted`.
        masks: masks to paint a translator's training cases from, in addition to the site's own; at
            most `MOST_MASKS` of all are used.
        source: description of where `masks` came from.
        budget: budget of the translator.
        seed: seed of everything random.
        look: site of the run whose look to paint in; None: looks are drawn.
        hide_masks: complete the cases as if they had no masks, so that the completed images can be
            segmented fairly. The translator's training cases are still painted from the masks.
        device: device to train on.
    """

    way: Way = "translated"
    masks: Sequence[tuple[str, Mask]] = ()
    source: str = ""
    budget: TranslationBudget = field(default_factory=TranslationBudget)
    seed: int = 0
    look: str | None = None
    hide_masks: bool = False
    device: str = "cpu"


def complete_folder(
    run: RunFolder,
    data: DataSet,
    out: Path,
    how: Completion,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[int, tuple[str, ...]]:
    """Copies a site's data set and adds the modalities that its cases lack, on this machine only.

    Args:
        run: a finished run; its generator paints all modalities.
        data: data set of the site.
        out: folder to create; a picture of a few cases, `GALLERY`, lies beside the files.
        how: how they are painted.
        on_progress: called after every step of the translator's training with the steps done.

    Returns:
        The number of files added, and the names of the added modalities.

    Raises:
        DataError: no case lacks a modality, a case has none of them or cannot be read, there are no
            masks to paint from, or the run cannot complete this set, or paints only a part of its
            images.
        RunError: a mask holds a label that the run does not know, or as `check_look`.
        NotFiniteError: the translator's loss became infinite or NaN.
    """
    image = run.recipe().image
    _check_way(run, how)
    check_own_set(run, data)
    read = _read(run, data, how)
    own = own_masks([each for _, slices in read for each in slices], image)
    if how.hide_masks:
        read = [(files, [without_mask(each) for each in slices]) for files, slices in read]
    lacking = [each for _, slices in read for each in slices if each.case.absent]
    if not lacking:
        raise DataError(
            f"every case in {data.folder} has {', '.join(run.facts().modalities)} already."
        )
    check_uncut([each.case for each in lacking], image, data.folder)
    if how.way == "painted":
        images, taught = painted_from_masks(run, lacking, seed=how.seed, look=how.look), None
    elif drawn := drawn_masks([*own, *how.masks], seed=how.seed):
        translator = translator_of(
            run, lacking, drawn, budget=how.budget, seed=how.seed, look=how.look,
            device=how.device, on_progress=on_progress,
        )  # fmt: skip
        images, taught = translated(translator, lacking), _taught(drawn, len(own), how)
    else:
        raise DataError(
            f"{data.folder} has no masks to paint training cases from (image.slices of the run is "
            f"'{image.slices}'), and this run kept none. Name a folder of masks with --masks."
        )
    planes = _planes(read, images, image)
    names = tuple(dict.fromkeys(name for of_case in planes.values() for name in of_case))
    made_from = {
        files.name: _made_from(how.way, masked=any(each.masked for each in slices))
        for files, slices in read
    }
    provenance = _provenance(run, data, how, names, taught)
    count = write_completed(
        data, out, planes, axis=image.axis, made_from=made_from, provenance=provenance
    )
    # For whoever completes: the first look at what came out belongs beside it.
    shown = [replace(e.case, image=found) for e, found in zip(lacking, images, strict=True)]
    title = "framed: synthetic, never acquired"
    (out / GALLERY).write_bytes(plot_paintings(shown, None, title=title))
    return count, names


def _check_way(run: RunFolder, how: Completion) -> None:
    """Raises `DataError`, or as `check_look`, if the run's generator cannot paint in this way."""
    facts, look = run.facts(), how.look
    if look is not None:
        check_look(run.recipe(), run.facts(), look)
    if how.way == "translated":
        if look and facts.whole and look not in facts.whole:
            raise DataError(
                f"no site of {look}'s look has every modality, so a translator would learn from "
                f"channels of different looks. Name one that does ({', '.join(facts.whole)}), or "
                "leave --look out."
            )
        other = "Complete with --way painted, or by a run with another image.size."
        check_size(run.recipe().image.size, "the run's images", other)


def _read(
    run: RunFolder, data: DataSet, how: Completion
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
    stored = [*(each.case.mask for each in every if each.masked), *(mask for _, mask in how.masks)]
    check_labels_of(stored, facts.scope.labels)
    check_contrast([each.case for each in every], image, data.folder)
    return read


def _taught(drawn: Sequence[tuple[str, Mask]], own: int, how: Completion) -> dict[str, object]:
    """What a translator was trained on; `own`: number of the site's masks among all."""
    return {
        "masks": f"{len(drawn)} out of {own} of the site's own and {len(how.masks)} others "
        f"({how.source}), moved at random",
        "masks_sha256": digests_of(mask for _, mask in drawn),
        "budget": asdict(how.budget),
        "regressed": REGRESSED,
    }


def _provenance(
    run: RunFolder,
    data: DataSet,
    how: Completion,
    names: Sequence[str],
    taught: dict[str, object] | None,
) -> dict[str, object]:
    """What painted the modalities with these names; `taught`: what their translator learned."""
    facts, image = run.facts(), run.recipe().image
    return {
        "way": how.way,
        "run": facts.run,
        "generator_sha256": facts.generator_sha256,
        "recipe_sha256": facts.recipe_digest,
        "asyndgan": __version__,
        "seed": how.seed,
        "look": how.look,
        "looks": {name: _sites_of_look(run, name, how.look, how.way) for name in names},
        "hide_masks": how.hide_masks,
        "translator": taught,
        "acquired": list(data.info.modalities),
        "intensity": {name: _scale_of(image, name) for name in names},
    }


def _sites_of_look(run: RunFolder, modality: str, look: str | None, way: Way) -> list[str]:
    """Sites in one of whose looks a modality may be painted; none if the generator has none."""
    if not run.recipe().generator.style:
        return []
    facts = run.facts()
    within = (way == "translated" and facts.whole) or list(facts.teachers)
    holders = [site for site in within if modality in facts.sites[site]["modalities"]]
    alike = [site for site in holders if look and facts.look_of(site) == facts.look_of(look)]
    return alike or holders


def _made_from(way: Way, *, masked: bool) -> str:
    if way == "painted":
        return "the mask"
    return "the acquired modalities and the mask" if masked else "the acquired modalities"


def check_own_set(run: RunFolder, data: DataSet) -> None:
    """Checks that a run's generator can paint images for a site's own data set.

    Raises:
        DataError: the run does not paint images from masks, or the set holds synthetic cases,
            modalities that the run does not paint, or labels of another meaning.
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

    Args:
        read: cases with their slices.
        images: completed images of the slices that lack a modality, in their order.
        image: the recipe's normalisation.
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
