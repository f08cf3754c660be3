"""Membership inference on real data: can patients who took part be told from others?

    python -m lab.experiments.membership --data DATA --out OUT [--document FILE]
    python -m lab.experiments.membership --data DATA --out OUT --sets NAME --runs RUN ...

For each set, recipe and split, a random half of every site's patients (or pictures, if cases have
no patient) trains a generator at 64 pixels; then three attacks score all patients. The synthetic
set is painted from the masks of both halves, so that only the images can reveal membership.

Two further attacks need a patient's images. `asked` is a coordinator that sends each of them to the
site as if it were synthetic and reads the site's loss (`asked, without losses`: the length of the
feedback, which is what remains under a policy with `leaves.losses = false`; `asked, with
discriminators' losses`: what `leaves.discriminator_losses` adds), once and, where it takes more
than that to tell, as the mean over eight shifted copies (`default` and `one network`).
`discriminator` has the site's final discriminator and shows it sixteen shifted copies;
`segmentation` asks it how well it finds their masks in them, if it segments.

`no generator` is the floor, without any training: it scores each patient by how near his images are
to the average image of all members, or of his site's. Even such a statistic is nearer to members
than to others (Homer et al. 2008), unless it is differentially private.

There are five splits, fewer for other recipes than `default`. A patient's score in splits that
include the patient is compared with the same patient's score in the others, so that easy cases do
not look like members; of a single split members are compared with others. Patients are the unit of
the test and of the interval.

With `--runs`, the same attacks try finished trainings on one set, as `python -m lab` leaves
them in OUT/runs. They held the same patients out, or (a suite with `folds`) everybody once. At most
four cases of a patient are attacked. Of a run that learned masks, the site is asked about masks.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from scipy.stats import mannwhitneyu, rankdata, wilcoxon

from asyndgan.auditing.membership import patient_scores
from asyndgan.auditing.reconstruction import asked_again
from asyndgan.engines import SiteSetup
from asyndgan.intake.dataset import DataSet
from asyndgan.judging.metrics import area_under_curve
from asyndgan.judging.real import load_real
from asyndgan.models.shifts import disturbed
from asyndgan.painting.sets import masks_of, painting_of
from asyndgan.privacy.accounting import Account, epsilon_of
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder, load_recipe
from asyndgan.store import Batch, Case
from asyndgan.store.prepare import masks_as_images
from asyndgan.store.splits import held_out_by
from asyndgan.training import checkpoint
from asyndgan.training.objective import Objective
from lab.experiments.common import (
    DELTA,
    arguments,
    digest_of,
    markdown,
    noise_for,
    publish,
    remembered,
    sites_of,
    trained,
)

SPLITS = 5
FEWER = {
    "one network": 3, "shown": 3, "shift": 3, "move": 3, "paper": 1, "overfitted": 1, "private": 1,
}  # fmt: skip
"""Number of splits of the models that stand beside `default`."""
EPSILON = 8.0
"""Largest epsilon of `private`, at the smallest site; larger sites spend less."""
EVERYWHERE = (
    "image.size=64", "training.precision=bfloat16", "training.hold_out=0.5", "masks.source=own",
    "training.checkpoint_every=50",
)  # fmt: skip
SHORT = ("training.steps=600",)
ONE = "discriminator.cross_fitted=false"
SHOWN = ("discriminator.kind=patch", "loss.segmentation=0", ONE)
"""Discriminators that are shown the mask and do not segment, one at each site."""
UNMOVED = "training.move=false"
UNSHIFTED = "discriminator.augment=[]"
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "default": ("default", SHORT),
    "one network": ("default", (*SHORT, ONE)),
    "plain": ("default", (*SHORT, *SHOWN, UNMOVED, UNSHIFTED)),
    "shift": ("default", (*SHORT, *SHOWN, UNMOVED)),
    "move": ("default", (*SHORT, *SHOWN, UNSHIFTED)),
    "shown": ("default", (*SHORT, *SHOWN)),
    "paper": ("paper", ("training.steps=300",)),
    "overfitted": (
        "default",
        (
            "training.steps=1500", "training.hold_out=0.8", "training.flip=false",
            "loss.paired_l1=100", *SHOWN, UNMOVED, UNSHIFTED,
        ),
    ),
    "private": (
        "default",
        (
            "training.steps=150", "training.precision=float32", *SHOWN, "privacy.patients=6",
            "privacy.kind=discriminator", "privacy.conditions=unprotected",
        ),
    ),
}  # fmt: skip
VARIANTS = ("one network", "plain", "shift", "move", "shown")
"""Models that show which part of `default` keeps patients from being told; a table of their own."""
VERSION = 2
"""Goes up when an attack changes, so that no stored score of the earlier one is taken."""
QUESTIONS = {"default": 8, "one network": 8}
"""Number of questions about an image, where it is more than one."""
LOOKS = 16
MOST = 4
"""Cases with a label of a patient that are attacked in a finished training."""
ASKED = ("asked", "asked, without losses", "asked, with discriminators' losses")
EIGHT = tuple(f"{name}, eight times" for name in ASKED)
ATTACKS = ("painting", "nearest", "density", *ASKED, *EIGHT, "discriminator", "segmentation")
Scores = dict[str, dict[str, float]]
HEADING = ["set", "recipe", "attack", "splits", "AUC", "95 % interval", "p", "patients", "verdict"]
ABOUT = (
    "Intervals from a bootstrap over patients; p of a signed-rank test, of a single split of a "
    "rank-sum test; an area below 0.5 tells as much to whoever knows that it is below."
)


def recipe_of(name: str, split: int, sites: dict[str, Path]) -> Recipe:
    """A model's recipe for one split; if private, no site spends more than `EPSILON`."""
    recipe, overrides = MODELS[name]
    own = [*EVERYWHERE, *overrides, f"training.hold_out_seed={split}", f"training.seed={split}"]
    found = load_recipe(recipe, own)
    if found.privacy.kind == "none":
        return found
    members = [
        len({case.patient for case in held_out_by(found, DataSet(data).cases(found.image))[0]})
        for data in sites.values()
    ]
    rate = min(1.0, found.privacy.patients / min(members))
    # Every question makes the site learn once more and is charged.
    most = max(len(DataSet(data).cases(found.image)) for data in sites.values())
    noise = noise_for(EPSILON, rate, (found.training.steps + most) * found.privacy.updates)
    return load_recipe(recipe, [*own, f"privacy.noise={noise:.3f}"])


