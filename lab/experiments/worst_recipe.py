"""The worst recipe that the default policy admits: who took part, by asking with patients' images.

    python -m lab.experiments.worst_recipe --data DATA --out OUT
        [--document docs/results/worst_recipe.md]

A malicious coordinator writes the recipe and has images of every candidate. Half of them are the
patients of a site, half are not. It goes through the site's `Endpoint`, under the policy that
`asyndgan site init` writes; a recipe outside the policy's family (`refused now`) is approved first.

The coordinator first teaches the site's discriminators: by pictures of other patients that it shows
as if they were synthetic (`others`), so that nothing but the patients themselves is left to learn;
by the candidates' own (`candidates`); by both in turns (`mixed`); or by what a generator paints
that follows the feedback, as in an honest run (`generator`). Where the recipe has masks, it shows
the picture, out of many turned and scaled copies, whose mask is most like the one that the site
offers. Then it asks about every candidate, `ROUNDS` times, while rates fall to nothing.

It reads the loss (`adversarial`), how well the site's segmentation finds the mask (`segmentation`),
the feedback's length (`norm`) and how much it points along what was shown (`along`), and what a
logistic regression makes of all of them, which learns from other candidates of whom the coordinator
knows whether they took part (`combined`). The policy of `site init` withholds losses: then `norm`
and `along` remain. It also asks once after a quarter and after half of the teaching. The figure of
a recipe is that of its best reading, chosen after the fact, so it is too high rather than too low.

Each seed is another choice of patients and another start of the site. Patients are the unit of the
intervals.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from asyndgan.cli.site import first_policy
from asyndgan.demo.phantoms import DEFAULT_SITES, LABELS, MODALITIES, phantom_cases
from asyndgan.export.writing import write_dataset
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.description import describe
from asyndgan.judging.bench import write_whole
from asyndgan.judging.metrics import area_under_curve
from asyndgan.privacy import Policy
from asyndgan.privacy.policy import LeavesSection
from asyndgan.protocol import Endpoint, message_limit
from asyndgan.recipe import Recipe
from asyndgan.runs import load_recipe
from asyndgan.store import Case, Cohort
from asyndgan.store.augmentation import LIKE_PATIENTS, moved
from asyndgan.store.prepare import masks_as_images
from asyndgan.store.resampling import label_shares
from asyndgan.training import Site
from asyndgan.training.scope import Scope, generator_inputs, new_generator
from asyndgan.wire.messages import ANSWERS, Card, Judge, Judgement, Message, Open, pack, unpack
from lab.experiments.common import arguments, markdown, publish, remembered

VERSION = 2
"""Goes up when an attack changes, so that no stored score of the earlier one is taken."""
ROUNDS = 4
"""Questions about each candidate."""
PHANTOMS = 400
"""Patients that are drawn, of whom a seed takes some."""
COPIES = 48
"""Moved copies of a picture of which the coordinator shows the one that fits the mask best."""
PARTS = (25, 50)
"""Parts of the teaching, in per cent, after which each candidate is asked about once as well."""
STRANGERS = 160
"""Other patients of whom the coordinator has pictures."""
SAID = ("adversarial", "segmentation")
"""Losses that are read."""
WITHOUT_LOSSES = ("norm", "along")
"""What is read of the feedback, which leaves under the policy of `site init` too."""


@dataclass(frozen=True)
class Play:
    """A recipe, and what a coordinator does with it.

    Attributes:
        changes: overrides of the recipe.
        teaches: `others`, `candidates`, `mixed` or `generator`; what is shown before it asks.
        answers: for each patient of the site.
        members: patients of the site; as many others are asked about.
        base: the recipe. `masks` asks about candidates' masks in place of their images.
    """

    changes: tuple[str, ...]
    teaches: str = "others"
    answers: int = 100
    members: int = 32
    base: str = "default"

    def recipe(self) -> Recipe:
        """The recipe, with as many steps as the site gives answers."""
        steps = self.answers * self.members - 1  # the start sends masks, so it is an answer
        asked = ROUNDS * 2 * self.members
        small = (
            ("generator.blocks=1", "generator.style=0", "masks.source=own")
            if self.base == "default"
            else ()
        )
        return load_recipe(
            self.base,
            [
                "image.size=32", "generator.width=8", *small, "wire.images=float16",
                "wire.feedback=float16", *self.changes,
                f"training.steps={steps}",
                f"optimiser.decay_from={1 - asked / steps:.4f}",
            ],
        )  # fmt: skip


class Coordinator:
    """Sends a site whatever it likes, step by step."""

    def __init__(self, site: Site, recipe: Recipe) -> None:
        self.endpoint = Endpoint(site, limit=message_limit(recipe))
        self.limit, self.images = message_limit(recipe), recipe.wire.images
        card = self._asked(Open(run="ab", recipe=recipe.digest(), step=0))
        assert isinstance(card, Card), card
        self.card, self.offered, self.step = card, card.conditions, 0
        self.gives = recipe.given_masks

    def judged(self, images: Tensor, masks: Tensor) -> Judgement:
        """One step; `offered` are the conditions to paint from, (b, h, w) or (b,).

        Where masks are of the coordinator's choice, it sends those of the images.
        """
        chosen = {"conditions": masks} if self.gives else {}
        request = Judge(
            run="ab", step=self.step, batch=self.step, images=images.clamp(-1, 1), **chosen
        )
        answer = self._asked(request)
        assert isinstance(answer, Judgement), answer
        self.step, self.offered = self.step + 1, answer.conditions
        return answer

    def _asked(self, request: Message) -> Message:
        payload = pack(request, {"images": self.images})
        return unpack(self.endpoint.answer(payload), ANSWERS, limit=self.limit)


class Pool:
    """Moved copies of cases, of which that is shown which fits a mask best.

    Args:
        cases: whose.
        copies: of each; the first is the case as it is.
        labels: number of labels.
        still: whether a site moves its images not.
        whole: whether the images are label maps.
    """

    def __init__(
        self, cases: Sequence[Case], copies: int, labels: int, still: bool, whole: bool
    ) -> None:
        images, masks = [], []
        random = torch.Generator().manual_seed(0)
        for case in cases:
            many = torch.stack([case.image] * copies), torch.stack([case.mask] * copies)
            shown, maps = many if still else moved(*many, LIKE_PATIENTS, random)
            shown[0], maps[0] = case.image, case.mask
            shown = label_shares(shown) if whole else shown
            mirror = torch.rand(copies, generator=random) < 0.5
            mirror[0] = False
            shown = torch.where(mirror[:, None, None, None], shown.flip(-1), shown)
            maps = torch.where(mirror[:, None, None], maps.flip(-1), maps)
            images.append(shown)
            masks.append(maps)
        self.copies, self.labels = copies, labels
        self.images, self.masks = torch.cat(images), torch.cat(masks)
        self.maps = self._mapped(self.masks)

    def drawn(
        self, offered: Tensor, random: torch.Generator, of: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pictures for the conditions that a site offers, with masks: of any case, or of one."""
        own = slice(None) if of is None else slice(of * self.copies, (of + 1) * self.copies)
        if offered.ndim == 1:
            count = len(self.images[own])
            which = torch.randint(count, (len(offered),), generator=random)
            return self.images[own][which], self.masks[own][which]
        overlap = self._mapped(offered.long()) @ self.maps[own].T
        # One of the best eight, or few pictures would be shown again and again.
        best = overlap.topk(8, dim=1).indices
        place = torch.randint(8, (len(offered), 1), generator=random)
        which = best.gather(1, place)[:, 0]
        return self.images[own][which], self.masks[own][which]

    def _mapped(self, masks: Tensor) -> Tensor:
        """One-hot maps (n, labels x pixels), a label's of length 1: labels count alike."""
        maps = F.one_hot(masks.clamp(max=self.labels - 1), self.labels).flatten(1, 2).float()
        maps = maps.transpose(1, 2)
        return (maps / maps.norm(dim=2, keepdim=True).clamp(min=1)).flatten(1)


