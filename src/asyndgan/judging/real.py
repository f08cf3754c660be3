"""Real cases of sites and of unseen patients, loaded on a run's grid."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from asyndgan.errors import DataError, RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.patients import shared_patients
from asyndgan.recipe import ImageSection, Recipe
from asyndgan.runs.sites import Participation, RunSites, choosers_of
from asyndgan.store import Case
from asyndgan.store.prepare import widened
from asyndgan.store.splits import OPEN, held_out_by
from asyndgan.store.survey import picture_of
from asyndgan.texts import counted


def check_sites(sites: RunSites, unseen: DataSet | None, option: str) -> None:
    """Checks without reading an image whom a run is judged or audited by; `option` gives `unseen`.

    Raises `RunError` if a site is none of the run's, nobody can tell whom it held out, or there is
    no patient whom the run has not seen.
    """
    known, held_out = sites.run.facts().sites, sites.run.recipe().training.hold_out
    if strange := sorted(set(sites.data) - set(known)):
        raise RunError(
            f"the run has no site {', '.join(strange)}; its sites are {', '.join(sorted(known))}. "
            "Name them with --site as in the training; patients whom the run has not seen are "
            f"{option}."
        )
    if unseen is None and not held_out:
        raise RunError(
            "there are no patients whom the run has not seen: give real cases of such patients, "
            f"of the same hospitals, with {option} FOLDER, or train with --set "
            "training.hold_out=0.2."
        )
    if held_out:
        sites.check_patterns()
        choosers_of(sites.run, sites.data, sites.states)


def load_real(
    sites: Mapping[str, DataSet],
    test: DataSet | None,
    recipe: Recipe,
    *,
    modalities: Sequence[str],
    labels: Mapping[str, str],
    incomplete: bool = False,
    participation: Participation | None = None,
) -> tuple[dict[str, list[Case]], list[Case]]:
    """Loads the sites' training cases and the cases to judge on.

    Those are of `test`, or the patients whom the sites hold out, who are excluded from the training
    cases in any case. All slices of volumes are judged. Modalities that a site lacks are blank in
    its cases. Without `participation` everybody can compute whom the sites hold out.

    Returns:
        The training cases, by the site's name, and the cases to judge on.

    Raises:
        DataError: a folder cannot be read, a case has no mask, or labels contradict each other.
        RunError: a patient or an image is both in a site and in the test set, a folder has none of
            the modalities, or a site has another number of cases than it had.
    """

    def cases(data: DataSet, image: ImageSection) -> list[Case]:
        data.check_labels(labels)
        held = [name for name in modalities if name in data.info.modalities]
        if not held:
            raise RunError(
                f"{data.folder} has {', '.join(data.info.modalities)}, and nothing of what is "
                f"judged on: {', '.join(modalities)}. Leave it out."
            )
        found = data.cases(image, held, unmasked=False, incomplete=incomplete)
        return [widened(case, modalities) for case in found]

    took_part = participation or Participation()
    # All slices are judged: selecting those with a label would use the truth to be predicted.
    whole = recipe.image.model_copy(update={"slices": "all"})
    # First, so that what is trained on is taken from what was read.
    judged_in = sites if test is None else {}
    all_slices = {name: cases(data, whole) for name, data in judged_in.items()}
    every = {name: cases(data, recipe.image) for name, data in sites.items()}
    trained = {**every, **took_part.trained}
    for site, own in trained.items():
        if took_part.had.get(site, len(own)) != len(own):
            raise RunError(
                f"site {site} trained with {counted(took_part.had[site], 'case')}, and here are "
                f"{counted(len(own), 'case')}. Give --site the folder that it trained with."
            )
    unseen = _unseen(recipe, trained, took_part)
    real = {
        name: [case for case in own if f"{name}/{case.patient}" not in unseen]
        for name, own in every.items()
    }
    if test is None:
        owned = [
            (f"{name}/{case.patient}", case) for name in all_slices for case in all_slices[name]
        ]
        return real, [replace(case, patient=owner) for owner, case in owned if owner in unseen]
    judged = cases(test, whole)
    _check_patients(real, judged)
    return real, judged


def _unseen(
    recipe: Recipe, trained: Mapping[str, Sequence[Case]], took_part: Participation
) -> set[str]:
    """The patients whom sites held out, as `site/patient`."""
    if not recipe.training.hold_out:
        return set()
    unseen = {
        f"{site}/{case.patient}"
        for site, cases in trained.items()
        for case in held_out_by(recipe, cases, took_part.choosers.get(site, OPEN))[1]
    }
    if not unseen:
        raise DataError(
            "no site has a patient to spare, so none can be held out: each has one, or needs all "
            "for a modality that few of them have. Judge on test patients."
        )
    return unseen


def shared_by_all(modalities: Sequence[str], sets: Sequence[DataSet]) -> list[str]:
    """The modalities that all of these sets have, in this order; raises `RunError` if none."""
    held = [data.info.modalities for data in sets]
    shared = [name for name in modalities if all(name in own for own in held)]
    if not shared:
        names = ", ".join(str(data.folder) for data in sets)
        raise RunError(
            f"no modality of the run ({', '.join(modalities)}) is in "
            f"{f'all of {names}' if len(sets) > 1 else names}. Leave out who has others, or "
            "name another folder."
        )
    return shared


def _check_patients(sites: Mapping[str, Sequence[Case]], test: Sequence[Case]) -> None:
    unseen = {case.patient for case in test}
    pictures = {picture_of(case.preparation) for case in test} - {""}
    for site, cases in sites.items():
        if shared := shared_patients({case.patient for case in cases}, unseen):
            raise RunError(
                f"of site {site}'s patients {len(shared)} are in the test set as well. Take them "
                "out of one of the two ('asyndgan check SITE --test TEST' names them); if the "
                "names only look alike, say with patient_pattern in dataset.json what a patient is."
            )
        if copies := sum(picture_of(case.preparation) in pictures for case in cases):
            raise RunError(
                f"{counted(copies, 'image')} of site {site} are in the test set as well, under "
                "other names. Take them out of one of the two: 'asyndgan check SITE --test TEST' "
                "names them."
            )
