"""What a run's generator and its synthetic images say of whose images it was trained on.

Membership inference by patient: somebody who has real images of a patient asks whether the patient
took part. Each attack scores a patient; the area under the ROC curve is the probability that a
random member scores above a random other patient: 0.5 is a coin.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from torch import Tensor

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Images
from asyndgan.data import Case, derived_seed
from asyndgan.errors import DataError, RunError
from asyndgan.evaluation.bench import write_whole
from asyndgan.evaluation.lower_bounds import epsilon_of_guesses
from asyndgan.evaluation.table import without_nan
from asyndgan.models import site_noise
from asyndgan.runs import RunFolder
from asyndgan.texts import bounded_text, parsed_json
from asyndgan.training import scope_maps

PAINTINGS: Final = 4
"""Of each real mask, with noise of their own, for the attack on the generator."""

SIDE: Final = 32
"""Pixels that images are compared at: finer noise would hide who resembles whom."""

DELTA: Final = 1e-5
"""Of the bounds of epsilon."""

LEVEL: Final = 0.05
"""Of the test, and of the interval's both ends together."""


@final
@dataclass(frozen=True)
class Attack:
    """One way of telling members from others, and how far it comes.

    A bound of epsilon needs as many members as others who took part by chance; where there are more
    of one, some of them are left out by chance.

    Attributes:
        name: `painting` (how near the generator comes to a patient's image from the patient's own
            mask), `nearest` (how near the nearest synthetic image is), `density` (how many
            synthetic images are near).
        auc: area under the ROC curve over patients.
        low: lower end of its 95 % bootstrap interval over patients.
        high: upper end.
        p_value: of the one-sided test (Mann and Whitney) that members score higher.
        members: patients.
        others: patients.
        epsilon: that the generator has at the least, if patients took part by chance.
    """

    name: str
    auc: float
    low: float
    high: float
    p_value: float
    members: int
    others: int
    epsilon: float

    @property
    def tells(self) -> bool:
        """Whether members were told from others; a number that is none counts as if."""
        return not self.p_value >= LEVEL

    @property
    def could_tell(self) -> bool:
        """Whether so few patients can show anything at all."""
        return 1 / math.comb(self.members + self.others, self.members) < LEVEL

    @property
    def verdict(self) -> str:
        """A sentence for people who read no statistics."""
        sizes = f"{self.members} members, {self.others} others"
        if self.tells:
            return f"MEMBERS CAN BE TOLD: AUC {self.auc:.2f} ({sizes})"
        if not self.could_tell:
            return f"TOO FEW PATIENTS to tell anything ({sizes})"
        return (
            f"no sign of membership: AUC {self.auc:.2f}, at most {self.high:.2f} with 97.5 % "
            f"confidence ({sizes})"
        )


def audit(
    run: RunFolder,
    members: Sequence[Case],
    others: Sequence[Case],
    synthetic: Sequence[Case],
    out: Path,
    *,
    masks: str = "",
) -> list[Attack]:
    """Attacks a finished run with real images of members and of others.

    Args:
        run: whose generator paints.
        members: cases of patients that the run was trained on.
        others: cases of patients of the same hospitals that it was not trained on: any other
            difference between the two groups would be taken for membership.
        synthetic: the set that is released.
        out: for `audit.json` and `nearest.png`, which shows real images: keep it at the site.
        masks: digest of the masks that the set was painted from.

    Raises:
        DataError: a group has fewer than two patients.
    """
    for name, cases in (("members", members), ("others", others)):
        if len({case.patient for case in cases}) < 2:
            raise DataError(f"an audit needs two patients at least among the {name}.")
    scores = patient_scores(run, [*members, *others], synthetic)
    inside = {case.patient for case in members}
    attacks = [
        _attack(
            name,
            np.array([score for patient, score in own.items() if patient in inside]),
            np.array([score for patient, score in own.items() if patient not in inside]),
        )
        for name, own in scores.items()
    ]
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "generator_sha256": run.generator_digest(),
        "masks_sha256": masks,
        "attacks": [{**asdict(one), "verdict": one.verdict} for one in attacks],
    }
    write_whole(out / "audit.json", json.dumps(without_nan(tables), indent=1).encode())
    near = _distances(_small(members), _small(synthetic)).min(dim=1)
    closest = near.values.argsort()[:6].tolist()
    pairs = [(members[index], synthetic[int(near.indices[index])]) for index in closest]
    write_whole(out / "nearest.png", _picture(pairs))
    return attacks


def patient_scores(
    run: RunFolder, real: Sequence[Case], synthetic: Sequence[Case]
) -> dict[str, dict[str, float]]:
    """How much like a member each patient looks: by attack, by patient, mean over his cases.

    Args:
        run: whose generator paints.
        real: cases of members and of others; no patient is both.
        synthetic: the set that is released.
    """
    apart = _distances(_small(real), _small(synthetic))
    scale = float(apart.min(dim=1).values.median())
    by_case = {
        "painting": -_gaps(run, real),
        "nearest": -apart.min(dim=1).values,
        "density": torch.exp(-apart / max(scale, 1e-12)).mean(dim=1).log(),
    }
    found: dict[str, dict[str, float]] = {}
    for name, scores in by_case.items():
        own: dict[str, list[float]] = {}
        for case, score in zip(real, scores.tolist(), strict=True):
            own.setdefault(case.patient, []).append(score)
        found[name] = {patient: math.fsum(each) / len(each) for patient, each in own.items()}
    return found


