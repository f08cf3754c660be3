"""Audit of a run with the data of its sites."""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from asyndgan.auditing.audit import Audited, audit, check_two, of_canaries
from asyndgan.auditing.distances import paintings_of_case
from asyndgan.auditing.reconstruction import PixelsRead, not_asked, questions_of, read_pixels
from asyndgan.auditing.record import AuditRecord, read_audit
from asyndgan.engines import SiteSetup, load_cohort
from asyndgan.errors import RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.judging.real import check_sites, load_real, shared_by_all
from asyndgan.judging.work import OnProgress, Work
from asyndgan.locks import written_alone
from asyndgan.painting.sets import check_provenance, check_set, synthetic_of_run
from asyndgan.runs import RunFolder
from asyndgan.runs.sites import RunSites
from asyndgan.store import Case
from asyndgan.texts import storing
from asyndgan.training.checkpoint import place_holding
from asyndgan.training.compute import torch_threads


def audit_run(
    sites: RunSites,
    out: Path,
    *,
    holdout: DataSet | None = None,
    masks: Path | None = None,
    fade: Sequence[str] = (),
    canaries: str = "",
    asked: Collection[str] | None = None,
    synthetic: DataSet | None = None,
    watch: OnProgress | None = None,
) -> AuditRecord:
    """Attacks a finished run in every way that its recipe allows, and writes down the results.

    Members are patients of `sites`. `out` gets the audit, which holds real images, and the set in
    `synthetic`, unless this process has painted one. Pixels are read at the sites in `asked`, by
    default at all that confirm their members. Other arguments are those of `asyndgan.audit`. Raises
    `DataError` or `RunError` as `check_set`, `synthetic_of_run`, `load_for_audit`, `audit` and
    `read_pixels`.
    """
    with written_alone(out):
        run = sites.run
        place = synthetic.folder if synthetic else out / "synthetic"
        # Before anything is read or painted, for that may take long.
        fading = check_set(run, place, masks, fade)
        _check_given(sites, holdout)
        _check_names(sites, holdout, canaries)
        with storing(out):
            out.mkdir(parents=True, exist_ok=True)
        work = Work(watch)
        work.begin("read the patients")
        members, others, confirmed = load_for_audit(sites, holdout)
        members, others = of_canaries(members, canaries), of_canaries(others, canaries)
        for group, cases in (("members", members), ("others", others)):
            check_two(group, (case.patient for case in cases), canaries)
        attacked = {
            site: setup
            for site, setup in confirmed.items()
            if not not_asked(run) and (asked is None or site in asked)
        }
        gaps = paintings_of_case(run) * len([*members, *others])
        work.plan(gaps + questions_of(run.recipe()) * len(attacked))
        work.begin("paint the synthetic set")
        if synthetic is None:
            synthetic = synthetic_of_run(
                sites, place, masks=masks, faded=fade, compared=True, watch=work.painted
            )
        painted = synthetic.cases(
            run.recipe().image, members[0].modalities, unmasked=False, synthetic=True
        )
        told = check_provenance(run, synthetic)
        digest, source = told["masks_sha256"], told["masks"]
        pixels = _read_pixels(sites, attacked, work)
        # the site whose data a folder holds, by the name of the folder if no other has it
        names = {site: data.folder.resolve().name for site, data in sites.data.items()}
        folders = {name: site for site, name in names.items() if [*names.values()].count(name) == 1}
        audited = Audited(digest, source, fading, confirmed, pixels, canaries, folders)
        audit(run, members, others, painted, out, audited, work)
        return read_audit(out)


def _read_pixels(
    sites: RunSites, attacked: Mapping[str, SiteSetup], work: Work
) -> list[PixelsRead]:
    """Attacks sites as a coordinator could, one on each core."""
    if not attacked:
        return []
    work.begin(f"attack: can a coordinator read images of {', '.join(attacked)}?")
    cores = torch.get_num_threads()

    def read(site: str) -> PixelsRead:
        return read_pixels(sites.run, attacked[site], data=sites.data[site], work=work)

    with torch_threads(cores), ThreadPoolExecutor(cores) as pool:
        try:
            return list(pool.map(read, attacked))
        except BaseException as error:  # Ctrl-C is raised here, not in the threads
            work.failed = error
            raise


