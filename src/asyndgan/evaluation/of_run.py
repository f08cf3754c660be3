"""A run's synthetic set against real data: loads all of it on the run's grid and compares."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from asyndgan.arrays import Mask
from asyndgan.data import Case
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN, check_labels, describe
from asyndgan.data.prepare import lacked_by_all, load_cases, widened
from asyndgan.data.splits import held_out_by, hold_out
from asyndgan.data.writing import written_whole
from asyndgan.errors import RunError
from asyndgan.evaluation.augmenting import digests_of
from asyndgan.evaluation.compare import OnProgress, evaluate
from asyndgan.evaluation.recombine import recombined
from asyndgan.evaluation.segmentation import SegmentationBudget
from asyndgan.evaluation.synthesise import (
    PAINTING_VERSION,
    masks_digest,
    masks_in,
    released_masks,
    synthesise,
    write_synthetic,
)
from asyndgan.evaluation.table import Evaluation
from asyndgan.recipe import ImageSection, Recipe
from asyndgan.runs import RunFolder
from asyndgan.texts import bounded_text, parsed_json

MOVED = 2
"""Images from a mask that was mirrored, turned, scaled and shifted, beside the one from the mask
itself. Chosen on validation patients: see docs/experiments.md."""


def synthetic_of_run(
    run: RunFolder,
    sites: Mapping[str, Path],
    out: Path,
    *,
    masks: Path | None = None,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
) -> Path:
    """A synthetic set to judge: from released masks, or else from the masks of these sites.

    Args:
        run: a finished run.
        sites: folder of each site's data by name.
        out: as for `painted_once`.
        masks: folder of masks to paint from instead.
        patient_pattern: see `asyndgan.data.nnunet.patient_of`.

    Raises:
        RunError: as `painted_once`.
    """
    recipe = run.recipe()
    if recipe.image.source == "masks":
        raise RunError(
            f"the run in {run.path} paints masks, which have nothing to be segmented. Train a "
            "generator of images on what it paints, and judge that one."
        )
    if masks:
        return painted_once(run, masks_in(masks, run), "a folder of masks", out)
    if recipe.masks.release:
        return painted_once(run, released_masks(run), "released by the sites during training", out)
    cases = {
        site: load_cases(data, recipe.image, patient_pattern=patient_pattern, unmasked=False)
        for site, data in sites.items()
    }
    kept = {site: held_out_by(recipe, own)[0] for site, own in cases.items()}
    return painted_once(run, masks_of(kept), OF_SITES, out)


OF_SITES = "of the sites' own cases, given to the evaluation only"


def masks_of(sites: Mapping[str, Sequence[Case]]) -> list[tuple[str, Mask]]:
    """The masks of each site's cases, numbered: names of cases may be names of patients."""
    return [
        (f"{site}-c{number:05d}", case.mask)
        for site, cases in sites.items()
        for number, case in enumerate(cases, 1)
    ]


def patients_of_masks(sites: Mapping[str, Sequence[Case]]) -> dict[str, str]:
    """Whose each mask of `masks_of` is, as `site/patient`; for this machine only."""
    owners = (f"{site}/{case.patient}" for site, cases in sites.items() for case in cases)
    return dict(zip((name for name, _ in masks_of(sites)), owners, strict=True))


def painted_once(
    run: RunFolder,
    masks: Sequence[tuple[str, Mask]],
    source: str,
    out: Path,
    *,
    moved: int = MOVED,
    mixed: int = 0,
    label: int = 1,
) -> Path:
    """A synthetic set from these masks: painted, or found where it was painted before.

    Args:
        run: a finished run.
        masks: names and label maps [H, W].
        source: where the masks came from, in words.
        out: folder of the set.
        moved: images from each mask moved, beside the one from the mask itself.
        mixed: further images from each mask moved after its regions of `label` were exchanged for
            another's; see `asyndgan.evaluation.recombine`.
        label: value of the label that is exchanged.

    Raises:
        RunError: `out` is of another run, or was painted from other masks.
    """
    painting = {"moved": moved, "mixed": mixed, "label": label if mixed else 0}
    if (out / "dataset.json").exists():
        _check_provenance(run, out, masks, painting)
        return out
    cases = painting_of(run, masks, moved=moved, mixed=mixed, label=label)
    if mixed:
        source += ", some with regions exchanged"
    with written_whole(out) as half:
        write_synthetic(half, run, cases, masks=masks, source=source, painting=painting)
    return out


