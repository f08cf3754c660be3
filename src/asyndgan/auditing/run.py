"""Audit of a run with the data of its sites."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from asyndgan.auditing.audit import Audited, audit, of_canaries
from asyndgan.auditing.reconstruction import not_asked, read_pixels
from asyndgan.auditing.record import AuditRecord, read_audit
from asyndgan.data import Case
from asyndgan.data.dataset import DataSet
from asyndgan.engines import SiteSetup, load_cohort
from asyndgan.errors import RunError
from asyndgan.judging.bench import OnProgress
from asyndgan.judging.real import load_real, shared_by_all
from asyndgan.painting.fading import fading_of
from asyndgan.painting.sets import synthetic_of_run
from asyndgan.runs import RunFolder
from asyndgan.runs.sites import RunSites
from asyndgan.training.checkpoint import place_holding


def audit_run(
    sites: RunSites,
    out: Path,
    *,
    holdout: DataSet | None = None,
    masks: Path | None = None,
    faded: Sequence[str] = (),
    canaries: str = "",
    asked: Collection[str] | None = None,
    synthetic: DataSet | None = None,
    watch: OnProgress | None = None,
) -> AuditRecord:
    """Attacks a finished run in every way that its recipe allows, and writes down the results.

    Args:
        sites: a finished run and some of its sites; members are theirs.
        out: folder for the audit, and for the synthetic set that is audited, in `synthetic`. It
            holds real images: keep it at the site.
        holdout: as for `load_for_audit`.
        masks: folder of the masks that the set to be released is painted from; None: those that
            sites released, or their own.
        faded: names of labels that the set is to show more or less clearly.
        canaries: start of patients' names; compare only them.
        asked: sites whose pixels are to be read, which takes a while at each; None: all those that
            confirm their members.
        synthetic: the set to be audited, if this process has painted it; it is not painted again
            to see whether somebody changed it.
        watch: called before each attack, with its name and the numbers of attacks done and of all.

    Raises:
        DataError: as `load_for_audit` and `audit`.
        RunError: as `synthetic_of_run`, `load_for_audit` and `read_pixels`.
    """
    run = sites.run
    _check_given(sites, holdout)  # before anything is read or painted, for that may take long
    asked = set() if not_asked(run) else {*sites.data} if asked is None else {*asked}
    begin = _announcer(watch, 5 + len(asked))
    begin("paint the synthetic set")
    place = synthetic.folder if synthetic else out / "synthetic"
    synthetic = synthetic_of_run(sites, place, masks=masks, faded=faded, compared=synthetic is None)
    begin("read the patients")
    members, others, painted, confirmed = load_for_audit(sites, holdout, synthetic)
    if canaries:
        members, others = of_canaries(members, canaries), of_canaries(others, canaries)
    provenance = synthetic.info.extra["provenance"]
    digest = provenance["masks_sha256"] if isinstance(provenance, dict) else ""
    pixels = []
    for name in [site for site in confirmed if site in asked]:
        begin(f"attack: can a coordinator read images of {name}?")
        pixels.append(read_pixels(run, confirmed[name], data=sites.data[name]))
    audited = Audited(digest, fading_of(run, faded), confirmed, pixels, canaries)
    audit(run, members, others, painted, out, audited, lambda what: begin(f"attack: {what}"))
    return read_audit(out)


def _announcer(watch: OnProgress | None, total: int) -> Callable[[str], None]:
    """Announces what begins, with the number of things done before."""
    done = count()
    return lambda text: watch(text, next(done), total) if watch else None


def load_for_audit(
    sites: RunSites, holdout: DataSet | None, synthetic: DataSet
) -> tuple[list[Case], list[Case], list[Case], dict[str, SiteSetup]]:
    """Cases of members, cases of other patients, and synthetic cases, on the run's grid.

    Args:
        sites: a finished run and some of its sites; members are theirs.
        holdout: patients that the run has not seen; None: those that it held out.
        synthetic: the synthetic set that the run painted.

    Returns:
        The three groups of cases, and by name the sites, as they were in the run, whose state
        confirms that they were trained on these members. Of a site without a state only the number
        of cases was compared.

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
        if _confirms(run, setup := as_in_run(sites, site), data)
    }
    members = [
        replace(case, patient=f"{site}/{case.patient}")
        for site, cases in real.items()
        for case in cases
    ]
    if image.slices == "labelled":  # as the members are, or the two groups would differ in this
        others = [case for case in others if bool(case.mask.any())]
    painted = synthetic.cases(image, modalities, unmasked=False, synthetic=True)
    return members, others, painted, confirmed


def _check_given(sites: RunSites, holdout: DataSet | None) -> None:
    """Checks what an audit was given, without reading an image; raises `RunError`."""
    facts = sites.run.facts()
    if holdout:
        holdout.info  # noqa: B018  (raises if there is no such set)
    if holdout is None and not sites.run.recipe().training.hold_out:
        raise RunError(
            "there are no patients to compare members with: give patients of the same "
            "hospitals that the run has not seen with --holdout FOLDER, or train "
            "with --set training.hold_out=0.2."
        )
    sites.check_pattern()
    if set(sites.data) - set(facts.sites):
        raise RunError(
            "the members are those whom the run was trained on, at "
            f"{', '.join(facts.sites)}. Name these sites, or some of them, with --site."
        )
    if stray := set(sites.states) - set(sites.data):
        raise RunError(f"--state names {', '.join(sorted(stray))}, which --site does not.")


def as_in_run(sites: RunSites, site: str) -> SiteSetup:
    """A site without the modalities of its folder that it did not use in the run."""
    run, data = sites.run, sites.data[site]
    held = run.facts().sites[site]["modalities"]
    unused = tuple(name for name in data.info.modalities if name not in held)
    state = sites.states.get(site, run.site_state(site))
    return SiteSetup(site, data.folder, state, patients=data.patient_pattern, without=unused)


def _confirms(run: RunFolder, setup: SiteSetup, data: DataSet) -> bool:
    """Whether a site's state confirms training on these cases; False if there is no state.

    Raises:
        RunError: it says that they are others, or that the recipe was another one.
    """
    recipe, held = run.recipe(), place_holding(setup.state, run.facts().run)
    if held is None:
        return False
    _, about = held
    if about.get("recipe") != recipe.digest():  # or a coordinator could leave out what tells
        raise RunError(
            f"{run.recipe_file} is not the recipe by which {setup.name} was trained, or its states "
            f"in {setup.state} are of another version. Take the run's folder as it was, or "
            "train anew."
        )
    if load_cohort(setup, recipe, data=data).members != about.get("members"):
        raise RunError(
            f"{setup.data} does not hold the cases that {setup.name} was trained on, or "
            "--patient-pattern tells its patients otherwise. Name the folder that the site had."
        )
    return True
