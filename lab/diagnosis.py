"""What synthetic images lack beside real ones: variety, detail, borders, and what gives them away.

Every number is of counterparts: synthetic images painted from the masks of real ones, after the
same mirroring and moves as the sites apply in training. Each number has that of the real images
beside it. None of them replaces the Dice of a network trained on the images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Final, final

import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from asyndgan.arrays import Images, Masks
from asyndgan.lazy import Late
from asyndgan.painting.synthesise import synthesise
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.store import Case, derived_seed
from asyndgan.store.augmentation import LIKE_PATIENTS, Moves, mirrored, moved
from asyndgan.store.prepare import widened
from asyndgan.store.splits import split_patients
from asyndgan.training.checkpoint import seeded
from lab.frd import frechet, radiomics
from lab.kid import Features, apart_from_real, features

stats: Any = Late("scipy.stats")  # a second that most commands need not wait for

MOST_IMAGES: Final = 400
"""Most images of each kind that are compared; distances between all pairs are needed."""

VARIANCE: Final = 0.9
"""Fraction of the variance that principal components are counted for."""

NEIGHBOURS: Final = 5
"""The neighbour whose distance is the radius of a set's balls (Naeem et al. 2020, section 5.1)."""

BANDS: Final = 4
"""Number of octaves of the spectrum, from the finest down."""

BORDER: Final = 3
"""Pixels on either side of a label's border at which gradients are compared."""

TELLING_STEPS: Final = 200
"""Updates of the network that learns to tell real images from synthetic ones."""


@final
@dataclass(frozen=True)
class Diagnosis:
    """How synthetic images differ from real ones.

    Attributes:
        components: principal components for `VARIANCE` of the variance.
        components_real: the same of real images.
        nearest: median correlation of an image with the most similar other one.
        nearest_real: the same of real images.
        repeated: mean multi-scale structural similarity of two paintings of one mask; 1 if the
            noise changes nothing; nan if both are equal, or there is only one.
        spectrum: power of synthetic over that of real images, by octave, coarsest first.
        border: mean gradient at a label's border and at 1 to `BORDER` pixels from it.
        border_real: the same of real images.
        kid: kernel inception distance from real images of other patients; nan if there are too few.
        kid_real: the same of real images.
        frd: Frechet radiomic distance from real images of other patients; nan as `kid`.
        frd_real: the same of real images.
        precision: fraction of synthetic images within a ball of real ones, in the space of
            `lab.kid.features` (Kynkaanniemi et al. 2019).
        recall: fraction of real images within a ball of synthetic ones.
        density: mean number of real balls that hold a synthetic image, over `NEIGHBOURS`.
        coverage: fraction of real balls that hold a synthetic image.
        told: AUC of a network that tells real from synthetic images of patients that it did not
            train on; 0.5: it cannot; nan for a single patient.
        told_at: by label, how strongly this network's verdict depends on a pixel there, over the
            mean of all pixels; "border" for pixels next to a label's border.
    """

    components: float
    components_real: float
    nearest: float
    nearest_real: float
    repeated: float
    spectrum: tuple[float, ...]
    border: tuple[float, ...]
    border_real: tuple[float, ...]
    kid: float
    kid_real: float
    frd: float
    frd_real: float
    precision: float
    recall: float
    density: float
    coverage: float
    told: float
    told_at: dict[str, float]


def diagnose_run(run: RunFolder, sites: Mapping[str, Sequence[Case]]) -> Diagnosis:
    """Paints counterparts of at most `MOST_IMAGES` real cases with a run, and compares them.

    Args:
        run: a finished run that paints from masks.
        sites: real cases by site, all with the same modalities; those that lack one are left out.

    Raises:
        RunError: as `asyndgan.painting.synthesise`.
        ValueError: as `diagnose`.
    """
    recipe = run.recipe()
    whole = [
        (site, replace(case, patient=f"{site}/{case.patient}"))
        for site, cases in sites.items() for case in cases if not case.absent
    ]  # fmt: skip
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    looks, chosen = zip(*(whole[index] for index in order[:MOST_IMAGES].tolist()), strict=True)
    real = moved_alike(chosen, recipe)
    masks = [(f"{number}", case.mask) for number, case in enumerate(real)]
    painted, again = (
        [
            widened(case, real[0].modalities)
            for case in synthesise(run, masks, looks=looks, seed=derived_seed(0, "diagnosis", n))
        ]
        for n in range(2)
    )
    labels = {name: int(number) for number, name in run.facts().labels.items()}
    repeats = not torch.equal(painted[0].image, again[0].image)
    return diagnose(painted, real, labels=labels, again=again if repeats else ())


