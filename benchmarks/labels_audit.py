"""Whether the labels that sites give tell who took part, by asking them for patients' own images.

    python benchmarks/labels_audit.py --data DATA --runs RUNS --out OUT [--document FILE]

A coordinator that has images of a patient asks a site to label them (`Label`), as it would
synthetic ones. The more certain the site's network is, the likelier it has learned from this
patient; with the patient's mask, the better the labels agree with it. A site's network learns from
one half of its patients, drawn by chance; the other half are those who took no part. Then the
halves change places. Of RUNS, the generators of the suite `search-generators` on hippocampi, only
the recipe is used.
"""

import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asyndgan.auditing.distances import by_patient
from asyndgan.auditing.membership import attack
from asyndgan.data import Case, Cohort
from asyndgan.data.dataset import DataSet
from asyndgan.privacy import SIMULATION
from asyndgan.protocol import Endpoint, message_limit
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.training import Site
from asyndgan.training.labelling import MOST_IMAGES
from asyndgan.wire import ANSWERS, Label, Labelled, pack, unpack
from common import arguments, emptied, markdown, publish

SITES = ("site_1", "site_2", "site_3")
Told = dict[str, tuple[list[float], list[float]]]


def answers(endpoint: Endpoint, recipe: Recipe, cases: Sequence[Case]) -> Tensor:
    """Probabilities of each label of each case, (n, labels, *space)."""
    found = []
    for start in range(0, len(cases), MOST_IMAGES):
        images = torch.stack([case.image for case in cases[start : start + MOST_IMAGES]])
        request = Label(run="1f", recipe=recipe.digest(), images=images)
        payload = endpoint.answer(pack(request, {"images": recipe.wire.images}))
        answer = unpack(payload, ANSWERS, limit=message_limit(recipe))
        assert isinstance(answer, Labelled), answer
        found.append((answer.probabilities + 1) / 2)
    return torch.cat(found)


def scores(told: Tensor, cases: Sequence[Case]) -> dict[str, Tensor]:
    """How certain the labels of each case are, and how well they agree with its mask."""
    masks = torch.stack([case.mask for case in cases])
    agreeing = told.gather(1, masks[:, None])[:, 0]
    right = (told.argmax(1) == masks).float()
    by_case = {
        "images": told.max(1).values,
        "images and masks": agreeing.clamp(min=1 / 512).log(),
        "images and masks, labels alone": right,
    }
    return {way: values.flatten(1).mean(1) for way, values in by_case.items()}


def asked(site: str, cases: Sequence[Case], members: set[str], recipe: Recipe, books: Path) -> Told:
    """Standardised scores of members and of others, by what the coordinator knows of them."""
    half = [case for case in cases if case.patient in members]
    labels = {"background": 0, "Anterior": 1, "Posterior": 2}
    cohort = Cohort.from_cases(half, labels=labels, move=recipe.training.move)
    endpoint = Endpoint(
        Site(site, cohort, recipe, folder=books, policy=SIMULATION), limit=message_limit(recipe)
    )
    with closing(endpoint):
        told = scores(answers(endpoint, recipe, cases), cases)
    found = {}
    for way, values in told.items():
        of_patients = {name: float(one) for name, one in by_patient(cases, values).items()}
        every = np.array([*of_patients.values()])
        groups: tuple[list[float], list[float]] = ([], [])
        for name, value in of_patients.items():
            groups[name not in members].append((value - every.mean()) / every.std())
        found[way] = groups
    return found


def main() -> None:
    """Asks every site about every patient of its own, and writes the table."""
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the generators' runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = RunFolder(options.runs / "topdown-0").recipe()
    books, rows = emptied(options.out), []
    for site in SITES:
        data = DataSet(options.data / "hippocampus_3d" / site)
        cases = data.cases(recipe.image)
        patients = sorted({case.patient for case in cases})
        random.Random(0).shuffle(patients)
        first = set(patients[::2])
        both = [
            asked(site, cases, members, recipe, books / f"{site}-{number}")
            for number, members in enumerate((first, set(patients) - first))
        ]
        for way in both[0]:
            taken, left = (
                np.array([value for told in both for value in told[way][group]]) for group in (0, 1)
            )
            result = attack(way, taken, left)
            auc = f"{result.auc:.2f} ({result.low:.2f} to {result.high:.2f})"
            rows.append([site, str(len(first)), way, auc])
    heading = ["site", "patients that it learned from", "what the coordinator has", "AUC"]
    publish(markdown(heading, rows), "labels-audit", options.document)


if __name__ == "__main__":
    main()
