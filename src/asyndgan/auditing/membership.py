"""Audit of what a run's generator and synthetic images reveal about its training patients.

Membership inference by patient: an attacker who has real images of a patient infers whether the
patient took part. Each attack scores patients; the area under the ROC curve (AUC) is the
probability that a random member scores above a random other patient, 0.5 being chance.

Attribute inference of the site: an attacker infers at which site a patient was imaged.

What a coordinator reads of real images during training is `evaluation.reconstruction`'s.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Final, final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binomtest, mannwhitneyu
from torch import Tensor

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Images
from asyndgan.auditing.lower_bounds import epsilon_of_guesses
from asyndgan.auditing.reconstruction import PixelsRead
from asyndgan.data import Case, derived_seed
from asyndgan.errors import DataError
from asyndgan.judging.bench import write_whole
from asyndgan.judging.metrics import fraction_interval
from asyndgan.judging.table import without_nan
from asyndgan.painting.synthesise import AS_PAINTED, PAINTING_VERSION, Fading
from asyndgan.runs import RunFolder
from asyndgan.training import generator_inputs

AUDIT_FILE: Final = "audit.json"
"""Name of the file in an audit's folder that holds its numbers, and no image."""

NEAREST_FILE: Final = "nearest.png"
"""Name of the picture of members beside the synthetic images nearest to them."""

PAINTINGS: Final = 4
"""Fewest paintings of each real mask, with different noise, for the attacks on the generator."""

SIDE: Final = 32
"""Side in pixels at which images are compared; at full size, noise would hide resemblances."""

DELTA: Final = 1e-5
"""Delta of the bounds of epsilon."""

LEVEL: Final = 0.05
"""Significance level of the tests, and of the intervals (both ends together)."""

SURE: Final = 0.7
"""AUC that the interval must lie below before a set is released: with few patients, finding no
membership signal proves nothing."""

TINY: Final = 1e-12
"""Added to squared distances, so that images which are all alike are at the usual distance."""

SAME: Final = 1e-6
"""Mean squared difference below which two images are one."""

FLAT: Final = 0.05
"""Standard deviation of an image in which there is nothing to recognise."""

COPY: Final = 0.2
"""Relative distance below which an image is taken for a copy: a 25th of the squared difference to
the next patient. `default` came no nearer than 0.32, generators overfitted on purpose to 0.07."""

TAIL: Final = 10
"""Most patients whose distances say how fast ever smaller distances become rare."""