def moved_alike(cases: Sequence[Case], recipe: Recipe) -> list[Case]:
    """Cases of one size, mirrored and moved as the sites of a recipe move theirs in training."""
    still = Moves(rotation=0, zoom=0, translation=0, rim=LIKE_PATIENTS.rim)
    how = replace(LIKE_PATIENTS if recipe.training.move else still, flips=mirrored(recipe))
    images, masks = moved(*_stacked(cases), how, torch.Generator().manual_seed(0))
    return [
        replace(case, image=image, mask=mask)
        for case, image, mask in zip(cases, images, masks, strict=True)
    ]


def diagnose(
    synthetic: Sequence[Case],
    real: Sequence[Case],
    *,
    labels: Mapping[str, int],
    again: Sequence[Case] = (),
) -> Diagnosis:
    """Compares synthetic images with the real ones of the same masks.

    Args:
        synthetic: the counterpart of each of `real`, in their order.
        real: what `moved_alike` returned.
        labels: value of each label by name.
        again: a second counterpart of each, painted with other noise; may be left out.

    Raises:
        ValueError: there are fewer than two images, or not as many of each kind.
    """
    if len(synthetic) != len(real) or len(real) < 2 or len(again) not in (0, len(real)):
        raise ValueError(
            f"{len(synthetic)} synthetic, {len(again)} repeated and {len(real)} real images; there "
            "must be two or more, and as many of each."
        )
    (painted, _), (acquired, masks) = _stacked(synthetic), _stacked(real)
    far = _from_border(masks)
    patients = [case.patient for case in real]
    told, told_at = _told(painted, acquired, masks, far, patients, labels)
    seen, seen_real = features(painted), features(acquired)
    kid, kid_real = apart_from_real(seen, patients, seen_real, patients)
    measured, measured_real = radiomics(painted), radiomics(acquired)
    frd, frd_real = apart_from_real(measured, patients, measured_real, patients, measure=frechet)
    precision, recall, density, coverage = _covered(seen, seen_real)
    return Diagnosis(
        components=components(painted),
        components_real=components(acquired),
        nearest=_nearest(painted),
        nearest_real=_nearest(acquired),
        repeated=_similarity(painted, _stacked(again)[0]) if again else math.nan,
        spectrum=tuple((_power(painted) / _power(acquired).clamp(min=1e-12)).tolist()),
        border=_profile(painted, far),
        border_real=_profile(acquired, far),
        kid=kid,
        kid_real=kid_real,
        frd=frd,
        frd_real=frd_real,
        precision=precision,
        recall=recall,
        density=density,
        coverage=coverage,
        told=told,
        told_at=told_at,
    )


def _stacked(cases: Sequence[Case]) -> tuple[Images, Masks]:
    return torch.stack([case.image for case in cases]), torch.stack([case.mask for case in cases])


def components(images: Images) -> float:
    """Principal components that hold `VARIANCE` of the variance of images, (n, ...)."""
    flat = images.flatten(1)
    shares = torch.linalg.svdvals(flat - flat.mean(0)).square()
    return float((shares.cumsum(0) < VARIANCE * shares.sum()).sum() + 1)


def _nearest(images: Images) -> float:
    flat = images.flatten(1)
    alike = F.normalize(flat - flat.mean(1, keepdim=True))
    return float((alike @ alike.T).fill_diagonal_(-1).amax(1).median())


def _similarity(one: Images, other: Images) -> float:
    from monai.metrics.regression import MultiScaleSSIMMetric  # slow to import

    kernel, side = 7, min(one.shape[2:])
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3
    scales = max(n for n in range(1, len(weights) + 1) if side >= kernel * 2 ** (n - 1) or n == 1)
    measure = MultiScaleSSIMMetric(
        spatial_dims=one.ndim - 2, data_range=2.0, kernel_size=kernel,
        weights=[weight / sum(weights[:scales]) for weight in weights[:scales]],
    )  # fmt: skip
    found = measure(one, other)
    assert isinstance(found, Tensor)
    return float(found.nanmean())


