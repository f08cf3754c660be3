"""Comparison of a run's synthetic set with real data, all loaded on the run's grid."""

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from asyndgan.arrays import Mask
from asyndgan.data import Case
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN, check_labels, describe
from asyndgan.data.prepare import lacked_by_all, load_cases, widened
from asyndgan.data.splits import OPEN, Chooser, held_out_by, hold_out
from asyndgan.data.writing import written_whole
from asyndgan.engines.setup import chooser_at
from asyndgan.errors import RunError
from asyndgan.judging.compare import OnProgress, evaluate
from asyndgan.judging.segmentation import SegmentationBudget, budget_for
from asyndgan.judging.table import Evaluation, counted
from asyndgan.painting.recombine import recombined
from asyndgan.painting.synthesise import (
    AS_PAINTED,
    PAINTING_VERSION,
    Fading,
    digests_of,
    fading_of,
    masks_digest,
    masks_in,
    released_masks,
    source_of_masks,
    synthesise,
    write_synthetic,
)
from asyndgan.received import contents
from asyndgan.recipe import ImageSection, Recipe
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.texts import bounded_text, parsed_json

MOVED = 2
"""Images per mask painted from the mask after random mirroring, rotation, scaling and shift, in
addition to the one from the mask itself. Chosen on validation patients: see docs/experiments.md."""


def synthetic_of_run(
    run: RunFolder,
    sites: Mapping[str, Path],
    out: Path,
    *,
    masks: Path | None = None,
    faded: Sequence[str] = (),
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    compared: bool = False,
    states: Mapping[str, Path] | None = None,
) -> Path:
    """Paints a synthetic set to judge: from released masks, or else from the masks of these sites.

    Args:
        run: a finished run.
        sites: folder of each site's data, by the site's name.
        out: as for `painted_once`.
        masks: folder of masks to paint from instead.
        faded: names of labels to paint more or less clearly; see `Fading`.
        patient_pattern: see `asyndgan.data.nnunet.patient_of`.
        compared: as for `painted_once`.
        states: as for `choosers_of`.

    Returns:
        The folder of the set.

    Raises:
        RunError: as `painted_once`, there is no such label, or the run paints masks instead of
            images.
    """
    recipe = run.recipe()
    if recipe.image.source == "masks":
        raise RunError(
            f"the run in {run.path} paints masks, which have nothing to be segmented. Train a "
            "generator of images on what it paints, and judge that one."
        )
    fading = fading_of(run, faded)
    if masks:
        given = masks_in(masks, run)
        return painted_once(run, given, "a folder of masks", out, fading=fading, compared=compared)
    if recipe.masks.release and run.has_masks:
        released = released_masks(run)
        source = source_of_masks(run)
        return painted_once(run, released, source, out, fading=fading, compared=compared)
    cases = _as_trained(run, sites, patient_pattern)
    kept = _kept(run, cases, choosers_of(run, sites, states))
    return painted_once(run, masks_of(kept), OF_SITES, out, fading=fading, compared=compared)


def choosers_of(
    run: RunFolder, sites: Iterable[str], states: Mapping[str, Path] | None = None
) -> dict[str, Chooser]:
    """How the sites of a run chose the patients whom they held out.

    Args:
        run: a run.
        sites: names of the sites; those that took no part are left out.
        states: folder in which a site keeps its states of the run, by the site's name; a site that
            is not named is taken for a simulated one, which keeps them in the run's folder.

    Raises:
        RunError: the run held patients out, and a site's states are not there.
    """
    if not run.recipe().training.hold_out:
        return {}
    found = {}
    for site in set(sites) & set(run.facts().sites):
        state = (states or {}).get(site, run.site_state(site))
        chooser = chooser_at(state)
        if chooser is None:
            raise RunError(
                f"{state} holds no states of {site}, without which nobody can tell whom it held "
                f"out. Say where they are with --state (KIT/runs/RUN in a federation)."
            )
        found[site] = chooser
    return found


