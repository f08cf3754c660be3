"""Synthetic sets of a run: painted once from chosen masks, and recognised again."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from asyndgan.arrays import Mask
from asyndgan.errors import RunError
from asyndgan.export.writing import written_whole
from asyndgan.intake.dataset import DataSet
from asyndgan.painting.fading import AS_PAINTED, Fading, fading_of
from asyndgan.painting.provenance import stored_provenance
from asyndgan.painting.synthesise import (
    PAINTING_VERSION,
    Origin,
    chosen_masks,
    masks_digest,
    synthesise,
)
from asyndgan.painting.writing import Storage, write_synthetic
from asyndgan.received import contents
from asyndgan.runs import RunFolder
from asyndgan.runs.sites import RunSites
from asyndgan.store import Case

MOVED = 2
"""Images per mask painted from the mask after random mirroring, rotation, scaling and shift, in
addition to the one from the mask itself. Chosen on validation patients: see
docs/experiments.md."""

OnPainted = Callable[[str, int, int], None]
"""Called with a text, the number of cases painted and the number of all."""


def synthetic_of_run(
    sites: RunSites,
    out: Path,
    *,
    masks: Path | None = None,
    faded: Sequence[str] = (),
    compared: bool = False,
    watch: OnPainted | None = None,
) -> DataSet:
    """Paints a synthetic set to judge: from released masks, or else from the masks of these sites.

    Raises `RunError` as `painted_once` and `check_set`.
    """
    run, recipe = sites.run, sites.run.recipe()
    fading = check_set(run, out, masks, faded)
    if masks or (run.has_masks and (recipe.masks.release or recipe.given_masks)):
        named, origin = chosen_masks(run, masks)
    else:
        kept = sites.kept()
        named, origin = masks_of(kept), of_sites(kept)
    return painted_once(run, named, origin, out, fading=fading, compared=compared, watch=watch)


def check_set(run: RunFolder, out: Path, masks: Path | None, faded: Sequence[str]) -> Fading:
    """Refuses a synthetic set as far as possible before an image is read or painted.

    Returns:
        How its labels are faded.

    Raises:
        RunError: the run has not finished or paints masks, there is no label to be faded, or `out`
            holds a set of another generator, or one painted in another way.
        DataError: the folder of masks is no data set, or its labels differ in meaning.
    """
    if run.recipe().image.source == "masks":
        raise RunError(
            f"the run in {run.path} paints masks, which have nothing to be segmented. Train a "
            "generator of images on what it paints, and judge that one."
        )
    fading = fading_of(run, faded)
    next(synthesise(run, [], fading=fading), None)
    if masks:
        DataSet(masks).check_labels(run.facts().labels)
    if (out / "dataset.json").exists():
        check_provenance(run, DataSet(out), painting={"moved": MOVED, **fading.told()})
    return fading


OF_SITES = "of the sites' own cases, given to the evaluation only"


def masks_of(sites: Mapping[str, Sequence[Case]]) -> list[tuple[str, Mask]]:
    """The masks of each site's cases, numbered because case names may be patients' names."""
    return [
        (f"{site}-c{number:05d}", case.mask)
        for site, cases in sites.items()
        for number, case in enumerate(cases, 1)
    ]


def of_sites(sites: Mapping[str, Sequence[Case]]) -> Origin:
    """The origin of `masks_of`, with the patient (`site/patient`) of each mask, by its name."""
    owners = [f"{site}/{case.patient}" for site, cases in sites.items() for case in cases]
    return Origin(OF_SITES, dict(zip(dict(masks_of(sites)), owners, strict=True)))


def painted_once(
    run: RunFolder,
    masks: Sequence[tuple[str, Mask]],
    origin: Origin,
    out: Path,
    *,
    moved: int = MOVED,
    fading: Fading = AS_PAINTED,
    compared: bool = False,
    watch: OnPainted | None = None,
) -> DataSet:
    """Paints a synthetic set from masks, or reuses the one that was painted in `out` before.

    Of each mask one image is painted from the mask itself, and `moved` from the moved mask. If
    `compared`, a set that was painted before is painted again. Raises `RunError` if `out` holds a
    set of another run, one painted from other masks or in another way, or, if compared, one whose
    files were changed.
    """
    painting = {"moved": moved, **fading.told()}
    painted = DataSet(out)
    paint = partial(
        write_standard, run=run, masks=masks, origin=origin, moved=moved, fading=fading, watch=watch
    )
    if not (out / "dataset.json").exists():
        with written_whole(out) as half:  # on entry it looks whether it can be written
            paint(half)
        return painted
    check_provenance(run, painted, masks, painting)
    if compared:
        with tempfile.TemporaryDirectory(dir=out.parent) as place:
            paint(again := Path(place) / "again")
            if any(_files(out / each) != _files(again / each) for each in ("imagesTr", "labelsTr")):
                raise RunError(
                    f"{out} is not what the generator of {run.path} paints: files were changed, or "
                    "painted on another machine or by another version of torch. Remove it, or name "
                    "another folder."
                )
    return painted


def write_standard(
    folder: Path,
    run: RunFolder,
    masks: Sequence[tuple[str, Mask]],
    origin: Origin,
    *,
    moved: int = MOVED,
    fading: Fading = AS_PAINTED,
    watch: OnPainted | None = None,
    findings: Mapping[str, str] | None = None,
    storage: Storage | None = None,
) -> int:
    """Paints the set that is judged, and generated by default; returns the number of its cases."""
    cases = painting_of(run, masks, moved=moved, fading=fading)
    if moved:
        origin = replace(origin, text=f"{origin.text}, some of them moved at random")
    return write_synthetic(
        folder, run, watched(cases, (1 + moved) * len(masks), watch), masks=masks, origin=origin,
        painting={"moved": moved, **fading.told()}, findings=findings, storage=storage,
    )  # fmt: skip


def watched(cases: Iterable[Case], total: int, watch: OnPainted | None) -> Iterator[Case]:
    """The cases; `watch` is told after each one how many of all are painted and stored."""
    for done, case in enumerate(cases, 1):
        yield case
        if watch:
            watch("paint cases", done, total)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: contents(path, MOST_PAINTED, links=True) for path in folder.iterdir()}


def painting_of(
    run: RunFolder,
    masks: Sequence[tuple[str, Mask]],
    *,
    moved: int = MOVED,
    fading: Fading = AS_PAINTED,
) -> Iterator[Case]:
    """Paints the cases of a synthetic set, some at a time; see `painted_once`."""
    # Different seeds, since a mask's moved image would otherwise share the unmoved one's noise.
    yield from synthesise(run, masks, fading=fading)
    if moved:
        yield from synthesise(run, masks, draws=moved, move=True, seed=1, fading=fading)


MOST_PAINTED = 2**30
"""Largest file of a painted set in bytes."""


def check_provenance(
    run: RunFolder,
    synthetic: DataSet,
    masks: Sequence[tuple[str, Mask]] | None = None,
    painting: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Checks that a set was painted by a run, and from these masks and in this way if given.

    Returns:
        What the set says of itself, with `masks` and `masks_sha256` in any case.

    Raises:
        DataError: as `stored_provenance`.
        RunError: it was painted by another generator, from other masks or in another way.
    """
    provenance, facts, folder = stored_provenance(synthetic), run.facts(), synthetic.folder
    faded, contrasts = provenance.get("faded", ()), provenance.get("contrasts", ())
    if (
        provenance.get("generator_sha256") != facts.generator_sha256
        or not {"masks", "masks_sha256"} <= provenance.keys()
        or not {*map(str, faded)} <= facts.labels.keys()
        or len(contrasts) != 2 * bool(faded)
    ):
        raise RunError(
            f"{folder} was not painted by the generator of {run.path}; "
            "generate it anew or name another folder."
        )
    wanted = {} if painting is None else {**painting, "painting_version": PAINTING_VERSION}
    if masks is not None:
        wanted["masks_sha256"] = masks_digest(masks)
    if any(provenance.get(key) != value for key, value in wanted.items()):
        raise RunError(
            f"{folder} was painted from other masks, or in another way than is asked for now; "
            "remove it, or evaluate into another folder."
        )
    return provenance