def trained_and_attacked(
    recipe: Recipe, sites: dict[str, Path], out: Path, questions: int
) -> dict[str, object]:
    """Scores of members and others by attack."""
    run = trained(recipe, sites, out)
    if recipe.privacy.kind != "none":
        for site in sites:
            books = Account(out / "sites" / site / "privacy.json", None, epsilon=None, delta=DELTA)
            assert 0 < epsilon_of(books.spent, DELTA) <= EPSILON * 1.01, site
    return attacked(run, sites, questions)


def attacked(
    run: RunFolder, sites: dict[str, Path], questions: int, most: int | None = None
) -> dict[str, object]:
    """Scores of members and others by attack, of at most so many cases of a patient."""
    facts, learns_masks = run.facts(), run.recipe().image.source == "masks"
    opened = {name: DataSet(folder) for name, folder in sites.items()}
    if learns_masks:
        members, others = masks_of_patients(run.recipe(), opened)
    else:
        real, others = load_real(
            opened, None, run.recipe(), modalities=facts.scope.modalities, labels=facts.labels
        )
        members = [
            replace(case, patient=f"{site}/{case.patient}")  # named like the held-out patients
            for site, cases in real.items()
            for case in cases
        ]
    if most is not None:
        members, others = few_of(members, most), few_of(others, most)
    everybody = [*members, *others]
    scores: dict[str, dict[str, float]] = {}
    if not learns_masks:
        painted = list(painting_of(run, masks_of({"both": everybody}), moved=1))
        scores = patient_scores(run, everybody, painted)
    for site, data in sites.items():
        own = [case for case in everybody if case.patient.startswith(f"{site}/")]
        found = by_asking(run, site, data, own, questions)
        found |= by_discriminator(run, site, own)
        for name, of_cases in found.items():
            scores.setdefault(name, {}).update(ranks(own, of_cases))
    return {"members": sorted({case.patient for case in members}), "scores": scores}