@final
@dataclass(frozen=True)
class Attack:
    """Result of one way of telling members from other patients.

    The bound of epsilon requires as many members as others, chosen by chance. If one group is
    larger, a random subset of it is used.

    Attributes:
        name: `painting` (similarity of a patient's image to what the generator paints from the
            patient's own mask), `nearest` (similarity to the nearest synthetic image) or `density`
            (how many synthetic images are near).
        auc: area under the ROC curve over patients.
        low: lower end of its 95 % bootstrap interval over patients.
        high: upper end.
        p_value: p-value of the one-sided test (Mann and Whitney) that members score higher.
        members: number of members.
        others: number of other patients.
        epsilon: lower bound of the generator's epsilon, valid if members were chosen by chance.
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
        """Whether members could be told from others; a p-value of nan counts as yes."""
        return not self.p_value >= LEVEL

    @property
    def comparable(self) -> bool:
        """Whether the members do not score reliably below the others.

        Membership cannot bring that about; another difference between the two groups can, and
        would hide members.
        """
        return not self.high < 0.5

    @property
    def sure(self) -> bool:
        """Whether there are enough patients to rule out an AUC of `SURE` or more.

        An AUC below 0.5, where the groups are comparable, is due to chance and is treated as 0.5.
        """
        return max(self.auc, 0.5) + self.high - self.auc < SURE

    @property
    def passes(self) -> bool:
        """Whether a set may be released as far as this attack is concerned."""
        return self.comparable and self.sure and not self.tells

    @property
    def verdict(self) -> str:
        """A sentence for readers without statistical training."""
        sizes = f"{self.members} members, {self.others} others"
        if self.tells:
            return f"MEMBERS CAN BE TOLD: AUC {self.auc:.2f} ({sizes})"
        found = f"AUC {self.auc:.2f}, at most {self.high:.2f} with 97.5 % confidence ({sizes})"
        if not self.comparable:
            return f"NOT COMPARABLE, take others of the members' own hospitals: {found}"
        if not self.sure:
            return f"TOO FEW PATIENTS to be sure of less than {SURE:g}: {found}"
        return f"no sign of membership: {found}"


@final
@dataclass(frozen=True)
class NearCopies:
    """Whether a synthetic image lies nearer to a member than patients resemble each other.

    Means over patients do not show that one or two were copied. Distances are relative to that of
    the next other patient's image: 0 is a copy, 1 an image as near as patients come.

    Attributes:
        found: number of members to whom a synthetic image comes too near.
        nearest: smallest distance of a member to a synthetic image.
        nearest_other: smallest distance of another patient.
        p_value: p-value of the one-sided test that `nearest` is too small.
        members: number of members.
        others: number of other patients.
    """

    found: int
    nearest: float
    nearest_other: float
    p_value: float
    members: int
    others: int

    @property
    def passes(self) -> bool:
        """Whether a set may be released as far as near copies are concerned; nan counts as no.

        However near the others are: they may be members of a site that this audit does not name.
        """
        return self.p_value >= LEVEL and min(self.nearest, self.nearest_other) >= COPY

    @property
    def most(self) -> float:
        """Upper end of the 95 % interval of the fraction of patients who are copied."""
        return fraction_interval(self.found, self.members)[1]

    @property
    def verdict(self) -> str:
        """A sentence for readers without statistical training."""
        found = (
            f"at most {self.most:.2f} of such patients with 97.5 % confidence; the nearest image "
            f"is at {self.nearest:.2f} of the distance to the next patient, that of others at "
            f"{self.nearest_other:.2f}"
        )
        if self.found:
            return f"NEAR COPIES of {self.found} of {self.members} members: {found}"
        if not self.passes:
            return f"NEAR COPIES of others, who have been learned from elsewhere: {found}"
        return f"no near copy of the {self.members} members, mirrored or not: {found}"


@final
@dataclass(frozen=True)
class SitesGuessed:
    """How often a patient's site is guessed from the look whose paintings are most similar.

    The scanner's general appearance suffices for that: a good guess shows that the generator
    distinguishes the sites' looks, and nothing about who took part.

    Attributes:
        right: number of patients whose site was guessed correctly.
        patients: number of patients whose site is known.
        low: lower end of the 95 % interval (Clopper and Pearson) of the fraction guessed correctly.
        high: upper end.
        always: fraction that is correct if the site with most patients is always guessed.
        p_value: p-value of the one-sided test that guesses are better than that.
    """

    right: int
    patients: int
    low: float
    high: float
    always: float
    p_value: float

    @property
    def verdict(self) -> str:
        """A sentence for readers without statistical training."""
        found = (
            f"{self.right} of {self.patients} patients ({self.low:.2f} to {self.high:.2f}; the "
            f"largest site alone is {self.always:.2f})"
        )
        if self.p_value < LEVEL:
            return f"A PATIENT'S SITE CAN BE GUESSED from the image: {found}"
        return f"no sign that a patient's site can be guessed: {found}"


@final
@dataclass(frozen=True)
class Audit:
    """Result of an audit.

    Attributes:
        attacks: membership attacks, on which a release depends.
        copies: search for near copies of members, on which it depends as well.
        sites: guesses of patients' sites; None if the generator has no looks
            (`generator.style = 0`) or there are patients of fewer than two sites.
        uncompared: the run's sites with whose members nobody has compared the others.
    """

    attacks: list[Attack]
    copies: NearCopies
    sites: SitesGuessed | None
    uncompared: list[str]


def audit(
    run: RunFolder,
    members: Sequence[Case],
    others: Sequence[Case],
    synthetic: Sequence[Case],
    out: Path,
    *,
    masks: str = "",
    fading: Fading = AS_PAINTED,
    confirmed: Collection[str] = (),
    pixels: Sequence[PixelsRead] = (),
    canaries: str = "",
) -> Audit:
    """Attacks a finished run with real images of members and of others.

    Args:
        run: the run under audit.
        members: cases of patients named `site/patient` that the run was trained on.
        others: cases of patients of the same hospitals that it was not trained on; any other
            difference between the two groups would be mistaken for membership.
        synthetic: the synthetic set to be released.
        out: folder for `audit.json` and `nearest.png`; the latter shows real images, so keep it at
            the site.
        masks: digest of the masks that the set was painted from.
        fading: labels that the set shows more or less clearly.
        confirmed: sites whose own state says that the run was trained on these members.
        pixels: what a coordinator reads of their images, to be written down with the rest.
        canaries: start of the names of both groups, if they are only patients put in on purpose.

    Raises:
        DataError: a group has fewer than two patients, or two patients have the same image.
    """
    for name, cases in (("members", members), ("others", others)):
        if len({case.patient for case in cases}) < 2:
            raise DataError(f"an audit needs two patients at least among the {name}.")
    _check_once([*members, *others])
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
    apart = relative_distances([*members, *others], synthetic)
    of_members, of_others = apart[: len(members)], apart[len(members) :]
    copies = near_copies(_least(members, of_members), _least(others, of_others))
    guessed = guess_sites(run, [*members, *others])
    # Patients whom a site itself held out have its name.
    given = any("/" not in case.patient for case in others)
    uncompared = sorted(set(run.facts().sites) - set(audited_sites(members))) if given else []
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "generator_sha256": run.generator_digest(),
        "masks_sha256": masks,
        "fading": fading.told(),
        "painting_version": PAINTING_VERSION,
        "modalities": list(members[0].modalities),
        "canaries": canaries,
        "confirmed": {site: site in confirmed for site in audited_sites(members)},
        "uncompared": uncompared,
        "attacks": [{**asdict(one), "verdict": one.verdict} for one in attacks],
        "copies": {**asdict(copies), "verdict": copies.verdict},
        "sites": guessed and {**asdict(guessed), "verdict": guessed.verdict},
        "pixels": [{**asdict(one), "verdict": one.verdict} for one in pixels],
    }
    near = of_members.min(dim=1)
    closest = near.values.argsort()[:6].tolist()
    pairs = [(members[index], synthetic[int(near.indices[index])]) for index in closest]
    write_whole(out / NEAREST_FILE, _picture(pairs, copies.verdict))
    write_whole(out / AUDIT_FILE, json.dumps(without_nan(tables), indent=1).encode())
    return Audit(attacks, copies, guessed, uncompared)


def of_canaries(cases: Sequence[Case], start: str) -> list[Case]:
    """Cases of patients whose names, without their site's, start so.

    Raises:
        DataError: there are fewer than two such patients.
    """
    found = [case for case in cases if case.patient.rpartition("/")[2].startswith(start)]
    if len({case.patient for case in found}) < 2:
        raise DataError(
            "an audit needs two patients at least of each group, and among the "
            f"{len({case.patient for case in cases})} of one the names of fewer start with "
            f"'{start}'. Put more in on purpose, or correct --canaries."
        )
    return found


def _check_once(real: Sequence[Case]) -> None:
    """Refuses cases of two patients with one image, mirrored or not.

    A member who is among the others as well, under another name, would make the groups alike, and
    a member who is there twice would make a copy look as near as the next patient.
    """
    # Empty slices are the same in everybody, whatever a modality's background is.
    varied = _small(real).flatten(2).std(dim=2).amax(dim=1) > FLAT
    twice = int(((_to_next_patient(real) < SAME) & varied).sum())
    if twice:
        raise DataError(
            f"{twice} cases have an image that another patient has as well, so an audit could not "
            "tell members from others, nor copies from patients. Take out who is there twice."
        )


def audited_sites(members: Sequence[Case]) -> list[str]:
    """Sites of members, whose patients are named `site/patient`."""
    return sorted({case.patient.partition("/")[0] for case in members})


def patient_scores(
    run: RunFolder, real: Sequence[Case], synthetic: Sequence[Case]
) -> dict[str, dict[str, float]]:
    """Membership score of each patient by attack, mean over the patient's cases; higher: member.

    Args:
        run: the run under audit.
        real: cases of members and of others; no patient is both.
        synthetic: the synthetic set to be released.
    """
    apart = _distances(_small(real), _small(synthetic))
    scale = float(apart.min(dim=1).values.median())
    by_case = {
        "painting": -_gaps(run, real).flatten(1).min(dim=1).values,
        "nearest": -apart.min(dim=1).values,
        "density": torch.exp(-apart / max(scale, 1e-12)).mean(dim=1).log(),
    }
    return {
        name: {patient: float(mean) for patient, mean in _by_patient(real, scores).items()}
        for name, scores in by_case.items()
    }


def relative_distances(real: Sequence[Case], synthetic: Sequence[Case]) -> Tensor:
    """Distances (real, synthetic), relative to that of the real case to the next other patient's.

    An empty slice, which all patients have alike, is thus as far from a synthetic one as any. Of an
    image and its mirror image the nearer one counts, since generators may learn from both.
    """
    usual = _to_next_patient(real)[:, None]
    return ((_mirrored_too(_small(real), _small(synthetic)) + TINY) / (usual + TINY)).sqrt()


def _to_next_patient(real: Sequence[Case]) -> Tensor:
    """Mean squared difference of each case from the nearest of another patient, mirrored or not."""
    small = _small(real)
    _, number = np.unique([case.patient for case in real], return_inverse=True)
    own = torch.from_numpy(number[:, None] == number)
    return _mirrored_too(small, small).masked_fill(own, math.inf).min(dim=1).values


def near_copies(members: NDArray[np.float64], others: NDArray[np.float64]) -> NearCopies:
    """Searches for near copies of members, with a rate of false alarms of at most `LEVEL`.

    What is nearer than `COPY` counts as one whatever the others say.

    Without copies members and others are exchangeable, so a member is nearer than the k-th nearest
    of n others with probability k / (n + 1). Beyond that, small distances follow a power law
    (Levina and Bickel 2005), so their logarithms are exponential (Hill 1975), and the k - 1 nearer
    others say how fast they fall off. The bound over all members is Bonferroni's. (Ranks alone
    would not do: among equally many, two copies are the two nearest patients in every fourth case.)

    Args:
        members: smallest relative distance of each member to a synthetic image, 0 or more.
        others: the same of each other patient; two at least.
    """
    near, far = (-np.log(np.clip(group, 1e-6, None)) for group in (members, others))
    far = np.sort(far)[::-1]
    tail = max(1, min(TAIL, len(far) // 2))
    spread = max(float((far[:tail] - far[tail]).sum()), 1e-12)
    beyond = np.clip(near - far[tail], 0, None) / spread
    p_values = len(near) * (tail + 1) / (len(far) + 1) * (1 + beyond) ** -tail
    p_values[beyond == 0] = 1.0
    copied = (p_values < LEVEL) | (members < COPY)
    return NearCopies(
        int(copied.sum()), float(members.min()), float(others.min()),
        min(1.0, float(p_values.min())), len(members), len(others),
    )  # fmt: skip


def guess_sites(run: RunFolder, cases: Sequence[Case]) -> SitesGuessed | None:
    """Guesses each patient's site from the look whose paintings are most similar to the images.

    Args:
        run: the run under audit.
        cases: cases of patients named `site/patient`; others are skipped.

    Returns:
        The result; None if the generator has no looks, sites share one, or there are patients of
        fewer than two sites.
    """
    facts = run.facts()
    sites, looks = facts.teachers, facts.looks()
    known = [case for case in cases if case.patient.rpartition("/")[0] in sites]
    truth = {case.patient: case.patient.rpartition("/")[0] for case in known}
    if not run.recipe().generator.style or len(looks) < 2 or len(set(truth.values())) < 2:
        return None
    nearest = _by_patient(known, _gaps(run, known).min(dim=1).values)
    # Of the sites that share a look the largest is the best guess.
    likely = [max(alike, key=lambda site: float(sites[site]["share"])) for alike in looks.values()]
    right = sum(likely[int(gaps.argmin())] == truth[name] for name, gaps in nearest.items())
    always = max(Counter(truth.values()).values()) / len(truth)
    test = binomtest(right, len(truth), always, alternative="greater")
    low, high = fraction_interval(right, len(truth))
    return SitesGuessed(right, len(truth), low, high, always, float(test.pvalue))


def _by_patient(cases: Sequence[Case], values: Tensor) -> dict[str, Tensor]:
    """Mean over each patient's cases of values that have one row per case."""
    rows: dict[str, list[Tensor]] = {}
    for case, row in zip(cases, values, strict=True):
        rows.setdefault(case.patient, []).append(row)
    return {patient: torch.stack(own).mean(dim=0) for patient, own in rows.items()}


