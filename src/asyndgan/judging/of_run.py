"""Comparison of a run's synthetic set with real data, all loaded on the run's grid."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from asyndgan.errors import RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.judging.bench import Bench, Judged
from asyndgan.judging.compare import compare, contenders
from asyndgan.judging.real import check_sites, load_real, shared_by_all
from asyndgan.judging.table import SYNTHETIC, Evaluation
from asyndgan.locks import written_alone
from asyndgan.models.parts import usable_device
from asyndgan.painting.sets import check_provenance, synthetic_of_run
from asyndgan.runs.sites import RunSites, told_of_sites
from asyndgan.runs.trial import trial_of
from asyndgan.store import Case
from asyndgan.store.prepare import lacked_by_all
from asyndgan.training.segmentation import budget_for


def evaluate_run(
    sites: RunSites,
    test: DataSet | None,
    synthetic: DataSet | None,
    bench: Bench,
    *,
    fade: Sequence[str] = (),
    label: Sequence[str] | None = None,
    baselines: bool = False,
) -> Evaluation:
    """Loads all data on the run's grid, paints what is to be judged, and compares the models.

    Held-out patients never train a model, even if `test` is given. No network sees mirrored images
    if the run's sites saw none. A set is painted into `synthetic` in the bench's folder if none is
    given. Other arguments are those of `asyndgan.evaluate`.

    Raises:
        RunError: a site is none of the run's, there is neither a test set nor a held-out patient, a
            patient is both in a site and in the test set, the synthetic set was not painted by this
            run, or one that is given is to be faded.
        DataError, NotFiniteError: as `Bench.scores`.
    """
    with written_alone(bench.out):
        run = sites.run
        # Before anything is read or painted, for that may take long.
        check_judged(sites, test)
        labels = {name: int(number) for number, name in run.facts().labels.items()}
        Judged((), labels, label).names()
        device = str(usable_device(bench.device))
        others = [test] if test else []
        for data in (*sites.data.values(), *others):
            data.check_labels(run.facts().labels)
        changed = sites.changed()
        facts, recipe = run.facts(), run.recipe()
        # Held-out patients are of the sites, any of which may lack a modality.
        modalities = shared_by_all(facts.modalities, [test] if test else list(sites.data.values()))
        synthetic = _painted(sites, synthetic, bench, fade)
        real, unseen = real_of_run(sites, test, modalities)
        painted = synthetic.cases(recipe.image, modalities, unmasked=False, synthetic=True)
        seeds = len(bench.seeds)
        return compare(
            contenders(real, {SYNTHETIC: [painted] * seeds}, seeds=seeds, augmented=baselines),
            Judged(unseen, labels, label, "test" if test else "validation"),
            replace(bench, budget=budget_for(recipe, bench.budget), device=device),
            about={
                "run": facts.run,
                "generator_sha256": facts.generator_sha256,
                "modalities": ", ".join(modalities) + _lacking(real),
                "sites": told_of_sites(facts, real, changed),
                "trial": trial_of(facts, recipe),
            },
        )


def real_of_run(
    sites: RunSites, test: DataSet | None, modalities: Sequence[str]
) -> tuple[dict[str, list[Case]], list[Case]]:
    """Loads the training cases of a run's sites, and those to judge on; as `load_real`."""
    # Which cases of an incomplete set are loaded depends on the modalities that are judged, but who
    # is held out depends on all that trained.
    partial = [site for site, data in sites.data.items() if data.info.incomplete]
    return load_real(
        sites.data, test, sites.run.recipe(), modalities=modalities,
        labels=sites.run.facts().labels, incomplete=True,
        participation=sites.participation(trained=partial),
    )  # fmt: skip


def _painted(
    sites: RunSites, synthetic: DataSet | None, bench: Bench, faded: Sequence[str]
) -> DataSet:
    """The run's synthetic set; painted if none is given."""
    if synthetic and faded:
        raise RunError(
            f"{synthetic.folder} is painted already, so nothing in it is faded; leave out --fade."
        )
    if synthetic is None:
        place, watch = bench.out / "synthetic", bench.on_progress
        synthetic = synthetic_of_run(sites, place, faded=faded, watch=watch)
    check_provenance(sites.run, synthetic)
    return synthetic


def check_judged(sites: RunSites, test: DataSet | None) -> None:
    """Raises `RunError` if a site is none of the run's, or there is nobody or nothing to judge."""
    check_sites(sites, test, "--test")
    sites.run.check_masked(", so there is nothing to be segmented in its images.")


def _lacking(sites: Mapping[str, Sequence[Case]]) -> str:
    """Text that continues the list of modalities with the sites that lack some of them."""
    told = []
    for site, cases in sites.items():
        every = sorted(lacked_by_all(cases))
        some = sum(len(case.absent) > len(every) for case in cases)
        told += [f"{site} has no {', '.join(every)}"] if every else []
        told += [f"{some} of {len(cases)} cases of {site} lack one"] if some else []
    return "".join(f"; {each}" for each in told)