def masks_of_patients(recipe: Recipe, opened: dict[str, DataSet]) -> tuple[list[Case], list[Case]]:
    """Masks as images of members and of held-out patients, whose names begin with the site's."""
    groups: tuple[list[Case], list[Case]] = ([], [])
    for site, data in opened.items():
        cases = masks_as_images(data.cases(recipe.image), data.info.labels)
        for group, found in zip(groups, held_out_by(recipe, cases), strict=True):
            group += [replace(case, patient=f"{site}/{case.patient}") for case in found]
    return groups


def few_of(cases: list[Case], most: int) -> list[Case]:
    """At most so many cases with a label of each patient, some apart if there are many."""
    of: dict[str, list[Case]] = {}
    for case in cases:
        if bool(case.mask.any()):
            of.setdefault(case.patient, []).append(case)
    return [each for own in of.values() for each in own[:: max(1, len(own) // most)][:most]]


def averaged(recipe: Recipe, sites: dict[str, Path]) -> dict[str, Any]:
    """Scores of members and others by how near their images are to members' average image."""
    members: set[str] = set()
    images: dict[str, list[torch.Tensor]] = {}
    of_sites: dict[str, torch.Tensor] = {}
    seen: list[torch.Tensor] = []
    for site, data in sites.items():
        groups = held_out_by(recipe, DataSet(data).cases(recipe.image))
        for case in (case for group in groups for case in group):
            images.setdefault(f"{site}/{case.patient}", []).append(case.image)
        members |= {f"{site}/{case.patient}" for case in groups[0]}
        own = [case.image for case in groups[0]]
        of_sites[site] = torch.stack(own).mean(0)
        seen += own
    average = torch.stack(seen).mean(0)

    def near(mean_of: Callable[[str], torch.Tensor]) -> dict[str, float]:
        return {
            patient: -float((torch.stack(own) - mean_of(patient)).abs().mean())
            for patient, own in images.items()
        }

    return {
        "members": sorted(members),
        "scores": {
            "average": near(lambda _: average),
            "average of the site": near(lambda patient: of_sites[patient.partition("/")[0]]),
        },
    }


def copies(case: Case, number: int, seed: int) -> Batch:
    """A batch of copies of a case: the first unchanged, the others shifted at random."""
    random = torch.Generator().manual_seed(seed)
    images, masks = torch.stack([case.image] * number), torch.stack([case.mask] * number)
    shifted, maps = disturbed(images, masks[:, None].float(), ("shift",), random)
    images[1:], masks[1:] = shifted[1:], maps[1:, 0].long()
    return Batch(images, masks)


def by_asking(
    run: RunFolder, site: str, data: Path, cases: list[Case], questions: int
) -> dict[str, list[float]]:
    """Scores each case by how real the site finds it when it is sent as a synthetic image.

    The site judges the images with masks of its own choice, after an update of its discriminator
    that treats them as synthetic.
    """
    recipe = run.recipe()
    size = recipe.training.batch
    found: dict[str, list[float]] = {}
    setup = SiteSetup(site, data, run.site_state(site))
    with asked_again(run, recipe, setup, late=True) as (_, ask):
        for number, case in enumerate(cases):
            shown = copies(case, questions, number).images
            answers = [ask.judged(torch.stack([image] * size)) for image in shown]
            said = (
                [-answer.losses["adversarial"] for answer in answers],
                [-float(answer.feedback.norm()) for answer in answers],
                # What a discriminator takes for real makes its loss on synthetic images larger.
                [own_loss(answer.losses) for answer in answers],
            )
            for name, more, values in zip(ASKED, EIGHT, said, strict=True):
                found.setdefault(name, []).append(values[0])
                if questions > 1:
                    found.setdefault(more, []).append(float(np.mean(values)))
    return found


def own_loss(losses: dict[str, float]) -> float:
    """A discriminator's loss; under differential privacy only that on synthetic images is sent."""
    return losses.get("discriminator", losses.get("discriminator_synthetic", 0.0))


def by_discriminator(run: RunFolder, site: str, cases: list[Case]) -> dict[str, list[float]]:
    """Scores each case by the log-odds of the site's discriminator (LOGAN, Hayes et al. 2019).

    And by how well it finds the case's mask, if it segments.
    """
    facts, recipe = run.facts(), run.recipe()
    seeing = recipe.discriminator.model_copy(update={"augment": ()})  # attackers do not augment
    objective = Objective(
        recipe.model_copy(update={"discriminator": seeing}),
        modalities=len(facts.scope.modalities),
        labels=max(facts.scope.labels) + 1,
        space=facts.scope.space,
        seed=0,
    )
    place = checkpoint.place_of(run.site_state(site), facts.run)
    newest = checkpoint.step_file(place, facts.steps)
    objective.load(checkpoint.read(newest)[0])
    found: dict[str, list[float]] = {}
    with torch.no_grad():
        for number, case in enumerate(cases):
            shown = copies(case, LOOKS, number)
            said, maps = objective.judged(shown.images, objective.maps(shown.conditions))
            if said.score is not None:
                found.setdefault("discriminator", []).append(float(said.score.mean()))
            for name, _, value in objective.wanted(said, maps):
                if name == "segmentation":
                    found.setdefault(name, []).append(-float(value))
    return found


def ranks(cases: list[Case], scores: list[float]) -> dict[str, float]:
    """Ranks of one site's patients: scores of different discriminators are not comparable."""
    found: dict[str, list[float]] = {}
    for case, score in zip(cases, scores, strict=True):
        found.setdefault(case.patient, []).append(score)
    ranked = rankdata([np.mean(own) for own in found.values()]) / len(found)
    return dict(zip(found, ranked.tolist(), strict=True))


def auc(scores: dict[str, float], members: set[str], times: dict[str, int]) -> float:
    """Area under the ROC curve, each patient counted `times` times; nan if a group is empty."""
    groups: tuple[list[float], list[float]] = ([], [])
    for patient, score in scores.items():
        groups[patient not in members].extend([score] * times.get(patient, 0))
    if not groups[0] or not groups[1]:
        return float("nan")
    return area_under_curve(np.array(groups[0]), np.array(groups[1]))


def judged(splits: list[dict], attack: str) -> list[object]:
    """Cells of a row: mean area under the curve, interval, p-value, patients, verdict."""
    runs = [(each["scores"][attack], set(each["members"])) for each in splits]
    patients = sorted({patient for scores, _ in runs for patient in scores})
    once = dict.fromkeys(patients, 1)
    mean = float(np.mean([auc(scores, members, once) for scores, members in runs]))
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(500):
        names, counts = np.unique(random.choice(patients, len(patients)), return_counts=True)
        times = dict(zip(names.tolist(), counts.tolist(), strict=True))
        drawn.append(np.nanmean([auc(scores, members, times) for scores, members in runs]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    inside: dict[str, list[float]] = {}
    outside: dict[str, list[float]] = {}
    for scores, members in runs:
        ranks = rankdata(list(scores.values())) / len(scores)
        for patient, rank in zip(scores, ranks.tolist(), strict=True):
            (inside if patient in members else outside).setdefault(patient, []).append(rank)
    gains = [fmean(inside[p]) - fmean(outside[p]) for p in patients
             if p in inside and p in outside]  # fmt: skip
    if gains:
        p = float(wilcoxon(gains, alternative="greater").pvalue)
    else:  # all trainings have the same members
        took_part, others = ([fmean(own) for own in each.values()] for each in (inside, outside))
        p = float(mannwhitneyu(took_part, others, alternative="greater").pvalue)
    verdict = "**told**" if p < 0.05 else "no sign"
    shown = f"{p:.3f}" if p >= 0.001 else "< 0.001"
    return [f"{mean:.3f}", f"{low:.3f} to {high:.3f}", shown, len(patients), verdict]


def main() -> None:
    """Runs the missing trainings and attacks, then prints and writes the table."""
    parser = arguments(__doc__)
    parser.add_argument("--sets", nargs="+", default=["lgg_mri", "dsb2018_fluo"])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--runs", type=Path, nargs="+", help="finished trainings on the one set")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.runs:
        if len(asked.sets) != 1:
            parser.error("name the one set of --runs by --sets")
        attack_finished(asked, asked.sets[0])
        return
    entries: dict[str, dict] = {}
    of = {model: range(min(FEWER.get(model, SPLITS), asked.splits)) for model in asked.models}
    for split in range(asked.splits):
        for part in asked.sets:
            for model in (model for model in asked.models if split in of[model]):
                sites = sites_of(asked.data, part)
                name = f"{part}-{model}-{split}"
                recipe, questions = recipe_of(model, split, sites), QUESTIONS.get(model, 1)
                entries[name] = remembered(
                    asked.out / "scores.json",
                    name,
                    partial(trained_and_attacked, recipe, sites, asked.out / name, questions),
                    of=[recipe.digest(), VERSION, [digest_of(data) for data in sites.values()]],
                )
    tables: dict[str, list[list[object]]] = {"membership": [], "membership-variants": []}
    for part in asked.sets:
        sites = sites_of(asked.data, part)
        floor = [
            averaged(recipe_of("default", split, sites), sites)
            for split in range(min(SPLITS, asked.splits))
        ]
        tables["membership"] += [
            [part, "no generator", name, len(floor), *judged(floor, name)]
            for name in floor[0]["scores"]
        ]
        for model in asked.models:
            splits = [entries[f"{part}-{model}-{split}"] for split in of[model]]
            tables["membership-variants" if model in VARIANTS else "membership"] += [
                [part, model, attack, len(splits), *judged(splits, attack)]
                for attack in ATTACKS
                if attack in splits[0]["scores"]
            ]
    private = (
        f" `private`: epsilon {EPSILON:g} at most, questions included, delta {DELTA:g}, masks "
        "unprotected."
    )
    for block, rows in tables.items():
        if any((model in VARIANTS) == (block == "membership-variants") for model in asked.models):
            text = ABOUT + (private if any(row[1] == "private" for row in rows) else "")
            publish(f"{text}\n\n{markdown(HEADING, rows)}", block, asked.document)


def attack_finished(asked: argparse.Namespace, part: str) -> None:
    """Attacks finished trainings on a set, then prints and writes the table."""
    splits: list[dict] = []
    for path in asked.runs:
        run = RunFolder(path)
        sites = {site: asked.data / part / site for site in run.facts().sites}
        splits.append(
            remembered(
                asked.out / "scores.json",
                f"{part}-{path.name}",
                partial(attacked, run, sites, 1, MOST),
                of=[
                    str(path), run.recipe().digest(), VERSION,
                    [digest_of(data) for data in sites.values()],
                ],
            )
        )  # fmt: skip
    groups = [set(split["members"]) for split in splits]
    patients = set(next(iter(splits[0]["scores"].values())))
    if any(own != groups[0] for own in groups) and (
        set.intersection(*groups) or set.union(*groups) != patients
    ):
        raise SystemExit(
            "these trainings held other patients out, and not everybody: attack each on its own."
        )
    suite, name = asked.runs[0].resolve().parents[2].name, asked.runs[0].name.rpartition("-")[0]
    rows = [
        [part, name, attack, len(splits), *judged(splits, attack)]
        for attack in ATTACKS
        if attack in splits[0]["scores"]
    ]
    members = " or ".join(map(str, sorted({len(own) for own in groups})))
    about = f"{members} members; at most {MOST} cases of a patient. A split is a training here. "
    publish(f"{about}{ABOUT}\n\n{markdown(HEADING, rows)}", f"membership-{suite}", asked.document)


if __name__ == "__main__":
    main()
