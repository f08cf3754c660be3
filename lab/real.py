"""The real cases of a suite's set, by which its models are trained and judged."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

import torch

from asyndgan.arrays import Mask
from asyndgan.errors import RecipeError
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.nnunet import read_arrays, slices_of
from asyndgan.intake.patients import found_in
from asyndgan.judging.real import load_real, shared_by_all
from asyndgan.painting.fading import Fading
from asyndgan.recipe import ImageSection
from asyndgan.store import Case
from asyndgan.store.geometry import AXES
from asyndgan.store.prepare import prepare
from lab.levelling import held_out
from lab.suite import SetSection, Suite


@final
class Real:
    """The real cases of one set, with the labels and modalities that they share.

    Attributes:
        part: the set's section of the suite.
        fold: the fold whose patients are judged; 0 if there are no folds.
        labels: value of each label by name, over all sites.
        modalities: modalities that all sites and the test set hold.
        sites: training cases of each site.
        judged: cases of the test or validation patients.
        incomplete: cases for completion, with the acquired modality included; of the first fold.
    """

    def __init__(self, suite: Suite, part: SetSection, data: Path, fold: int = 0) -> None:
        self.part = part
        self.fold = fold
        recipe = suite.recipe(part, suite.models[0], 0, fold)
        opened = {
            name: DataSet(data / part.folder / name)
            for name in (*part.sites, *([part.test] if suite.judged_on == "test" else []))
        }
        sites = {name: opened[name] for name in part.sites}
        test = None if suite.judged_on == "validation" else opened[part.test]
        every = list(opened.values())
        self.labels = {name: value for one in every for name, value in one.info.labels.items()}
        fading = Fading.of(part.faded, self.labels)
        for name in (part.label, *part.further_labels):
            if not self.labels.get(name):
                judged = (known for known, value in self.labels.items() if value)
                raise RecipeError(
                    f"set {part.name}: there is no label '{name}' to be judged by; there are "
                    f"{', '.join(judged)}."
                )
        if test:
            _check_apart(part, test)
        held = recipe.image.modalities or every[0].info.modalities
        self.modalities = shared_by_all(held, every)
        self.sites, self.judged = load_real(
            sites,
            test,
            recipe,
            modalities=self.modalities,
            labels={str(value): name for name, value in self.labels.items()},
        )
        _check_rest(part, fading, [case.mask for own in self.sites.values() for case in own])
        if suite.check_budget and not fold:
            held_out(self.sites)  # raises now if no site has two patients
        self.incomplete: list[Case] = []
        if part.completion and not fold:  # the first fold alone completes cases
            self.incomplete = _with_truth(part, data, recipe.image, self.modalities)
            unseen = {case.patient for case in self.incomplete}
            if unseen & {case.patient for own in self.sites.values() for case in own}:
                raise RecipeError(
                    f"set {part.name}: a patient of {part.completion.folder} is at a site as well."
                )

    @property
    def patients(self) -> tuple[str, ...]:
        """The judged patients; held-out ones as `site/patient`."""
        return tuple(dict.fromkeys(case.patient for case in self.judged))


def groups_of(part: SetSection, patients: tuple[str, ...]) -> dict[str, list[int]]:
    """Positions, among a set's judged patients, of each group that is reported apart."""
    patterns = part.apart
    if part.by_site:
        patterns = {f"of {site}": re.escape(site) + "/.*" for site in part.sites}
    return {
        heading: [
            place
            for place, found in enumerate(found_in(rf"(?:{pattern})\Z", patients))
            if found is not None
        ]
        for heading, pattern in patterns.items()
    }


def _check_rest(part: SetSection, fading: Fading, masks: Sequence[Mask]) -> None:
    """Refuses fading where no generator learns what an image without the labels looks like."""
    if not fading.labels:
        return
    keep = torch.tensor([0, *fading.labels])
    alone = sum(bool(torch.isin(mask, keep).all()) for mask in masks)
    if 2 * alone > len(masks) and all(mask.any() for mask in masks):
        raise RecipeError(
            f"set {part.name}: most masks hold nothing but {' and '.join(part.faded)}, and none is "
            "empty, so no generator learns what an image without them looks like. Leave out faded."
        )


def _with_truth(
    part: SetSection, data: Path, image: ImageSection, modalities: Sequence[str]
) -> list[Case]:
    """Cases whose data set lacks a modality, with the acquired images of it added."""
    section = part.completion
    if section is None:
        return []
    lacking = DataSet(data / part.folder / section.folder)
    info, truth = lacking.info, lacking.folder / section.truth
    if not truth.is_dir():
        raise RecipeError(
            f"set {part.name}: there is no folder {truth} with the real {section.modality} of the "
            "cases to complete. Name the one that there is in completion.truth."
        )
    cases = []
    for files in lacking.files:
        wanted = re.compile(re.escape(files.name) + r"_\d{4}" + re.escape(info.file_ending))
        found = [p for p in truth.iterdir() if wanted.fullmatch(p.name)]
        if len(found) != 1:
            raise RecipeError(
                f"set {part.name}: there is no truth of case {files.name}, or more than one file."
            )
        both = replace(info, modalities=(*info.modalities, section.modality))
        whole = replace(files, images={**files.images, len(info.modalities): found[0]})
        source, channels, mask = read_arrays(whole, both)
        assert source
        patient = lacking.patients[files.name]
        read = slices_of(source, patient, channels, mask, AXES[image.axis])
        cases += [prepare(raw, image, modalities) for raw in read]
    return cases


def _check_apart(part: SetSection, test: DataSet) -> None:
    names = tuple(test.patients.values())
    for pattern in part.apart.values():
        if set(found_in(rf"(?:{pattern})\Z", names)) == {None}:
            raise RecipeError(f"set {part.name}: no test patient's name matches '{pattern}'.")
