"""Painting a synthetic data set with a finished run's generator."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, groupby
from pathlib import Path
from types import EllipsisType
from typing import Final, final

import torch

from asyndgan.arrays import Mask
from asyndgan.errors import RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.listing import list_masks
from asyndgan.intake.patients import people_of
from asyndgan.models.sizes import at_once
from asyndgan.painting.fading import AS_PAINTED, Fading, faded, without_labels
from asyndgan.painting.painter import (
    Looks,
    Painter,
    check_labels_of,
    drawn_looks,
    looks_of_holders,
)
from asyndgan.recipe import ImageSection, Recipe
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.store import Case, derived_seed
from asyndgan.store.augmentation import Moves, mirrored, moved
from asyndgan.store.case import Preparation
from asyndgan.store.cohort import digest_of
from asyndgan.store.fitting import grid_for
from asyndgan.training.scope import SHARED_LOOK, enlarged

PAINTING_VERSION: Final = 7
"""To be raised when a change alters what is painted from the same masks and seeds."""

LEAST_SHAPE: Final = 100
"""Least pixels of the box around the labels of a mask that is known if mirrored or shifted."""

RELEASED: Final = "kept during training as the sites allowed"
"""Where the masks came from that a run kept."""


def released_masks(run: RunFolder) -> list[tuple[str, Mask]]:
    """Name and label map of every mask that the run kept from training.

    A run that paints without masks gives one empty mask, to be drawn once per image.

    Raises:
        RunError: the run kept no masks.
        DataError: one of those that it kept cannot be read.
    """
    if run.recipe().condition.kind == "none":
        return [("image", torch.zeros(run.facts().scope.space, dtype=torch.int64))]
    if not run.has_masks:
        raise RunError(
            f"the run in {run.path} kept no masks, so there is nothing to paint from. Have "
            "'asyndgan generate' paint from a folder of masks with --masks FOLDER (labelsTr and "
            "dataset.json), or train with --set masks.source=given, and masks are learned first."
        )
    return DataSet(run.masks).masks(run.recipe().image)


def synthesise(
    run: RunFolder,
    masks: Sequence[tuple[str, Mask]],
    *,
    draws: int = 1,
    seed: int = 0,
    move: bool = False,
    looks: Sequence[str] = (),
    fading: Fading = AS_PAINTED,
) -> Iterator[Case]:
    """Paints images from masks with a run's averaged generator, some at a time.

    Slices of a volume, which are named `NAME_z<index>`, are moved alike, and have one look and one
    noise.

    Args:
        run: a finished run.
        masks: names and label maps [H, W]; `released_masks` gives the run's own.
        draws: number of images per mask, each with different noise.
        seed: of noise and moves.
        move: first mirror, rotate, scale and shift the masks, differently for every draw.
        looks: for each mask, the site whose look to paint in; empty: drawn by the sites' shares. A
            modality that no site of this look holds is painted in another one.
        fading: labels to paint more or less clearly.

    Yields:
        One case per mask and draw.

    Raises:
        RunError: once a case is asked for: the run has no such generator, no site judged a modality
            that it paints, several draws of a mask would be equal, a mask holds a label that the
            generator does not know, or labels are to be faded by a generator that paints without
            masks.
    """
    painter = Painter(run)
    recipe, facts = painter.recipe, painter.facts
    check_paintable(recipe, facts, draws=1 if move else draws, fading=fading)
    scope = facts.scope
    check_labels_of((mask for _, mask in masks), scope.labels)

    def begin(*volume: str) -> list[torch.Generator]:
        return [
            torch.Generator().manual_seed(derived_seed(seed, "synthesise", *purpose, *volume))
            for purpose in ((), ("contrasts",), ("holders",))
        ]

    random, contrasts, holders = begin()
    for place, names, conditions in shown(masks, recipe, draws=draws, seed=seed, move=move):
        if volume := volume_of(names[0]):
            random, contrasts, holders = begin(volume)
        own, others = [SHARED_LOOK] * len(names), Looks()
        if looks:
            own = [facts.look_of(site) for site in looks[place]]
        elif recipe.generator.style:
            own = drawn_looks(facts, len(names), random)
        if recipe.generator.style:
            others = looks_of_holders(facts, own, holders)
        noise = random.get_state()
        images = painter.paint(conditions, own, others, random)
        if fading.labels:
            random.set_state(noise)
            removed = without_labels(conditions, fading.labels)
            without = painter.paint(removed, own, others, random)
            images = faded(images, without, fading, contrasts)
        labels = conditions
        if recipe.image.source == "masks":
            images = enlarged(images)
            labels = scope.label_maps(images)
        for name, image, mask in zip(names, images, labels, strict=True):
            yield Case.drawn(name, image, mask, scope.modalities)


def shown(
    masks: Sequence[tuple[str, Mask]],
    recipe: Recipe,
    *,
    draws: int = 1,
    seed: int = 0,
    move: bool = False,
) -> Iterator[tuple[slice, list[str], Mask]]:
    """What images are painted from, some at a time; arguments are those of `synthesise`.

    Yields their place in `masks`, the images' names, and label maps [b, H, W], moved if asked for.
    """
    # A separate generator, so that recipes with different noise are shown the same masks.
    random = torch.Generator().manual_seed(derived_seed(seed, "synthesise", "masks"))
    how = Moves(flips=mirrored(recipe))
    for draw in range(draws):
        suffix = f"_d{draw}" if draws > 1 or move else ""
        for place in _places(masks):
            conditions = torch.stack([mask for _, mask in masks[place]])
            names = [name + suffix for name, _ in masks[place]]
            if move:
                if volume := volume_of(names[0]):
                    random.manual_seed(derived_seed(seed, "synthesise", "masks", volume))
                nothing = torch.zeros(len(conditions), 1, *conditions.shape[1:])
                conditions = moved(nothing, conditions, how, random)[1]
            yield place, names, conditions


def _places(masks: Sequence[tuple[str, Mask]]) -> Iterator[slice]:
    """What is painted at once: slices of volumes one by one."""
    end = 0
    for sliced, alike in groupby(masks, lambda named: bool(volume_of(named[0]))):
        start, end, most = end, end + len([*alike]), 1 if sliced else at_once(masks[end][1].shape)
        yield from (slice(first, min(end, first + most)) for first in range(start, end, most))


def mask_of(name: str) -> str:
    """The name of the mask that an image with this name was painted from."""
    return re.sub(r"_d\d+$", "", name)


def volume_of(name: str) -> str:
    """The name of the volume, and its draw, that a mask or image is a slice of; empty: of none."""
    found = re.fullmatch(r"(.+)_z\d+((?:_d\d+)?)", name)
    return found[1] + found[2] if found else ""


def check_paintable(
    recipe: Recipe, facts: RunFacts, *, draws: int, fading: Fading = AS_PAINTED
) -> None:
    """Raises `RunError` if a generator cannot paint so many images of one mask, or cannot fade."""
    judged = set().union(*facts.judged_in().values())
    if unjudged := [name for name in facts.scope.modalities if name not in judged]:
        raise RunError(
            f"no site that took part in this run holds {', '.join(unjudged)}, so what its "
            "generator paints there is nothing. Train anew, with a site that does or without it "
            "(image.modalities)."
        )
    if draws > 1 and not recipe.generator.noise + recipe.generator.latent:
        raise RunError(
            f"recipe '{recipe.name}' paints without noise, so {draws} draws of a mask are equal. "
            "Train with generator.noise above 0."
        )
    if fading.labels and recipe.condition.kind == "none":
        raise RunError(
            f"recipe '{recipe.name}' paints without masks, so there is no label to fade."
        )


@final
@dataclass(frozen=True)
class Grid:
    """Where a mask of a volume lies: its file, its slice or `...`, and how it was read."""

    file: Path
    index: int | EllipsisType
    preparation: Preparation


def _grids(data: DataSet, cases: Mapping[str, Case], image: ImageSection) -> dict[str, Grid]:
    """Where the masks of patients' volumes lie, by the masks' names; else nothing."""
    files = list_masks(data.folder, data.info)
    if grid_for(data.info, image) is not image or not data.of_volumes:
        return {}
    return {
        name: Grid(
            files[case.patient],
            ... if image.whole else int(case.name.removeprefix(case.patient)[2:] or 0),
            case.preparation,
        )
        for name, case in cases.items()
    }


@final
@dataclass(frozen=True)
class Origin:
    """Where masks come from: a description, and by the mask's name patients and grids.

    Patients, empty if unknown, decide which images share a fold, and are written nowhere.
    """

    text: str
    patients: Mapping[str, str] = field(default_factory=dict)
    grids: Mapping[str, Grid] = field(default_factory=dict)


def chosen_masks(run: RunFolder, folder: Path | None) -> tuple[list[tuple[str, Mask]], Origin]:
    """The masks of a data set, or else those that the run kept, and where they come from.

    A data set's are numbered, as case names may be patients' names: `mask-00003_z0012` is a slice
    of the third file by name.
    """
    if not folder:
        return released_masks(run), Origin(source_of_masks(run))
    data = DataSet(folder)
    data.check_labels(run.facts().labels)
    numbers = {file: number for number, file in enumerate(list_masks(data.folder, data.info), 1)}
    cases = {
        f"mask-{numbers[case.patient]:05d}{case.name.removeprefix(case.patient)}": case
        for case in data.mask_cases(run.recipe().image)
    }
    people = people_of(sorted({case.patient for case in cases.values()}))
    # Masks that sites released are moved, and their names say nothing of patients.
    known = data.info.extra.get("masks_only") is not True
    patients = {name: people[case.patient] for name, case in cases.items()} if known else {}
    masks = [(name, case.mask) for name, case in cases.items()]
    return masks, Origin("a folder of masks", patients, _grids(data, cases, run.recipe().image))


def source_of_masks(run: RunFolder) -> str:
    """Description of where a run's own masks come from."""
    recipe = run.recipe()
    if recipe.given_masks:
        return "learned, or given by the coordinator; whether any is a patient's is not known"
    if recipe.condition.kind != "none":
        return RELEASED
    return "painted" if recipe.image.source == "masks" else "none; painted from noise"


