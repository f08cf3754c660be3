"""Real cases of sites and of unseen patients, loaded on a run's grid."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from asyndgan.data import Case
from asyndgan.data.description import check_labels, describe
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.data.prepare import load_cases, widened
from asyndgan.data.splits import Chooser, hold_out
from asyndgan.errors import RunError
from asyndgan.recipe import ImageSection, Recipe
from asyndgan.texts import counted


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
        return loaded(
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


def loaded(
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


def _check_cases(had: Mapping[str, int], sites: Mapping[str, Sequence[Case]]) -> None:
    """Refuses data that a site of the run did not have."""
    for site, cases in sites.items():
        if had.get(site, len(cases)) != len(cases):
            raise RunError(
                f"site {site} trained with {counted(had[site], 'case')}, and here are "
                f"{counted(len(cases), 'case')}. Give --site the folder that it trained with; data "
                "that the run has not seen get a name of their own, or are --test."
            )


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