def _kept(
    run: RunFolder, cases: Mapping[str, Sequence[Case]], choosers: Mapping[str, Chooser]
) -> dict[str, list[Case]]:
    """The cases that each site trained on, of all that it has."""
    recipe = run.recipe()
    return {
        site: held_out_by(recipe, own, choosers.get(site, OPEN))[0] for site, own in cases.items()
    }


def held_in(run: RunFolder, sites: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    """The modalities with which each of these sites took part in a run, or would have."""
    facts = run.facts()
    return {
        site: tuple(facts.sites[site]["modalities"])
        if site in facts.sites
        else tuple(name for name in facts.modalities if name in describe(data).modalities)
        for site, data in sites.items()
    }


def _as_trained(
    run: RunFolder, sites: Mapping[str, Path], patient_pattern: str
) -> dict[str, list[Case]]:
    """All cases with which these sites took part in a run, or would have, held-out ones too."""
    held = held_in(run, sites)
    return {
        site: load_cases(
            data, run.recipe().image, held[site], patient_pattern=patient_pattern, unmasked=False,
            incomplete=True,
        )
        for site, data in sites.items()
    }  # fmt: skip


OF_SITES = "of the sites' own cases, given to the evaluation only"


def masks_of(sites: Mapping[str, Sequence[Case]]) -> list[tuple[str, Mask]]:
    """The masks of each site's cases, numbered because case names may be patients' names."""
    return [
        (f"{site}-c{number:05d}", case.mask)
        for site, cases in sites.items()
        for number, case in enumerate(cases, 1)
    ]


def patients_of_masks(sites: Mapping[str, Sequence[Case]]) -> dict[str, str]:
    """Patient (`site/patient`) of each mask of `masks_of`, by name; must stay on this machine."""
    owners = (f"{site}/{case.patient}" for site, cases in sites.items() for case in cases)
    return dict(zip((name for name, _ in masks_of(sites)), owners, strict=True))


def counterparts(
    run: RunFolder, sites: Mapping[str, Sequence[Case]], fading: Fading = AS_PAINTED
) -> list[Case]:
    """Paints a counterpart of each real case, from its mask and in the look of its site."""
    looks = [site for site, cases in sites.items() for _ in cases]
    return list(synthesise(run, masks_of(sites), looks=looks, fading=fading))


def painted_once(
    run: RunFolder,
    masks: Sequence[tuple[str, Mask]],
    source: str,
    out: Path,
    *,
    moved: int = MOVED,
    mixed: int = 0,
    label: int = 1,
    fading: Fading = AS_PAINTED,
    compared: bool = False,
) -> Path:
    """Paints a synthetic set from masks, or reuses the one that was painted in `out` before.

    Args:
        run: a finished run.
        masks: names and label maps [H, W].
        source: description of where the masks came from.
        out: folder of the set.
        moved: images per mask from the moved mask, in addition to the one from the mask itself.
        mixed: further images per mask, from the mask moved after its regions of `label` were
            exchanged for another's; see `asyndgan.painting.recombine`.
        label: value of the label whose regions are exchanged.
        fading: labels to paint more or less clearly.
        compared: whether a set that was painted before is compared with what the generator paints.

    Returns:
        `out`.

    Raises:
        RunError: `out` holds a set of another run, one painted from other masks or in another way,
            or, if compared, one whose files were changed.
    """
    painting = {"moved": moved, "mixed": mixed, "label": label if mixed else 0, **fading.told()}
    if (out / "dataset.json").exists():
        check_provenance(run, out, masks, painting)
        if not compared:
            return out
    if mixed:
        source += ", some with regions exchanged"

    def paint(folder: Path) -> None:
        cases = painting_of(run, masks, moved=moved, mixed=mixed, label=label, fading=fading)
        write_synthetic(folder, run, cases, masks=masks, source=source, painting=painting)

    if (out / "dataset.json").exists():
        with tempfile.TemporaryDirectory(dir=out.parent) as place:
            paint(again := Path(place) / "again")
            if any(_files(out / each) != _files(again / each) for each in ("imagesTr", "labelsTr")):
                raise RunError(
                    f"{out} is not what the generator of {run.path} paints: files were changed, or "
                    "painted on another machine or by another version of torch. Remove it, or name "
                    "another folder."
                )
        return out
    with written_whole(out) as half:  # on entry it looks whether it can be written
        paint(half)
    return out


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: contents(path, MOST_PAINTED) for path in folder.iterdir()}


