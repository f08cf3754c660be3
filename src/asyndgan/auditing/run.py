"""Audit of a run with the data of its sites."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from asyndgan.auditing.audit import audit, of_canaries
from asyndgan.auditing.reconstruction import not_asked, read_pixels
from asyndgan.auditing.record import AuditRecord, read_audit
from asyndgan.data import Case
from asyndgan.data.description import describe
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.data.prepare import load_cases
from asyndgan.engines import SiteSetup, load_cohort
from asyndgan.errors import RunError
from asyndgan.judging.real import load_real, shared_by_all
from asyndgan.painting.sets import synthetic_of_run
from asyndgan.painting.synthesise import fading_of
from asyndgan.runs import RunFolder
from asyndgan.runs.sites import choosers_of, had_in
from asyndgan.training.checkpoint import place_holding


def audit_run(
    run: RunFolder,
    sites: Mapping[str, Path],
    out: Path,
    *,
    holdout: Path | None = None,
    masks: Path | None = None,
    faded: Sequence[str] = (),
    states: Mapping[str, Path] | None = None,
    canaries: str = "",
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    asked: Collection[str] | None = None,
    synthetic: Path | None = None,
) -> AuditRecord:
    """Attacks a finished run in every way that its recipe leaves, and writes down what came of it.

    Args:
        run: a finished run.
        sites: folder of the data of some sites, by the site's name; members are theirs.
        out: folder for the audit, and for the synthetic set that is audited, in `synthetic`. It
            holds real images: keep it at the site.
        holdout: as for `load_for_audit`.
        masks: folder of the masks that the set to be released is painted from; None: those that
            sites released, or their own.
        faded: names of labels that the set is to show more or less clearly.
        states: as for `load_for_audit`.
        canaries: start of patients' names; compare only them.
        patient_pattern: the pattern that the run was trained with.
        asked: sites whose pixels are to be read, which takes a while at each; None: all those that
            confirm their members.
        synthetic: folder of the set to be audited, if this process has painted it; it is not
            painted again to see whether somebody changed it.

    Raises:
        DataError: as `load_for_audit` and `audit`.
        RunError: as `synthetic_of_run`, `load_for_audit` and `read_pixels`.
    """
    compared = synthetic is None
    synthetic = synthetic_of_run(
        run, sites, synthetic or out / "synthetic", masks=masks, faded=faded,
        patient_pattern=patient_pattern, compared=compared, states=states,
    )  # fmt: skip
    members, others, painted, confirmed = load_for_audit(
        run, sites, holdout, synthetic, states=states, patient_pattern=patient_pattern
    )
    if canaries:
        members, others = of_canaries(members, canaries), of_canaries(others, canaries)
    provenance = describe(synthetic).extra["provenance"]
    digest = provenance["masks_sha256"] if isinstance(provenance, dict) else ""
    tried = [one for name, one in confirmed.items() if asked is None or name in asked]
    pixels = [] if not_asked(run) else [read_pixels(run, one) for one in tried]
    audit(
        run, members, others, painted, out, masks=digest, fading=fading_of(run, faded),
        confirmed=confirmed, pixels=pixels, canaries=canaries,
    )  # fmt: skip
    return read_audit(out)


def load_for_audit(
    run: RunFolder,
    sites: Mapping[str, Path],
    holdout: Path | None,
    synthetic: Path,
    *,
    states: Mapping[str, Path] | None = None,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
) -> tuple[list[Case], list[Case], list[Case], dict[str, SiteSetup]]:
    """Cases of members, cases of other patients, and synthetic cases, on the run's grid.

    Args:
        run: a finished run.
        sites: folder of the data of some sites, by the site's name; members are theirs.
        holdout: folder of patients that the run has not seen; None: those that it held out.
        synthetic: folder of the synthetic set that the run painted.
        states: folder in which a site keeps its states, by the site's name; a site that is not
            named is taken for a simulated one, which keeps them in the run's folder.
        patient_pattern: the pattern that the run was trained with.

    Returns:
        The three groups of cases, and by name the sites, as they were in the run, whose state
        confirms that they were trained on these members. Of a site without a state only the number
        of cases was compared.

    Raises:
        DataError: as `load_real`.
        RunError: there are no other patients, one of them is a member, or the sites, their cases or
            the pattern are not those of the run.
    """
    facts, image, part = run.facts(), run.recipe().image, run.recipe().training.hold_out
    if holdout is None and not part:
        raise RunError(
            "there is nobody to compare members with: give patients of the same hospitals that the "
            "run has not seen with --holdout FOLDER, or train with --set training.hold_out=0.3."
        )
    facts.check_pattern(patient_pattern)
    if set(sites) - set(facts.sites):
        raise RunError(
            "the members are those whom the run was trained on, at "
            f"{', '.join(facts.sites)}. Name these sites, or some of them, with --site."
        )
    modalities = shared_by_all(facts.modalities, [*sites.values(), *([holdout] if holdout else [])])
    real, others = load_real(
        sites, holdout, run.recipe(), modalities=modalities, labels=facts.labels,
        patient_pattern=patient_pattern, choosers=choosers_of(run, sites, states),
        had=had_in(facts),
    )  # fmt: skip
    if stray := set(states or {}) - set(sites):
        raise RunError(f"--state names {', '.join(sorted(stray))}, which --site does not.")
    kept = {site: run.site_state(site) for site in sites} | dict(states or {})
    setups = {
        site: as_in_run(run, SiteSetup(site, data, kept[site], patients=patient_pattern))
        for site, data in sites.items()
    }
    confirmed = {site: setup for site, setup in setups.items() if _confirms(run, setup)}
    members = [
        replace(case, patient=f"{site}/{case.patient}")
        for site, cases in real.items()
        for case in cases
    ]
    if image.slices == "labelled":  # as the members are, or the two groups would differ in this
        others = [case for case in others if bool(case.mask.any())]
    painted = load_cases(synthetic, image, modalities, unmasked=False, synthetic=True)
    return members, others, painted, confirmed


def as_in_run(run: RunFolder, setup: SiteSetup) -> SiteSetup:
    """A site without the modalities of its folder that it did not use in the run."""
    held = run.facts().sites[setup.name]["modalities"]
    unused = tuple(name for name in describe(setup.data).modalities if name not in held)
    return replace(setup, without=unused)


def _confirms(run: RunFolder, setup: SiteSetup) -> bool:
    """Whether a site's state says that it was trained on these cases; False if there is none.

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
            f"in {setup.state} are of an earlier version. Take the run's folder as it was, or "
            "train anew."
        )
    if load_cohort(setup, recipe).members != about.get("members"):
        raise RunError(
            f"{setup.data} does not hold the cases that {setup.name} was trained on, or "
            "--patient-pattern tells its patients otherwise. Name the folder that the site had."
        )
    return True