def _least(cases: Sequence[Case], distances: Tensor) -> NDArray[np.float64]:
    """Smallest distance of each patient, from distances (case, synthetic image)."""
    least: dict[str, float] = {}
    for case, nearest in zip(cases, distances.min(dim=1).values.tolist(), strict=True):
        least[case.patient] = min(nearest, least.get(case.patient, math.inf))
    return np.array(list(least.values()))


def _gaps(run: RunFolder, cases: Sequence[Case]) -> Tensor:
    """Mean absolute differences between images and what the generator paints from their masks.

    Returns:
        Tensor (case, repeat, look). The attacker does not know the site, so every look is tried
        equally often.
    """
    recipe, facts, generator = run.recipe(), run.facts(), run.generator()
    random = torch.Generator().manual_seed(derived_seed(0, "audit"))
    channels = [facts.scope.modalities.index(name) for name in cases[0].modalities]
    different = list(facts.looks())
    repeats = math.ceil(PAINTINGS / len(different))
    looks = different * repeats
    gaps: list[Tensor] = []
    for case in cases:
        masks = torch.stack([case.mask] * len(looks))
        with torch.no_grad():
            painted = generator(*generator_inputs(recipe, facts.scope, masks, looks, random))
        gaps.append((painted[:, channels] - case.image).abs().flatten(1).mean(1))
    return torch.stack(gaps).unflatten(1, (repeats, len(different)))