def painting_of(
    run: RunFolder,
    masks: Sequence[tuple[str, Mask]],
    *,
    moved: int = MOVED,
    mixed: int = 0,
    label: int = 1,
    fading: Fading = AS_PAINTED,
    step: int | None = None,
) -> list[Case]:
    """The cases of a synthetic set; see `painted_once`.

    Args:
        run: a finished run.
        masks: names and label maps [H, W].
        moved: images per mask from the moved mask.
        mixed: images per mask from the mask with regions exchanged.
        label: value of the label whose regions are exchanged.
        fading: labels to paint more or less clearly.
        step: step of a stored intermediate generator; None: the final one.
    """
    # Different seeds, since a mask's moved image would otherwise share the unmoved one's noise.
    cases = list(synthesise(run, masks, step=step, fading=fading))
    if moved:
        cases += synthesise(run, masks, draws=moved, move=True, seed=1, step=step, fading=fading)
    for number in range(mixed):
        exchanged = [
            (f"{name}_r{number}", mask) for name, mask in recombined(masks, label, seed=number)
        ]
        cases += synthesise(run, exchanged, move=True, seed=2 + number, step=step, fading=fading)
    return cases


def evaluate_run(
    run: RunFolder,
    sites: Mapping[str, Path],
    test: Path | None,
    synthetic: Path,
    out: Path,
    *,
    seeds: int,
    budget: SegmentationBudget,
    targets: Sequence[str] | None,
    workers: int,
    device: str,
    baselines: bool,
    augmented: Mapping[str, Path] | None = None,
    check_budget: bool,
    on_progress: OnProgress,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    states: Mapping[str, Path] | None = None,
) -> Evaluation:
    """Loads all data on the run's grid and compares the models.

    Without `test`, the models are judged on the patients that the run held out. Held-out patients
    never train a model, even if `test` is given. `states` is as for `choosers_of`. The other
    arguments are those of `evaluate`.

    Raises:
        RunError: there is neither a test set nor a held-out patient, a patient is both in a site
            and in the test set, or the synthetic set was not painted by this run.
    """
    check_provenance(run, synthetic)
    facts, image, part = run.facts(), run.recipe().image, run.recipe().training.hold_out
    if test is None and not part:
        raise RunError(
            "there is nobody to judge on: give real cases of unseen patients with --test FOLDER, "
            "or train with --set training.hold_out=0.2."
        )
    if run.recipe().condition.kind != "mask":
        raise RunError(
            f"the run in {run.path} paints without masks, so there is nothing to be segmented in "
            "its images."
        )
    if part:
        facts.check_pattern(patient_pattern)
    # Held-out patients are of the sites, any of which may lack a modality.
    modalities = shared_by_all(facts.modalities, [test] if test else list(sites.values()))
    # Which cases of an incomplete set are loaded depends on the modalities that are judged, but who
    # is held out depends on all that trained.
    partial = {site: data for site, data in sites.items() if describe(data).incomplete}
    trained = _as_trained(run, partial, patient_pattern)
    real, judged = load_real(
        sites, test, run.recipe(), modalities=modalities, labels=facts.labels,
        patient_pattern=patient_pattern, incomplete=True, trained=trained,
        choosers=choosers_of(run, sites, states), had=had_in(facts),
    )  # fmt: skip
    painted = load_cases(synthetic, image, modalities, unmasked=False, synthetic=True)
    return evaluate(
        sites=real,
        test=judged,
        judged_on="test" if test else "validation",
        synthetic=painted,
        labels={name: int(number) for number, name in facts.labels.items()},
        out=out,
        targets=targets,
        seeds=range(seeds),
        budget=budget_for(run.recipe(), budget),
        workers=workers,
        device=device,
        baselines=baselines,
        augmented={
            name: _augmented_cases(name, data, real, judged, run, modalities, patient_pattern)
            for name, data in (augmented or {}).items()
        },
        check_budget=check_budget,
        about={
            "run": facts.run,
            "generator_sha256": facts.generator_sha256,
            "modalities": ", ".join(modalities) + _lacking(real),
            "sites": _others(facts, real),
        },
        on_progress=on_progress,
    )


