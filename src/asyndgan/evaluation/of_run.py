"""A run's synthetic set against real data: loads all of it on the run's grid and compares."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from asyndgan.data import Case
from asyndgan.data.nnunet import (
    DEFAULT_PATIENT_PATTERN,
    check_labels,
    describe,
    written_whole,
)
from asyndgan.data.prepare import load_cases, load_masks
from asyndgan.errors import RunError
from asyndgan.evaluation.compare import OnProgress, evaluate
from asyndgan.evaluation.segmentation import SegmentationBudget
from asyndgan.evaluation.synthesise import synthesise, write_synthetic
from asyndgan.evaluation.table import Evaluation
from asyndgan.runs import RunFolder


def synthetic_of_run(run: RunFolder, sites: Mapping[str, Path], out: Path) -> Path:
    """A synthetic set to judge: from released masks, or else from the masks of these sites."""
    if (out / "dataset.json").exists():
        _check_provenance(run, out)
        return out
    if run.recipe().masks.release:
        masks, source = None, "released by the sites during training"
    else:
        image = run.recipe().image
        masks = [
            (f"{site}-c{number:05d}", mask)  # names of cases may be names of patients
            for site, data in sites.items()
            for number, (_, mask) in enumerate(load_masks(data, image), 1)
        ]
        source = "of the sites' own cases, given to the evaluation only"
    cases = synthesise(run, masks)
    with written_whole(out) as half:
        write_synthetic(half, run, cases, masks=source, draws=1, seed=0)
    return out


def evaluate_run(
    run: RunFolder,
    sites: Mapping[str, Path],
    test: Path,
    synthetic: Path,
    out: Path,
    *,
    seeds: int,
    budget: SegmentationBudget,
    targets: Sequence[str] | None,
    workers: int,
    check_budget: bool,
    on_progress: OnProgress,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
) -> Evaluation:
    """Loads everything on the run's grid and compares the models."""
    _check_provenance(run, synthetic)
    facts, image = run.facts(), run.recipe().image
    modalities = shared_by_all(facts.modalities, [*sites.values(), test])

    def cases(data: Path) -> list[Case]:
        check_labels(data, facts.labels)
        return load_cases(data, image, modalities, patient_pattern=patient_pattern, unmasked=False)

    real = {name: cases(data) for name, data in sites.items()}
    judged_on = cases(test)
    _check_patients(real, judged_on)
    return evaluate(
        sites=real,
        test=judged_on,
        synthetic=cases(synthetic),
        labels={name: int(number) for number, name in facts.labels.items()},
        out=out,
        targets=targets,
        seeds=range(seeds),
        budget=budget,
        workers=workers,
        check_budget=check_budget,
        about={
            "run": facts.run,
            "generator_sha256": facts.generator_sha256,
            "modalities": ", ".join(modalities),
        },
        on_progress=on_progress,
    )


def shared_by_all(modalities: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """What every model can be trained and judged on: a site may lack modalities.

    Raises:
        RunError: if there is none.
    """
    held = [describe(folder).modalities for folder in folders]
    shared = [name for name in modalities if all(name in own for own in held)]
    if not shared:
        raise RunError(
            f"no modality of the run ({', '.join(modalities)}) is in every folder. Leave out the "
            "sites that have others."
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


def _check_provenance(run: RunFolder, synthetic: Path) -> None:
    provenance = describe(synthetic).extra.get("provenance")
    wanted = run.facts().generator_sha256
    if not isinstance(provenance, dict) or provenance.get("generator_sha256") != wanted:
        raise RunError(
            f"{synthetic} was not painted by the generator of {run.path}; "
            "generate it anew or name another folder."
        )
