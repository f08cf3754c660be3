"""Compares data sets that are to be trained on together, and judged on, within one party."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from asyndgan.intake.check import CheckReport, tested_as_well
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.patients import shared_patients
from asyndgan.intake.readers import DataFileError
from asyndgan.recipe import ImageSection, Recipe
from asyndgan.store.enrolment import unheld
from asyndgan.store.survey import Survey
from asyndgan.texts import named_alike


def compare_folders(reports: Sequence[CheckReport]) -> tuple[DataFileError, ...]:
    """Finds labels and modalities that contradict between data sets, and patients at two sites.

    Names that only capitals, spaces, dots or dashes tell apart contradict, too.
    """
    faults: list[DataFileError] = []
    for place, report in enumerate(reports):
        for here, there in (*named_alike(report.modalities), *named_alike(report.labels)):
            faults.append(
                DataFileError(
                    report.folder / "dataset.json",
                    f"names '{here}' and '{there}', which are too much alike",
                    "Give one thing one name, and name different ones more clearly.",
                )
            )
        for other in reports[:place]:
            faults += _contradictions(report, other)
            for patient in shared_patients(report.patients, other.patients):
                faults.append(
                    DataFileError(
                        report.patients[patient],
                        f"is of a patient who is at {other.folder} as well",
                        "Keep each patient at one site, and lower numTraining at the other; if two "
                        "people share the name, rename one.",
                    )
                )
    return tuple(faults)


def same_pictures(reports: Sequence[CheckReport]) -> tuple[DataFileError, ...]:
    """Finds pictures, as a recipe prepares them, that are in two folders under any names."""
    faults: list[DataFileError] = []
    seen: dict[str, CheckReport] = {}
    for report in reports:
        for name, volume in report.survey.volumes.items():
            other = seen.setdefault(volume.digest, report) if volume.digest else report
            if other is not report and not shared_patients([volume.patient], other.patients):
                faults.append(
                    DataFileError(
                        report.files[name],
                        f"is a picture of {other.folder} as well, under another name",
                        "Keep it in one of them, and lower numTraining in the other, or results "
                        "will look better than they are.",
                    )
                )
    return tuple(faults)


def check_apart(folders: Sequence[Path], image: ImageSection) -> None:
    """Refuses folders to train on that hold patients or pictures of each other, or of their tests.

    Raises `DataError` as `compare_folders`, `same_pictures` and `tested_as_well`, or if a folder
    cannot be read.
    """
    reports: list[CheckReport] = []
    faults: list[DataFileError] = []
    for data in map(DataSet, folders):
        files = {case.name: next(iter(case.images.values())) for case in data.files}
        patients = {data.patients[name]: file for name, file in files.items()}
        faults += tested_as_well(data.folder, patients)
        survey = Survey.of(data.cases(image, incomplete=True) if len(folders) > 1 else (), image)
        reports.append(CheckReport(data.folder, patients=patients, files=files, survey=survey))
    for fault in (*faults, *compare_folders(reports), *same_pictures(reports)):
        raise fault


def unheld_modalities(reports: Sequence[CheckReport], recipe: Recipe) -> tuple[DataFileError, ...]:
    """Finds modalities that a recipe names and no folder holds, for which training ends.

    Where further sites come later (`timeline`), they may hold them.
    """
    held = {name for report in reports for name in report.modalities}
    if recipe.timeline or not held or recipe.image.source == "masks":
        return ()
    return tuple(
        DataFileError(
            report.folder / "dataset.json",
            f"{key} of the recipe names {name}, and the folders hold {', '.join(sorted(held))}",
            "Name it as the folders do, or leave it out.",
        )
        for key, names in unheld(recipe.image, held).items()
        for name in names
        for report in reports
    )


def notes_between(reports: Sequence[CheckReport], *, told: int = 0) -> Iterator[str]:
    """What differs between data sets that are to be trained on together, and need not be wrong.

    A plan's notes have compared the first `told` data sets. Of them only those are named that lack
    what none of them has.
    """
    held = set[int]().union(*(report.survey.labels for report in reports))
    named = {number: name for report in reports for name, number in report.labels.items()}
    lacking = [f"{n} '{name}'" for n, name in sorted(named.items()) if n and n not in held]
    if lacking and held and not any(report.faults for report in reports):
        yield (
            f"no case holds label {', '.join(lacking)}, which dataset.json names: the generator "
            "cannot learn it. Take it out there, or check the masks"
        )
    for kind, of in (("modality", "modalities"), ("label", "labels")):
        for name in dict.fromkeys(name for report in reports for name in getattr(report, of)):
            known = any(name in getattr(one, of) for one in reports[:told])
            after = reports[told:] if known else reports
            others = [str(one.folder) for one in after if name not in getattr(one, of)]
            if others:
                yield (
                    f"{kind} '{name}' is not named in {', '.join(others)}: the generator learns "
                    "it from the other folders alone"
                )


def _contradictions(report: CheckReport, other: CheckReport) -> Iterator[DataFileError]:
    file = report.folder / "dataset.json"
    said = []
    for kind, own, theirs in (
        ("modality", report.modalities, other.modalities),
        ("label", report.labels, other.labels),
    ):
        alike = (
            (here, there) for here, there in product(own, theirs) if named_alike([here, there])
        )
        said += [(kind, f"{kind} '{here}' here is '{there}'") for here, there in alike]
    other_names = {number: name for name, number in other.labels.items()}
    for name, number in report.labels.items():
        if other.labels.get(name, number) != number:
            said.append(("label", f"label '{name}' is {number} here and {other.labels[name]}"))
        if other_names.get(number, name) != name:
            said.append(("label", f"label {number} is '{name}' here and '{other_names[number]}'"))
    remedies = {
        "modality": "Names are matched to the letter: name one modality alike everywhere.",
        "label": "Labels match by name and number: give both folders the same, or remap masks.",
    }
    for kind, text in said:
        yield DataFileError(file, f"{text} in {other.folder}", remedies[kind])