def had_in(facts: RunFacts) -> dict[str, int]:
    """How many cases each site of a run had; without a site whose policy hides that and says 1."""
    return {site: about["cases"] for site, about in facts.sites.items() if about["cases"] != 1}


def _check_cases(had: Mapping[str, int], sites: Mapping[str, Sequence[Case]]) -> None:
    """Refuses data that a site of the run did not have."""
    for site, cases in sites.items():
        if had.get(site, len(cases)) != len(cases):
            raise RunError(
                f"site {site} trained with {counted(had[site], 'case')}, and here are "
                f"{counted(len(cases), 'case')}. Give --site the folder that it trained with; data "
                "that the run has not seen get a name of their own, or are --test."
            )


def _others(facts: RunFacts, sites: Collection[str]) -> str:
    """A sentence on whose real images are judged, if not those of the run's sites; else empty."""
    if set(sites) == set(facts.sites):
        return ""
    return (
        f"'All real images' are those of {', '.join(sorted(sites))}; the generator was taught by "
        f"{', '.join(sorted(facts.sites))}."
    )


def _lacking(sites: Mapping[str, Sequence[Case]]) -> str:
    """Text that continues the list of modalities with the sites that lack some of them."""
    told = []
    for site, cases in sites.items():
        every = sorted(lacked_by_all(cases))
        some = sum(len(case.absent) > len(every) for case in cases)
        told += [f"{site} has no {', '.join(every)}"] if every else []
        told += [f"{some} of {len(cases)} cases of {site} lack one"] if some else []
    return "".join(f"; {each}" for each in told)


def _augmented_cases(
    site: str,
    data: Path,
    real: Mapping[str, Sequence[Case]],
    judged: Sequence[Case],
    run: RunFolder,
    modalities: Sequence[str],
    patient_pattern: str,
) -> list[Case]:
    """Cases of a set written by `asyndgan augment`, without held-out patients.

    Raises:
        RunError: the site is not part of the evaluation, or the set holds no synthetic cases, does
            not say where they are from, was painted by another generator, was painted from masks of
            judged patients or of cases that the site does not train on, or lacks real cases of it
            or holds other versions of them.
    """
    if site not in real:
        raise RunError(
            f"--augmented {site}: that is no site of this evaluation; the sites are "
            f"{', '.join(real)}."
        )
    info = describe(data)
    if not info.synthetic_cases:
        raise RunError(f"{data} holds no synthetic cases; 'asyndgan augment' writes such a set.")
    painted_by, masks, mask_of = _provenance(data)
    if painted_by != run.facts().generator_sha256:
        raise RunError(
            f"{data} was painted by another generator than that of {run.path}, which may have been "
            "taught by those who are judged on. Make it anew with 'asyndgan augment'."
        )
    both = (mask for case in judged for mask in (case.mask, case.mask.flip(-1)))
    seen = masks.intersection(digests_of(both))
    if seen:
        raise RunError(
            f"{data} was painted from {len(seen)} masks of cases that are judged on. Make it anew "
            "from other masks."
        )
    cases = _loaded(
        data, run.recipe().image, modalities, patient_pattern=patient_pattern, incomplete=True,
        augmented=True,
    )  # fmt: skip
    own, training = set(info.synthetic_cases), {case.name for case in real[site]}
    copies = {case.name: case for case in cases}
    if missing := training - copies.keys():
        raise RunError(
            f"{data} lacks {len(missing)} real cases that site {site} has; it was made from "
            "another set."
        )
    if other := [case.name for case in real[site] if not _same(case, copies[case.name])]:
        raise RunError(
            f"{data} holds other images or masks of {counted(len(other), 'real case')} than site "
            f"{site}, which would count as an effect of the synthetic ones. Name the folder that "
            f"it was made from (--site {quote(site)}=FOLDER), or make it anew with 'asyndgan "
            "augment'."
        )
    if strange := {mask_of.get(name, name) for name in own} - training - {""}:
        raise RunError(
            f"{data} was painted from masks of {counted(len(strange), 'case')} that site {site} "
            "does not train on here, whose patients may be judged on. Make it anew from "
            f"{site}'s own folder."
        )
    return [case for case in cases if case.name in own or case.name in training]