def attacked(play: Play, cases: Sequence[Case], labels: dict[str, int], seed: int) -> object:
    """Scores of members and others: one site is taught and asked, by every way of reading."""
    recipe, random = play.recipe(), torch.Generator().manual_seed(seed)
    if recipe.image.source == "masks":
        cases = masks_as_images(cases, labels)
    order = torch.randperm(len(cases), generator=random).tolist()
    chosen, n = [cases[place] for place in order], play.members
    members, asked, strangers = chosen[:n], chosen[: 2 * n], chosen[2 * n :][:STRANGERS]
    cohort = Cohort.from_cases(
        members, labels=labels, condition=recipe.condition.kind, seed=seed,
        flip=recipe.training.flip, move=recipe.training.move,
        maps=recipe.image.source == "masks",
    )  # fmt: skip
    leaves = LeavesSection(masks="transient" if recipe.sends_own_masks else "learned")
    policy = Policy(name="site", leaves=leaves, allows=first_policy("site", "measured").allows)
    if policy.unmeasured(recipe):
        allows = policy.allows.model_copy(update={"approved": (recipe.digest(),)})
        policy = policy.model_copy(update={"allows": allows})
    with tempfile.TemporaryDirectory() as books:
        site = Site("site", cohort, recipe, records=Path(books), policy=policy)
        read = taught_and_asked(play, recipe, site, asked, strangers, random)
    last = np.column_stack([values for name, values in read.items() if "%" not in name])
    scores = {name: np.array(values) for name, values in read.items()}
    scores["combined"] = guessed(last, np.arange(2 * n) < n, seed)
    names = [case.patient for case in asked]
    return {
        "members": names[:n],
        "scores": {
            name: dict(zip(names, (rankdata(values) / (2 * n)).tolist(), strict=True))
            for name, values in scores.items()
        },
    }