def _small(cases: Sequence[Case]) -> Images:
    images = torch.stack([case.image for case in cases])
    return torch.nn.functional.interpolate(images, size=(SIDE, SIDE), mode="area")


def _distances(ones: Tensor, others: Tensor) -> Tensor:
    """Mean squared differences of all pairs, (ones, others)."""
    return torch.cdist(ones.flatten(1), others.flatten(1)).square() / ones[0].numel()


def _mirrored_too(ones: Tensor, others: Tensor) -> Tensor:
    """`_distances`, of the nearer of each image of `ones` and its mirror image."""
    return torch.minimum(_distances(ones, others), _distances(ones.flip(-1), others))


def _attack(name: str, members: NDArray[np.float64], others: NDArray[np.float64]) -> Attack:
    """Computes an attack's statistics from its scores of patients."""
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
    """Lower bound of epsilon, from guessing that the half with higher scores took part."""
    size = min(len(members), len(others))
    scores = np.concatenate(
        [random.choice(members, size, replace=False), random.choice(others, size, replace=False)]
    )
    # Ties are broken at random, not by order.
    guessed = np.lexsort((random.random(2 * size), scores))[size:]
    correct = 2 * int((guessed < size).sum())
    return epsilon_of_guesses(correct, 2 * size, 2 * size, delta=DELTA)


def area_under_curve(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Probability that a member scores above a non-member; ties count half."""
    above = (members[:, None] > others).mean()
    ties = (members[:, None] == others).mean()
    return float(above + ties / 2)


def _picture(pairs: Sequence[tuple[Case, Case]], caption: str) -> bytes:
    """Members' images above the synthetic images nearest to them, the nearest pair first."""
    figure = Figure(figsize=(1.5 * len(pairs) + 0.4, 3.2), layout="constrained")
    grid = figure.subplots(2, len(pairs), squeeze=False)
    for column, pair in zip(grid.T, pairs, strict=True):
        for panel, case in zip(column, pair, strict=True):
            panel.imshow(case.image[0].numpy(), cmap="gray", vmin=IMAGE_LOW, vmax=IMAGE_HIGH)
            panel.set_xticks([])
            panel.set_yticks([])
    for line, name in zip(grid, ("real", "nearest synthetic"), strict=True):
        line[0].set_ylabel(name)
    figure.suptitle(fill(caption, 14 * len(pairs)), fontsize=8)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