def _same(case: Case, other: Case) -> bool:
    return torch.equal(case.image, other.image) and torch.equal(case.mask, other.mask)


MOST_PAINTED = 2**30
"""Largest file of a painted set in bytes."""

MOST_BYTES = 2**26
"""Largest provenance of an augmented set: half a million cases and their masks."""


def _provenance(data: Path) -> tuple[str, set[str], dict[str, str]]:
    """What `asyndgan augment` noted of a set.

    Returns:
        The SHA-256 of the generator, those of further masks, and by synthetic case the name of the
        real one whose mask was painted.

    Raises:
        RunError: it noted nothing that can be read.
    """
    try:
        table = parsed_json(bounded_text(data / "provenance.json", MOST_BYTES))
        masks, mask_of = table["masks_sha256"], table["mask_of"]
        texts = [table["generator_sha256"], *masks, *mask_of, *mask_of.values()]
        if all(isinstance(text, str) for text in texts):
            return table["generator_sha256"], set(masks), mask_of
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    raise RunError(
        f"{data} has no provenance.json that says what it was painted from. Make the set anew with "
        "'asyndgan augment'."
    )


def load_real(
    sites: Mapping[str, Path],
    test: Path | None,
    recipe: Recipe,
    *,
    modalities: Sequence[str],
    labels: Mapping[str, str],
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    incomplete: bool = False,
    trained: Mapping[str, Sequence[Case]] | None = None,
    choosers: Mapping[str, Chooser] | None = None,
    had: Mapping[str, int] | None = None,
) -> tuple[dict[str, list[Case]], list[Case]]:
    """Loads the sites' training cases and the cases to judge on.

    Args:
        sites: folder of each site's data, by the site's name.
        test: folder of the cases to judge on; None: the patients that the sites hold out. All
            slices of volumes are judged, whichever slices the recipe trains on.
        recipe: defines the grid and the held-out patients, who are excluded from the training cases
            even if `test` is given.
        modalities: modalities to load; those that a site lacks are blank in its cases.
        labels: the run's labels: number, as text, to name.
        patient_pattern: see `asyndgan.data.nnunet.patient_of`.
        incomplete: also accept single cases that lack modalities, if their dataset.json permits it.
        trained: all cases with which a site was trained, held-out ones among them, where they are
            not those that are loaded here: who is held out depends on all of them.
        choosers: how each site chose whom it holds out; see `choosers_of`.
        had: number of cases that sites trained with, held-out ones among them; see `had_in`.

    Returns:
        The training cases, by the site's name, and the cases to judge on.

    Raises:
        DataError: a folder cannot be read, a case has no mask, or labels contradict each other.
        RunError: a patient is both in a site and in the test set, a folder has none of the
            modalities, or a site has another number of cases than it had.
    """

    def cases(data: Path, image: ImageSection) -> list[Case]:
        check_labels(data, labels)
        return _loaded(
            data, image, modalities, patient_pattern=patient_pattern, incomplete=incomplete
        )

    # All slices are judged: selecting those with a label would use the truth to be predicted.
    whole = recipe.image.model_copy(update={"slices": "all"})
    every = {name: cases(data, recipe.image) for name, data in sites.items()}
    _check_cases(had or {}, {**every, **(trained or {})})
    unseen: set[str] = set()
    if recipe.training.hold_out:
        _, held_out = hold_out(
            {**every, **(trained or {})},
            part=recipe.training.hold_out,
            seed=recipe.training.hold_out_seed,
            alone=recipe.privacy.kind != "none",
            choosers=choosers,
        )
        unseen = {case.patient for case in held_out}
    real = {
        name: [case for case in own if f"{name}/{case.patient}" not in unseen]
        for name, own in every.items()
    }
    if test is None:
        if whole != recipe.image:
            every = {name: cases(data, whole) for name, data in sites.items()}
        return real, [
            replace(case, patient=f"{name}/{case.patient}")
            for name, own in every.items()
            for case in own
            if f"{name}/{case.patient}" in unseen
        ]
    judged = cases(test, whole)
    _check_patients(real, judged)
    return real, judged