def guessed(features: np.ndarray, inside: np.ndarray, seed: int) -> np.ndarray:
    """What a logistic regression makes of all that was read; it learns from other candidates."""
    order = np.random.default_rng(seed).permutation(len(inside))
    plain = StandardScaler().fit_transform(features)[order]
    said = cross_val_predict(
        LogisticRegression(C=0.3), plain, inside[order], cv=10, method="decision_function"
    )
    scores = np.empty(len(inside))
    scores[order] = said
    return scores


def taught_and_asked(
    play: Play,
    recipe: Recipe,
    site: Site,
    asked: Sequence[Case],
    strangers: Sequence[Case],
    random: torch.Generator,
) -> dict[str, list[float]]:
    """Teaches a site's discriminators, then asks about each candidate; higher: more a member."""
    talk, size = Coordinator(site, recipe), recipe.training.batch
    still = not recipe.training.move
    whole = recipe.image.source == "masks"
    own = Pool(asked, COPIES, len(talk.card.labels), still, whole)
    known = Pool(strangers, 4, len(talk.card.labels), still, whole)
    painter = painted(recipe, talk)
    last = recipe.training.steps - ROUNDS * len(asked)
    pauses = [last * part // 100 for part in PARTS]
    found: dict[str, list[list[float]]] = {}
    early: dict[str, list[float]] = {}
    while talk.step < last:
        if pauses and talk.step >= pauses[0]:
            part = PARTS[-len(pauses)]
            once = asked_once(talk, own, len(asked), random)
            early |= {f"{name} at {part} %": values for name, values in once.items()}
            pauses.pop(0)
        teaches = play.teaches
        if teaches == "mixed":
            teaches = ("others", "candidates")[talk.step % 2]
        if teaches == "generator":
            next(painter)
        else:
            talk.judged(*(known if teaches == "others" else own).drawn(talk.offered, random))
    for _ in range(ROUNDS):
        for name, values in asked_once(talk, own, len(asked), random).items():
            found.setdefault(name, []).append(values)
    assert size == len(talk.offered)
    talk.endpoint.close()
    return early | {name: np.mean(rounds, axis=0).tolist() for name, rounds in found.items()}


def asked_once(
    talk: Coordinator, own: Pool, count: int, random: torch.Generator
) -> dict[str, list[float]]:
    """One question about each candidate, in random order."""
    said: dict[int, dict[str, float]] = {}
    for place in torch.randperm(count, generator=random).tolist():
        shown, masks = own.drawn(talk.offered, random, place)
        answer = talk.judged(shown, masks)
        said[place] = {key: -answer.losses[key] for key in SAID if key in answer.losses}
        feedback = answer.feedback.flatten(1)
        said[place]["norm"] = -float(feedback.norm(dim=1).log().mean())
        said[place]["along"] = -float(F.cosine_similarity(feedback, shown.flatten(1)).mean())
    return {name: [said[place][name] for place in range(count)] for name in said[0]}


def painted(recipe: Recipe, talk: Coordinator) -> Iterator[None]:
    """An honest coordinator's steps: a generator paints and follows the feedback."""
    card = talk.card
    scope = Scope(
        tuple(card.modalities), {int(k): v for k, v in card.labels.items()}, tuple(card.space)
    )
    generator = new_generator(recipe, scope)
    optimiser = torch.optim.Adam(
        generator.parameters(), recipe.optimiser.generator_rate, (0.5, 0.999)
    )
    random = torch.Generator().manual_seed(0)
    while True:
        inputs = generator_inputs(recipe, scope, talk.offered, ["site"] * len(talk.offered), random)
        images = generator(*inputs)
        answer = talk.judged(images.detach(), talk.offered)
        optimiser.zero_grad()
        images.backward(answer.feedback)
        optimiser.step()
        yield


@cache
def patients(data: Path, name: str, out: Path, size: int) -> tuple[list[Case], dict[str, int]]:
    """One picture of each patient, and the labels: of one site of a set, or drawn phantoms."""
    folder = data / "dsb2018_fluo" / "site_1"
    if name == "phantoms":
        folder = out / f"phantoms-{size}"
        if not (folder / "dataset.json").exists():
            site = replace(DEFAULT_SITES[0], patients=PHANTOMS, slices=1)
            write_dataset(
                folder, phantom_cases(site, size=size, seed=0), modalities=MODALITIES,
                labels=LABELS, name=name,
            )  # fmt: skip
    cases = DataSet(folder).cases(load_recipe("default", [f"image.size={size}"]).image)
    return list({case.patient: case for case in cases}.values()), describe(folder).labels


def judged(splits: Sequence[dict], draws: int = 1000) -> dict[str, tuple[float, float, float]]:
    """Area under the curve and its interval, over patients, by way of reading."""
    found = {}
    for name in splits[0]["scores"]:
        runs = [(each["scores"][name], set(each["members"])) for each in splits]
        everybody = sorted({patient for scores, _ in runs for patient in scores})
        random, areas = np.random.default_rng(0), []
        for draw in range(draws + 1):
            picked = random.integers(len(everybody), size=len(everybody))
            times = np.bincount(picked, minlength=len(everybody)) if draw else None
            each = [_area(scores, members, everybody, times) for scores, members in runs]
            areas.append(np.nanmean(each))
        found[name] = (areas[0], *np.quantile(areas[1:], [0.025, 0.975]).tolist())
    return found


def _area(
    scores: dict[str, float], members: set[str], everybody: Sequence[str], times: np.ndarray | None
) -> float:
    count = dict(zip(everybody, times.tolist(), strict=True)) if times is not None else {}
    groups: tuple[list[float], list[float]] = ([], [])
    for patient, score in scores.items():
        groups[patient not in members].extend([score] * count.get(patient, times is None))
    if not groups[0] or not groups[1]:
        return float("nan")
    return area_under_curve(np.array(groups[0]), np.array(groups[1]))


NONE = (
    "condition.kind=none", "generator.kind=dcgan", "generator.noise=0", "generator.latent=8",
    "discriminator.kind=patch", "loss.segmentation=0",
    "training.move=false", "discriminator.cross_fitted=false", "discriminator.width=16",
    "training.flip=false", "training.batch=4", "optimiser.discriminator_rate=5e-4",
    "generator.soften=0", "generator.diversity=0", "generator.diversity_bound=0",
    "discriminator.norm=instance", "loss.adversarial=least_squares", "loss.as_real=false",
    "loss.mismatch=0",
)  # fmt: skip
PATCH = (
    "discriminator.kind=patch_segmentation", "discriminator.width=48",
    "discriminator.norm=instance", "discriminator.cross_fitted=true",
    "loss.adversarial=least_squares", "loss.as_real=false", "loss.mismatch=0",
    "training.flip=false",
)  # fmt: skip
EDGE = (*PATCH, "discriminator.width=16")
SHOWN = ("discriminator.kind=patch", "loss.segmentation=0")
OWN = ("training.flip=false",)
GIVEN = "masks.source=given"
CROSSED, ONE = "discriminator.cross_fitted=true", "discriminator.cross_fitted=false"
PLAYS = {
    "refused now": Play(NONE),
    "narrow": Play(EDGE),
    "narrow, an honest teacher": Play(EDGE, teaches="generator"),
    "narrow, taught by candidates": Play(EDGE, teaches="candidates"),
    "narrow, taught by both": Play(EDGE, teaches="mixed"),
    "narrow, does not segment": Play((*EDGE, *SHOWN)),
    "wide": Play(PATCH, answers=50),
    "narrow, 64 pixels": Play((*EDGE, "image.size=64"), answers=50),
    "default": Play(OWN, answers=50),
    "default, cross-fitted": Play((*OWN, CROSSED), answers=50),
    "default, 64 pixels": Play((*OWN, "image.size=64"), answers=50),
    "default, given masks": Play((*OWN, GIVEN), answers=50),
    "masks": Play(OWN, answers=50, base="masks"),
    "masks, unshifted": Play(
        (*OWN, "discriminator.augment=[]", "loss.gradient_penalty=1"), answers=50, base="masks"
    ),
    "masks, 620 answers": Play(OWN, answers=620, base="masks"),
    "masks, one network": Play((*OWN, ONE), answers=50, base="masks"),
}
"""What can be played; "refused now", "masks, unshifted" and "masks, one network" are refused."""
SEEDS = {
    "default": 3,
    "default, given masks": 3,
    "refused now": 2,
    "masks": 3,
    "masks, unshifted": 3,
    "narrow": 3,
    "narrow, 64 pixels": 3,
    "narrow, an honest teacher": 3,
}
"""Number of seeds, where it is more than one."""
SETS = ("phantoms", "dsb2018_fluo")
RESULTS = Path(__file__).parents[1] / "results" / "worst_recipe.json"


def entry(data: Path, out: Path, part: str, name: str, seed: int) -> dict:
    """The scores of one training, stored or made."""
    play = PLAYS[name]
    recipe = play.recipe()
    cases, labels = patients(data, part, out, min(recipe.image.size))
    found = remembered(
        out / "scores.json",
        f"{part}-{name}-{seed}",
        partial(attacked, play, cases, labels, seed),
        of=[recipe.digest(), repr(play), VERSION, [case.patient for case in cases]],
    )
    assert isinstance(found, dict)
    return found


def rows(data: Path, out: Path, jobs: Sequence[tuple[str, str, int]]) -> Iterator[list[object]]:
    """Rows of the table: of each set and play its best reading, and others."""
    done: dict[tuple[str, str], list[dict]] = {}
    for part, name, seed in jobs:
        done.setdefault((part, name), []).append(entry(data, out, part, name, seed))
    for (part, name), splits in done.items():
        found = judged(splits)
        last = {reading: figure for reading, figure in found.items() if "%" not in reading}
        best = max(last, key=lambda reading: last[reading][0])
        left = max(WITHOUT_LOSSES, key=lambda reading: last[reading][0])
        early = [f"{found[f'adversarial at {at} %'][0]:.3f}" for at in PARTS]
        yield [
            part, name, PLAYS[name].teaches, len(splits), len(splits) * 2 * PLAYS[name].members,
            PLAYS[name].answers, *early, best, *_told(last[best]), *_told(last[left]),
        ]  # fmt: skip


def _told(figure: tuple[float, float, float]) -> tuple[str, str]:
    area, low, high = figure
    return f"{area:.3f}", f"{low:.3f} to {high:.3f}"


def main() -> None:
    """Plays what is missing, then prints and writes the table."""
    parser = arguments(__doc__)
    parser.add_argument("--plays", nargs="+", default=list(PLAYS))
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    jobs = [
        (part, name, seed)
        for seed in range(asked.seeds)
        for name in asked.plays
        for part in asked.sets
        if seed < SEEDS.get(name, 1)
    ]
    heading = [
        "set", "recipe", "taught by", "seeds", "patients asked about", "answers a patient",
        *(f"AUC at {at} %" for at in PARTS), "best reading", "AUC", "95 % interval",
        "AUC without losses", "95 % interval without losses",
    ]  # fmt: skip
    found = [[*map(str, row)] for row in rows(asked.data, asked.out, jobs)]
    table = {
        (row["recipe"], row["set"]): row
        for row in (
            *json.loads(RESULTS.read_text("utf-8")),  # of plays that are not asked for
            *(dict(zip(heading, row, strict=True)) for row in found),
        )
    }
    write_whole(RESULTS, (json.dumps([*table.values()], indent=1) + "\n").encode())
    shown = markdown(heading, [[row.get(key, "-") for key in heading] for row in table.values()])
    publish(f"{__doc__.split(chr(10))[0]}\n\n{shown}", "worst_recipe", asked.document)


if __name__ == "__main__":
    main()