def load_for_audit(
    sites: RunSites, holdout: DataSet | None
) -> tuple[list[Case], list[Case], dict[str, SiteSetup]]:
    """Cases of members and cases of other patients, on the run's grid.

    Without `holdout` the others are the patients whom the run held out. Also the sites by name, as
    they were in the run, whose state confirms that they were trained on these members.

    Raises:
        DataError: as `load_real`.
        RunError: there are no other patients, one of them is a member, or the sites, their cases or
            the pattern are not those of the run.
    """
    run = sites.run
    facts, image = run.facts(), run.recipe().image
    _check_given(sites, holdout)
    every = [*sites.data.values(), *([holdout] if holdout else [])]
    modalities = shared_by_all(facts.modalities, every)
    real, others = load_real(
        sites.data, holdout, run.recipe(), modalities=modalities, labels=facts.labels,
        participation=sites.participation(),
    )  # fmt: skip
    confirmed = {
        site: setup
        for site, data in sites.data.items()
        if _confirms(sites, setup := sites.as_in_run(site), data)
    }
    members = [
        replace(case, patient=f"{site}/{case.patient}")
        for site, cases in real.items()
        for case in cases
    ]
    if image.slices == "labelled":  # as the members are, or the two groups would differ in this
        others = [case for case in others if case.preparation.labelled]
    return members, others, confirmed


def _check_given(sites: RunSites, holdout: DataSet | None) -> None:
    """Checks what an audit was given, without reading an image; raises `RunError`."""
    if holdout:
        holdout.check_labels(sites.run.facts().labels)
    check_sites(sites, holdout, "--holdout")
    sites.check_patterns()
    for site, data in sites.data.items():
        data.files  # noqa: B018  (raises if it is no data set)
        about_state(sites.run, site, sites.states.get(site, sites.run.site_state(site)))


def _check_names(sites: RunSites, holdout: DataSet | None, canaries: str) -> None:
    """Refuses patients, or canaries, whom the names of files show to be too few."""
    members = [
        f"{site}/{name}" for site, data in sites.data.items() for name in data.patients.values()
    ]
    if holdout:
        check_two("others", holdout.patients.values(), canaries)
        check_two("members", members, canaries)
    else:  # one folder holds both
        check_two("members and others", members, canaries, least=4)


def about_state(run: RunFolder, site: str, state: Path) -> dict[str, Any] | None:
    """Facts of the newest state that a site has of a run, in its folder; None if it has none.

    Raises `RunError` if the state is of another recipe.
    """
    held = place_holding(state, run.facts().run)
    # Or a coordinator could leave out what tells.
    if held and held[1].get("recipe") != run.recipe().digest():
        raise RunError(
            f"{run.recipe_file} is not the recipe by which {site} was trained, or its states "
            f"in {state} are of another version. Take the run's folder as it was, or "
            "train anew."
        )
    return held[1] if held else None


def confirmed_by(
    run: RunFolder, site: str, states: Mapping[str, Path], members: Callable[[], str], other: str
) -> bool:
    """Whether a site's state confirms training on these members; False if there is no state.

    Raises `RunError` if the members are others, which `other` says, or the recipe was another one.
    """
    about = about_state(run, site, states.get(site, run.site_state(site)))
    if about and members() != about.get("members"):
        raise RunError(other)
    return about is not None


def _confirms(sites: RunSites, setup: SiteSetup, data: DataSet) -> bool:
    return confirmed_by(
        sites.run, setup.name, sites.states,
        lambda: load_cohort(setup, sites.run.recipe(), data=data).members,
        f"{setup.data} does not hold the cases that {setup.name} was trained on, or its "
        "patient_pattern was another. Name the folder that the site had.",
    )  # fmt: skip