def _power(images: Images) -> Tensor:
    """Mean power by octave of the spatial frequency, coarsest first."""
    axes = tuple(range(2, images.ndim))
    power = torch.fft.fftn(images, dim=axes).abs().square().mean(dim=(0, 1))
    frequencies = torch.meshgrid(*map(torch.fft.fftfreq, images.shape[2:]), indexing="ij")
    radius = torch.stack([axis.square() for axis in frequencies]).sum(0).sqrt()
    edges = [0.5 / 2**octave for octave in range(BANDS, -1, -1)]
    return torch.stack(
        [power[(radius > low) & (radius <= high)].mean() for low, high in pairwise(edges)]
    )


def _from_border(masks: Masks) -> Tensor:
    """Distance of each pixel from the nearest one of another label, in pixels from 1."""
    far = torch.full(masks.shape, math.inf)
    for distance, mask in zip(far, masks, strict=True):
        for label in mask.unique() if mask.unique().numel() > 1 else ():
            own = torch.from_numpy(distance_transform_edt((mask == label).numpy())).float()
            distance.copy_(torch.where(mask == label, own, distance))
    return far


def _profile(images: Images, far: Tensor) -> tuple[float, ...]:
    steps = [
        F.pad(images.diff(dim=axis), _after(images.ndim, axis)) for axis in range(2, images.ndim)
    ]
    gradient = torch.stack(steps).square().sum(0).sqrt().mean(1)
    rings = [(far > low) & (far <= low + 1) for low in range(BORDER + 1)]
    return tuple(float(gradient[ring].mean()) for ring in rings)


def _after(ndim: int, axis: int) -> list[int]:
    """Padding by one after the end of an axis, as `torch.nn.functional.pad` takes it."""
    padding = [0] * (2 * (ndim - axis))
    padding[-1] = 1
    return padding


def _covered(painted: Features, real: Features) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage, in features of equal spread in real images."""
    unit = real.std(0)
    told = unit > 1e-6
    real, fake = (f[:, told] / unit[told] for f in (real, painted))
    nearest = min(NEIGHBOURS, len(real) - 1) + 1  # each is nearest to itself
    radius, radius_fake = (torch.cdist(f, f).kthvalue(nearest).values for f in (real, fake))
    apart = torch.cdist(real, fake)
    within = apart < radius[:, None]
    return (
        float(within.any(0).float().mean()),
        float((apart < radius_fake[None]).any(1).float().mean()),
        float(within.float().sum(0).mean() / (nearest - 1)),
        float((apart.amin(1) < radius).float().mean()),
    )


def _told(
    painted: Images,
    acquired: Images,
    masks: Masks,
    far: Tensor,
    patients: Sequence[str],
    labels: Mapping[str, int],
) -> tuple[float, dict[str, float]]:
    """How well a small network tells both kinds of other patients apart, and where it looks."""
    if len(set(patients)) < 2:
        return math.nan, {}
    halves = split_patients(patients, {"train": 0.5, "judge": 0.5}, 0)
    with seeded(0):
        network = _telling(acquired.shape[1], acquired.ndim - 2)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
    random = torch.Generator().manual_seed(0)
    own = torch.tensor(halves["train"])
    drawn = partial(torch.randint, len(own), (16,), generator=random)
    for _ in range(TELLING_STEPS):
        real, fake = network(acquired[own[drawn()]]), network(painted[own[drawn()]])
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    others = torch.tensor(halves["judge"])
    shown = torch.cat([acquired[others], painted[others]]).requires_grad_()
    said = network.eval()(shown)
    (slope,) = torch.autograd.grad(said.sum(), shown)
    count = len(others)
    verdicts = said.detach().flatten()
    wins = stats.mannwhitneyu(verdicts[:count], verdicts[count:]).statistic
    weight = slope.abs().mean(1)
    lying = torch.cat([masks[others]] * 2)
    border = torch.cat([far[others]] * 2) <= 1
    places = {name: (lying == value) & ~border for name, value in labels.items()}
    return float(wins) / count**2, {
        name: float(weight[place].mean() / weight.mean())
        for name, place in {**places, "border": border}.items()
        if place.any()
    }


def _telling(channels: int, spatial_dims: int) -> nn.Module:
    conv, pool = (
        (nn.Conv2d, nn.AdaptiveAvgPool2d)
        if spatial_dims == 2
        else (nn.Conv3d, nn.AdaptiveAvgPool3d)
    )
    layers: list[nn.Module] = []
    for source, target in pairwise((channels, 16, 32, 32)):
        layers += [conv(source, target, 3, stride=2, padding=1), nn.GroupNorm(4, target)]
        layers += [nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, pool(1), nn.Flatten(), nn.Linear(32, 1))