def painting_of(
    run: RunFolder,
    masks: Sequence[tuple[str, Mask]],
    *,
    moved: int = MOVED,
    mixed: int = 0,
    label: int = 1,
    step: int | None = None,
) -> list[Case]:
    """The cases of a synthetic set; `painted_once` says what the arguments are.

    Args:
        run: a finished run.
        masks: names and label maps [H, W].
        moved: images from each mask moved.
        mixed: images from each mask with regions exchanged.
        label: value of the label that is exchanged.
        step: of a generator that was kept on the way; None: that of the end.
    """
    # Seeds of their own: the moved image of a mask would else have the noise of the unmoved one.
    cases = synthesise(run, masks, step=step)
    if moved:
        cases += synthesise(run, masks, draws=moved, move=True, seed=1, step=step)
    for number in range(mixed):
        exchanged = [
            (f"{name}_r{number}", mask) for name, mask in recombined(masks, label, seed=number)
        ]
        cases += synthesise(run, exchanged, move=True, seed=2 + number, step=step)
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
) -> Evaluation:
    """Loads everything on the run's grid and compares the models.

    Without `test` they are judged on the patients that the run held out; these train no model
    whatever the models are judged on.

    Raises:
        RunError: if there is neither a test set nor a held-out patient, a patient is in two parts,
            or the synthetic set is not this run's.
    """
    _check_provenance(run, synthetic)
    facts, image, part = run.facts(), run.recipe().image, run.recipe().training.hold_out
    if test is None and not part:
        raise RunError(
            "there is nobody to judge on: give real cases of unseen patients with --test FOLDER, "
            "or train with --set training.hold_out=0.2."
        )
    if part:
        facts.check_pattern(patient_pattern)
    # Held-out patients are of sites that may lack any; test patients have what they have.
    modalities = shared_by_all(facts.modalities, [test] if test else list(sites.values()))
    real, judged = load_real(
        sites, test, run.recipe(), modalities=modalities, labels=facts.labels,
        patient_pattern=patient_pattern, incomplete=True,
    )  # fmt: skip
    painted = load_cases(synthetic, image, modalities, unmasked=False)
    return evaluate(
        sites=real,
        test=judged,
        judged_on="test" if test else "validation",
        synthetic=painted,
        labels={name: int(number) for number, name in facts.labels.items()},
        out=out,
        targets=targets,
        seeds=range(seeds),
        budget=budget,
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
        },
        on_progress=on_progress,
    )


def _lacking(sites: Mapping[str, Sequence[Case]]) -> str:
    """Who has not all modalities, as a continuation of their list."""
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
    """Cases of a set that `asyndgan augment` wrote, without patients that are held out.

    Raises:
        RunError: it is of no site of the evaluation, or of another one, or was painted from masks
            of those who are judged on.
    """
    if site not in real:
        raise RunError(
            f"--augmented {site}: that is no site of this evaluation; the sites are "
            f"{', '.join(real)}."
        )
    info = describe(data)
    if not info.synthetic_cases:
        raise RunError(f"{data} holds no synthetic cases; 'asyndgan augment' writes such a set.")
    provenance = parsed_json(bounded_text(data / "provenance.json"))
    if provenance.get("generator_sha256") != run.facts().generator_sha256:
        raise RunError(
            f"{data} was painted by another generator than that of {run.path}, which may have been "
            "taught by those who are judged on. Make it anew with 'asyndgan augment'."
        )
    seen = set(digests_of(case.mask for case in judged)) & set(provenance.get("masks_sha256", ()))
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
    if missing := training - {case.name for case in cases}:
        raise RunError(
            f"{data} lacks {len(missing)} real cases that site {site} has; it was made from "
            "another set."
        )
    return [case for case in cases if case.name in own or case.name in training]


