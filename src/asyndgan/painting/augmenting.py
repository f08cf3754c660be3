"""Augmenting a site's data set with synthetic cases."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch

from asyndgan.arrays import Mask
from asyndgan.errors import DataError, RunError
from asyndgan.export.copying import write_extended
from asyndgan.export.lists import write_lists
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.findings import check_contrast, check_uncut
from asyndgan.intake.patients import patients_of
from asyndgan.painting.completion import check_own_set
from asyndgan.painting.fading import fading_of
from asyndgan.painting.provenance import provenance_of
from asyndgan.painting.synthesise import digests_of, mask_digest, mask_of, synthesise
from asyndgan.runs import RunFolder
from asyndgan.runs.sites import choosers_of
from asyndgan.store import Case, RawCase, derived_seed
from asyndgan.store.prepare import invert, invert_mask
from asyndgan.store.splits import OPEN, Chooser, held_out_by
from asyndgan.texts import counted

NAME = "synthetic-{:05d}"
HELD_OUT = "of held-out patients"
NO_ROOM = "for which no real case has room"


@final
@dataclass(frozen=True)
class Source:
    """A mask [H, W] to paint from, and the real case whose grid and intensities the result has.

    `of` names the site's case that the mask belongs to; it is empty for other masks.
    """

    mask: Mask
    like: Case
    of: str


def _chooser(run: RunFolder, pattern: str, state: Path | None) -> Chooser:
    """How the site of a data set, whose name is not known, chose its held-out patients.

    `pattern` finds patients in the set's names, and has to be that of the site.
    """
    facts = run.facts()
    sites = facts.sites
    choosers = set(choosers_of(run, sites, dict.fromkeys(sites, state) if state else None).values())
    if not choosers:
        return OPEN
    same = [name for name in sites if state and run.site_state(name).resolve() == state.resolve()]
    known = {name: facts.patient_patterns.get(name, pattern) for name in same or sites}
    if len(choosers) > 1 or len({*known.values()}) > 1:
        raise RunError(
            "each site of this run found its patients, or held some out, in a way of its own. Name "
            "the states of the site that this data set is of with --state (RUN/sites/SITE, or "
            "KIT/runs/RUN in a federation)."
        )
    facts.check_patterns(dict.fromkeys(known, pattern))
    return choosers.pop()


def augment_folder(
    run: RunFolder,
    data: DataSet,
    out: Path,
    *,
    ratio: float,
    masks: Sequence[Mask] = (),
    source: str = "",
    own_masks: bool = True,
    label: str | None = None,
    fade: Sequence[str] = (),
    seed: int = 0,
    state: Path | None = None,
) -> tuple[int, int, dict[str, int]]:
    """Copies a site's data set and adds synthetic cases, on this machine only.

    Volumes are cut into slices if the run paints slices. Every mask is moved at random before it is
    painted from. A further mask that is one of the site's own, mirrored or not, counts as its own.
    Masks of this set's held-out patients are left out, and masks that fit into no real case.

    Args:
        run: a finished run.
        data: the site's data set.
        out: folder to write.
        ratio: number of synthetic cases per real one of the folder.
        masks: further masks to paint from, on the run's grid.
        source: description of where they come from, for the provenance.
        own_masks: also paint from the site's own masks, except those of held-out patients.
        label: use only masks that hold this label.
        fade: names of labels to paint more or less clearly; see `Fading`.
        seed: seed of everything random.
        state: where the site kept its state of the run.

    Returns:
        The number of real cases, of synthetic cases, and of further masks that were left out, by
        the reason. Slices of cut volumes are cases.

    Raises:
        DataError: the folder cannot be read, holds synthetic cases or modalities that the run does
            not paint, or differs from the run in the meaning of its labels; the run paints only a
            part of its images; a real case has the name of a synthetic one; or there is no mask to
            paint from.
        RunError: the run's held-out patients are unknown, or there is no such label to fade.
    """
    fading = fading_of(run, fade)
    info = data.info
    free, judged = _own_cases(run, data, state)
    image = run.recipe().image
    patient_of = {raw.name: raw.patient for each in data.files for raw in data.raw(each, image)}
    if patients_of(patient_of, info.patient_pattern) != patient_of:
        raise DataError(
            f"'patient_pattern' of {data.folder} takes slices of a volume for patients. Have it "
            "end before '_z' and a number, by which slices are named."
        )
    sources, left_out = _sources(free, judged, masks, own=own_masks, seed=seed)
    count = round(ratio * len(patient_of))
    if count < 1:
        raise DataError(
            f"{ratio:g} synthetic cases for each of {counted(len(patient_of), 'real case')} "
            "are none. Take a larger --ratio."
        )
    chosen = _chosen(data, sources, left_out, label)
    drawn = _drawn(chosen, count, seed)
    used = {id(one): one for one in drawn}.values()  # each once, however often it is painted
    named = [(NAME.format(number), source.mask) for number, source in enumerate(drawn, 1)]
    if taken := patient_of.keys() & {name for name, _ in named}:
        raise DataError(
            f"{data.folder} has a real case '{min(taken)}', which is the name of a synthetic one. "
            "Rename it."
        )
    painted = synthesise(run, named, seed=seed, move=True, fading=fading)
    cases = (
        (_stored(case, source.like, info.modalities), source.like.name)
        for case, source in zip(painted, drawn, strict=True)
    )
    owners = {name: source.of for (name, _), source in zip(named, drawn, strict=True)}
    provenance = {
        **provenance_of(run),
        "ratio": ratio,
        "masks": _words(used, source),
        "masks_sha256": digests_of(one.mask for one in used if not one.of),
        "masks_left_out": left_out,
        "label": label,
        "seed": seed,
        **fading.told(),
        # Lets splits of the set keep a synthetic case together with the patient of its mask.
        "mask_of": owners,
    }
    cut = {files.name for files in data.files} - patient_of.keys()
    added = write_extended(data, out, cases, axis=image.axis, provenance=provenance, cut=cut)
    # A synthetic case belongs to the patient of its mask.
    write_lists(out, patient_of | {name: patient_of.get(of, name) for name, of in owners.items()})
    return len(patient_of), added, left_out


def _own_cases(run: RunFolder, data: DataSet, state: Path | None) -> tuple[list[Case], list[Case]]:
    """A site's cases whose masks may be painted, and those of held-out patients."""
    image = run.recipe().image
    info, folder = data.info, data.folder
    check_own_set(run, data)
    real = data.cases(image, info.modalities)
    masked = {case.name for case in data.files if case.mask}
    check_contrast(real, image, folder)
    # Masks of held-out patients must not be used, since evaluations judge on these patients.
    free, judged = held_out_by(run.recipe(), real, _chooser(run, info.patient_pattern, state))
    sources = ((case, case.preparation.source) for case in free)
    free = [case for case, source in sources if source and source.name in masked]
    if not free:
        raise DataError(
            f"no case of {folder} has a mask, held-out patients aside, so there is none to store "
            "synthetic cases like. Add masks of some cases."
        )
    check_uncut(free, image, folder)
    return free, judged


