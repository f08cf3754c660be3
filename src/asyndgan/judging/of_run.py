"""Comparison of a run's synthetic set with real data, all loaded on the run's grid."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from asyndgan.data import Case
from asyndgan.data.description import describe
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.data.prepare import lacked_by_all, load_cases
from asyndgan.errors import RunError
from asyndgan.judging.augmented import augmented_cases
from asyndgan.judging.compare import OnProgress, evaluate
from asyndgan.judging.real import load_real, shared_by_all
from asyndgan.judging.segmentation import SegmentationBudget, budget_for
from asyndgan.judging.table import Evaluation
from asyndgan.models import usable_device
from asyndgan.painting.sets import check_provenance, synthetic_of_run
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.runs.sites import as_trained, choosers_of, had_in


def evaluate_run(
    run: RunFolder,
    sites: Mapping[str, Path],
    test: Path | None,
    synthetic: Path | None,
    out: Path,
    *,
    faded: Sequence[str] = (),
    seeds: int,
    budget: SegmentationBudget,
    targets: Sequence[str] | None,
    workers: int,
    device: str,
    baselines: bool,
    augmented: Mapping[str, Path] | None = None,
    check_budget: bool,
    on_progress: OnProgress | None,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    states: Mapping[str, Path] | None = None,
) -> Evaluation:
    """Loads all data on the run's grid, paints what is to be judged, and compares the models.

    Without `test`, the models are judged on the patients that the run held out. Held-out patients
    never train a model, even if `test` is given. Without `synthetic`, a set is painted into
    `out/synthetic`, with the labels named in `faded` more or less clear. `states` is as for
    `choosers_of`. The other arguments are those of `evaluate`.

    Raises:
        RunError: there is neither a test set nor a held-out patient, a patient is both in a site
            and in the test set, the synthetic set was not painted by this run, or one that is given
            is to be faded.
    """
    if synthetic and faded:
        raise RunError(
            f"{synthetic} is painted already, so nothing in it is faded; leave out --fade."
        )
    # Before anything is painted, for that may take long.
    device = str(usable_device(device))
    for data in (*sites.values(), *([test] if test else []), *(augmented or {}).values()):
        describe(data)
    painted = synthetic or synthetic_of_run(
        run, sites, out / "synthetic", faded=faded, patient_pattern=patient_pattern, states=states
    )
    check_provenance(run, painted)
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
    trained = as_trained(run, partial, patient_pattern)
    real, judged = load_real(
        sites, test, run.recipe(), modalities=modalities, labels=facts.labels,
        patient_pattern=patient_pattern, incomplete=True, trained=trained,
        choosers=choosers_of(run, sites, states), had=had_in(facts),
    )  # fmt: skip
    return evaluate(
        sites=real,
        test=judged,
        judged_on="test" if test else "validation",
        synthetic=load_cases(painted, image, modalities, unmasked=False, synthetic=True),
        labels={name: int(number) for number, name in facts.labels.items()},
        out=out,
        targets=targets,
        seeds=range(seeds),
        budget=budget_for(run.recipe(), budget),
        workers=workers,
        device=device,
        baselines=baselines,
        augmented={
            name: augmented_cases(name, data, real, judged, run, modalities, patient_pattern)
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