def masks_digest(masks: Sequence[tuple[str, Mask]]) -> str:
    """SHA-256 of the label maps in their order, in hexadecimal."""
    return digest_of(mask for _, mask in masks)


def digests_of(masks: Iterable[Mask]) -> list[str]:
    """SHA-256 of each mask that holds a label, on a run's grid; sorted, without duplicates."""
    return sorted({mask_digest(mask) for mask in masks if bool(mask.any())})


def shapes_of(masks: Iterable[Mask]) -> set[str]:
    """Digests of masks that hold a label, which stay the same if a mask is mirrored or shifted.

    Masks whose labels lie within fewer than `LEAST_SHAPE` pixels count as they are.
    """
    return {mask_digest(_shape(mask)) for mask in masks if bool(mask.any())}


def _shape(mask: Mask) -> torch.Tensor:  # of another size
    within = mask
    for axis in range(mask.ndim):
        held = torch.nonzero(mask.movedim(axis, 0).flatten(1).any(1)).flatten()
        within = within.narrow(axis, int(held[0]), int(held[-1] - held[0]) + 1)
    if within.numel() < LEAST_SHAPE or bool((within == within.flatten()[0]).all()):
        return mask
    axes = range(mask.ndim)
    ways = chain.from_iterable(combinations(axes, count) for count in range(mask.ndim + 1))
    return min((within.flip(way) for way in ways), key=lambda each: each.numpy().tobytes())


def mask_digest(mask: Mask) -> str:
    """SHA-256 of a label map on a run's grid, in hexadecimal, whatever integers it is stored in."""
    return digest_of([mask.to(torch.uint8)])