def _chosen(
    data: DataSet,
    sources: Sequence[Source],
    left_out: Mapping[str, int],
    label: str | None,
) -> list[Source]:
    """The sources with a label in their mask (None: all); raises `DataError` if there is none."""
    chosen, having, labels = list(sources), "", data.info.labels
    if label is not None:
        if not labels.get(label):
            names = (name for name, number in labels.items() if number)
            raise DataError(
                f"{data.folder} has no label '{label}' that masks can be chosen by; it has "
                f"{', '.join(names)}."
            )
        having = f" with label '{label}'"
        chosen = [one for one in sources if bool((one.mask == labels[label]).any())]
    if not chosen:
        without = f" ({words_of(left_out)})" if left_out else ""
        raise DataError(
            f"there is nothing to paint: no mask{having} can be used{without}. Take another label "
            "or other masks."
        )
    return chosen


def words_of(left_out: Mapping[str, int]) -> str:
    """A sentence on how many masks were left out, and why."""
    return "left out: " + ", ".join(
        f"{counted(number, 'mask')} {reason}" for reason, number in left_out.items()
    )


def _words(sources: Collection[Source], whence: str) -> str:
    own = sum(bool(source.of) for source in sources)
    parts = {f"{own} of the site's own": own, f"{len(sources) - own} {whence}": len(sources) - own}
    return " and ".join(text for text, count in parts.items() if count) + ", moved at random"


def _sources(
    free: Sequence[Case], judged: Sequence[Case], masks: Sequence[Mask], *, own: bool, seed: int
) -> tuple[list[Source], dict[str, int]]:
    """The sources to draw from, of free and not of judged cases, and how many masks are left out.

    A mask that is no case's is stored like a random case that has room for it.
    """
    random = torch.Generator().manual_seed(derived_seed(seed, "augment", "like"))
    sources = [Source(case.mask, case, case.name) for case in free] if own else []
    known = {
        mask_digest(mask): case
        for case in (*free, *judged)
        for mask in (case.mask, case.mask.flip(-1))
    }
    apart, left_out = {case.name for case in judged}, Counter[str]()
    for mask in masks:
        owner = known.get(mask_digest(mask)) if bool(mask.any()) else None
        if owner is None:
            order = torch.randperm(len(free), generator=random).tolist()
            like = next((free[place] for place in order if _has_room(free[place], mask)), None)
            if like is None:
                left_out[NO_ROOM] += 1
            else:
                sources.append(Source(mask, like, ""))
        elif owner.name in apart:
            left_out[HELD_OUT] += 1
        elif not own:  # else it is there already
            sources.append(Source(mask, owner, owner.name))
    return sources, dict(left_out)


def _has_room(case: Case, mask: Mask) -> bool:
    """Whether all labels of a mask lie where the case's stored image does, not in its padding."""
    sides = zip(case.preparation.offset, case.preparation.resized, strict=True)
    inside = mask[*(slice(max(start, 0), max(start + side, 0)) for start, side in sides)]
    return bool((inside != 0).sum() == (mask != 0).sum())


def _drawn(sources: Sequence[Source], count: int, seed: int) -> list[Source]:
    """Draws `count` sources, each once before any repeats."""
    random = torch.Generator().manual_seed(derived_seed(seed, "augment", "masks"))
    passes = -(-count // len(sources))
    orders = [torch.randperm(len(sources), generator=random) for _ in range(passes)]
    return [sources[place] for place in torch.cat(orders)[:count].tolist()]


def _stored(painted: Case, like: Case, modalities: Sequence[str]) -> RawCase:
    """A synthetic case on the grid and in the intensities in which a real case is stored."""
    places = [painted.modalities.index(modality) for modality in modalities]
    channels = invert(painted.image[places], like.preparation)
    return RawCase(
        name=mask_of(painted.name),
        patient=mask_of(painted.name),
        channels=dict(zip(modalities, channels, strict=True)),
        mask=np.asarray(invert_mask(painted.mask, like.preparation)),
        spacing=like.preparation.spacing,
    )