def check_released(run: RunFolder, masks: str, audited: Path) -> str:
    """Sees that an audit of this generator and these masks found no sign of membership.

    Args:
        run: whose synthetic set is to be released.
        masks: digest of the masks that it is painted from.
        audited: folder of its audit.

    Returns:
        What the audit found, for the model card.

    Raises:
        RunError: there is no audit, it is of another generator or other masks, it has too few
            patients, or members can be told.
    """
    path = audited / "audit.json"
    try:
        tables = parsed_json(bounded_text(path))
        generator, painted = tables["generator_sha256"], tables["masks_sha256"]
        attacks = [_stored(one) for one in tables["attacks"]]
    except (ArithmeticError, AttributeError, OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is no audit that can be read; make one with 'asyndgan audit' first."
        ) from error
    if generator != run.generator_digest() or not attacks:
        raise RunError(f"{path} is of another generator than {run.path}; audit this one.")
    if painted != masks:
        raise RunError(
            f"{path} is of a set that was painted from other masks; audit with the same --masks."
        )
    telling = [one for one in attacks if one.tells or not one.could_tell]
    if telling:
        raise RunError(
            f"{run.path} may not be released: {telling[0].name}: {telling[0].verdict}. Train with "
            "more patients, for fewer steps, or under differential privacy."
        )
    return "; ".join(f"{one.name}: {one.verdict}" for one in attacks)


def _stored(table: Mapping[str, Any]) -> Attack:
    return Attack(
        name=str(table["name"]),
        members=int(table["members"]),
        others=int(table["others"]),
        **{
            key: math.nan if table[key] is None else float(table[key])
            for key in ("auc", "low", "high", "p_value", "epsilon")
        },
    )


def _gaps(run: RunFolder, cases: Sequence[Case]) -> Tensor:
    """Mean absolute difference of each image from what the generator paints from its mask."""
    recipe, facts, generator = run.recipe(), run.facts(), run.generator()
    random = torch.Generator().manual_seed(derived_seed(0, "audit"))
    channels = [facts.scope.modalities.index(name) for name in cases[0].modalities]
    looks = list(facts.sites)
    gaps: list[Tensor] = []
    for case in cases:
        maps = scope_maps(recipe, facts.scope, torch.stack([case.mask] * PAINTINGS))
        # Every look in turn: the attacker does not know the site.
        sites = [looks[place % len(looks)] for place in range(PAINTINGS)]
        with torch.no_grad():
            painted = generator(maps, site_noise(recipe, sites, facts.scope.space, random))
        gaps.append((painted[:, channels] - case.image).abs().flatten(1).mean(1).min())
    return torch.stack(gaps)


def _small(cases: Sequence[Case]) -> Images:
    images = torch.stack([case.image for case in cases])
    return torch.nn.functional.interpolate(images, size=(SIDE, SIDE), mode="area")


def _distances(ones: Tensor, others: Tensor) -> Tensor:
    """Mean squared differences (ones, others)."""
    return torch.cdist(ones.flatten(1), others.flatten(1)).square() / ones[0].numel()


def _attack(name: str, members: NDArray[np.float64], others: NDArray[np.float64]) -> Attack:
    """From scores of patients to the curve."""
    random = np.random.default_rng(0)
    drawn = [
        area_under_curve(random.choice(members, len(members)), random.choice(others, len(others)))
        for _ in range(2000)
    ]
    low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
    test = mannwhitneyu(members, others, alternative="greater")
    return Attack(
        name, area_under_curve(members, others), float(low), float(high), float(test.pvalue),
        len(members), len(others), _epsilon(members, others, random),
    )  # fmt: skip


def _epsilon(
    members: NDArray[np.float64], others: NDArray[np.float64], random: np.random.Generator
) -> float:
    """At the least, from guessing that the upper half took part."""
    size = min(len(members), len(others))
    scores = np.concatenate(
        [random.choice(members, size, replace=False), random.choice(others, size, replace=False)]
    )
    # Ties are broken by chance, not by who comes first.
    guessed = np.lexsort((random.random(2 * size), scores))[size:]
    correct = 2 * int((guessed < size).sum())
    return epsilon_of_guesses(correct, 2 * size, 2 * size, delta=DELTA)


def area_under_curve(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Probability that a member scores above another patient; ties count half."""
    above = (members[:, None] > others).mean()
    ties = (members[:, None] == others).mean()
    return float(above + ties / 2)


def _picture(pairs: Sequence[tuple[Case, Case]]) -> bytes:
    """Members and the synthetic images nearest to them, the nearest pair first."""
    figure = Figure(figsize=(1.5 * len(pairs) + 0.4, 3.2), layout="constrained")
    grid = figure.subplots(2, len(pairs), squeeze=False)
    for column, pair in zip(grid.T, pairs, strict=True):
        for panel, case in zip(column, pair, strict=True):
            panel.imshow(case.image[0].numpy(), cmap="gray", vmin=IMAGE_LOW, vmax=IMAGE_HIGH)
            panel.set_xticks([])
            panel.set_yticks([])
    for line, name in zip(grid, ("real", "nearest synthetic"), strict=True):
        line[0].set_ylabel(name)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