def _loaded(
    data: Path,
    image: ImageSection,
    modalities: Sequence[str],
    *,
    patient_pattern: str,
    incomplete: bool = False,
    augmented: bool = False,
) -> list[Case]:
    """Cases of a folder, which must have masks; modalities that the folder lacks are blank."""
    info = describe(data)
    held = [name for name in modalities if name in info.modalities]
    if not held:
        raise RunError(
            f"{data} has {', '.join(info.modalities)}, and nothing of what is judged on: "
            f"{', '.join(modalities)}. Leave it out."
        )
    cases = load_cases(
        data, image, held, patient_pattern=patient_pattern, unmasked=False, augmented=augmented,
        incomplete=incomplete,
    )  # fmt: skip
    return [widened(case, modalities) for case in cases]


def shared_by_all(modalities: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The modalities that all of these folders have, in the order of `modalities`.

    Raises:
        RunError: there is none.
    """
    held = [describe(folder).modalities for folder in folders]
    shared = [name for name in modalities if all(name in own for own in held)]
    if not shared:
        names = ", ".join(str(folder) for folder in folders)
        raise RunError(
            f"no modality of the run ({', '.join(modalities)}) is in "
            f"{f'all of {names}' if len(folders) > 1 else names}. Leave out who has others, or "
            "name another folder."
        )
    return shared


def _check_patients(sites: Mapping[str, Sequence[Case]], test: Sequence[Case]) -> None:
    unseen = {case.patient for case in test}
    for site, cases in sites.items():
        shared = unseen & {case.patient for case in cases}
        if shared:
            raise RunError(
                f"of site {site}'s patients {len(shared)} are in the test set as well. Take them "
                "out of one of the two ('asyndgan check SITE --test TEST' names them); if the "
                "names only look alike, say with --patient-pattern what a patient is."
            )


def check_provenance(
    run: RunFolder,
    synthetic: Path,
    masks: Sequence[tuple[str, Mask]] | None = None,
    painting: Mapping[str, Any] | None = None,
) -> None:
    """Checks that a set was painted by a run, and from these masks and in this way if given.

    Raises:
        DataError: the folder is no data set.
        RunError: it was painted by another generator, from other masks or in another way.
    """
    found = describe(synthetic).extra.get("provenance")
    # Sets of before labels could be faded do not say that none was.
    provenance = AS_PAINTED.told() | (found if isinstance(found, dict) else {})
    if provenance.get("generator_sha256") != run.facts().generator_sha256:
        raise RunError(
            f"{synthetic} was not painted by the generator of {run.path}; "
            "generate it anew or name another folder."
        )
    if masks is not None and provenance.get("masks_sha256") != masks_digest(masks):
        raise RunError(
            f"{synthetic} was painted from other masks than those of these sites; remove it, or "
            "evaluate into another folder."
        )
    wanted = {**(painting or {}), "painting_version": PAINTING_VERSION}
    if painting is not None and any(provenance.get(key) != wanted[key] for key in wanted):
        raise RunError(
            f"{synthetic} was painted in another way than is asked for now; remove it, or "
            "evaluate into another folder."
        )