def load_for_audit(
    run: RunFolder,
    sites: Mapping[str, Path],
    holdout: Path | None,
    synthetic: Path,
    *,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
) -> tuple[list[Case], list[Case], list[Case]]:
    """Cases of members, of others, and the synthetic ones, on the run's grid.

    Args:
        run: a finished run.
        sites: folder of each site's data by name.
        holdout: folder of patients that the run has not seen; None: those that it held out.
        synthetic: folder of the set that it painted.
        patient_pattern: as the run had it.

    Raises:
        DataError: as `load_real`.
        RunError: there are no other patients, one of them is a member, or the sites are not those
            of the run.
    """
    facts, image, part = run.facts(), run.recipe().image, run.recipe().training.hold_out
    if holdout is None and not part:
        raise RunError(
            "there is nobody to compare members with: give patients of the same hospitals that the "
            "run has not seen with --holdout FOLDER, or train with --set training.hold_out=0.3."
        )
    facts.check_pattern(patient_pattern)
    modalities = shared_by_all(facts.modalities, [*sites.values(), *([holdout] if holdout else [])])
    real, others = load_real(
        sites, holdout, run.recipe(), modalities=modalities, labels=facts.labels,
        patient_pattern=patient_pattern,
    )  # fmt: skip
    known = {site: about["cases"] for site, about in facts.sites.items()}
    # A site whose policy hides how many cases it has says 1.
    if set(real) != set(known) or any(known[site] not in (1, len(real[site])) for site in real):
        shown = ", ".join(f"{site} ({cases} cases)" for site, cases in known.items())
        raise RunError(
            f"the members are those whom the run was trained on: {shown}. Name exactly these "
            "sites, with the data that they had."
        )
    members = [
        replace(case, patient=f"{site}/{case.patient}")
        for site, cases in real.items()
        for case in cases
    ]
    return members, others, load_cases(synthetic, image, modalities, unmasked=False)


def load_real(
    sites: Mapping[str, Path],
    test: Path | None,
    recipe: Recipe,
    *,
    modalities: Sequence[str],
    labels: Mapping[str, str],
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    incomplete: bool = False,
) -> tuple[dict[str, list[Case]], list[Case]]:
    """The sites' training cases, and those to judge on.

    Args:
        sites: folder of each site's data by name.
        test: folder of the cases to judge on; None: the patients that the sites hold out. Of
            volumes all slices are judged, whatever the recipe trains on.
        recipe: says the grid, and which patients train nothing, whatever is judged on.
        modalities: to load; what a site has none of is black in its cases.
        labels: number, as text, to name, as everybody means them.
        patient_pattern: see `asyndgan.data.nnunet.patient_of`.
        incomplete: also single cases that lack some, where their dataset.json says so.

    Raises:
        DataError: a folder cannot be read, a case has no mask, or labels contradict each other.
        RunError: a patient is in two parts, or a folder has none of the modalities.
    """

    def cases(data: Path, image: ImageSection) -> list[Case]:
        check_labels(data, labels)
        return _loaded(
            data, image, modalities, patient_pattern=patient_pattern, incomplete=incomplete
        )

    # Which slices hold a label is what is to be found: nobody is judged on those alone.
    whole = recipe.image.model_copy(update={"slices": "all"})
    every = {name: cases(data, recipe.image) for name, data in sites.items()}
    real, held_out, training = every, list[Case](), recipe.training
    if training.hold_out:
        real, held_out = hold_out(
            every,
            part=training.hold_out,
            seed=training.hold_out_seed,
            alone=recipe.privacy.kind != "none",
        )
    if test is None and whole != recipe.image:
        unseen = {case.patient for case in held_out}
        held_out = [
            replace(case, patient=f"{name}/{case.patient}")
            for name, data in sites.items()
            for case in cases(data, whole)
            if f"{name}/{case.patient}" in unseen
        ]
    if test is None:
        return real, held_out
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
    """Cases of a folder with their masks, black where the folder lacks a modality."""
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
    """Those of the modalities that all of these folders have.

    Raises:
        RunError: if there is none.
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
                f"patient {sorted(shared)[0]} is in site {site} and in the test set "
                f"({len(shared)} in all). Take them out of one of the two; if the names only look "
                "alike, say with --patient-pattern what a patient is."
            )


def _check_provenance(
    run: RunFolder,
    synthetic: Path,
    masks: Sequence[tuple[str, Mask]] | None = None,
    painting: Mapping[str, int] | None = None,
) -> None:
    found = describe(synthetic).extra.get("provenance")
    provenance = found if isinstance(found, dict) else {}
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
