"""Membership inference by masks: an attacker compares a patient's mask with masks that they hold.

They have the patient's mask, or an image whose mask a random forest finds that learned from
other patients.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from asyndgan.arrays import Image, Mask
from asyndgan.auditing.distances import SIDE, by_patient
from asyndgan.lazy import Late
from asyndgan.store import Case

ensemble: Any = Late("sklearn.ensemble")  # a second that most commands need not wait for

MOST: Final = 8
"""Most cases with a label of a patient that are compared, from all parts of a volume."""

ANGLES: Final = (-12.0, -6.0, 0.0, 6.0, 12.0)
ZOOMS: Final = (1 / 1.1, 1.0, 1.1)
FLIPS: Final = (1.0, -1.0)
"""How a mask is turned (degrees), scaled and mirrored to find it again: as far as recipes move."""

CHUNK: Final = 8
"""Masks that are compared at a time."""

FINEST: Final = 64
"""Most pixels a side at which forests find masks."""

BLURS: Final = (1, 2, 4, 8)
"""Standard deviations of the Gaussian filters by which a forest sees around a pixel."""

TREES: Final = 16
DEPTH: Final = 14
PIXELS: Final = 10_000
"""Most pixels that a forest learns from, equally many of each label."""


def mask_scores(
    members: Sequence[Case], others: Sequence[Case], *held: Iterable[Mask]
) -> list[dict[str, dict[str, float]]]:
    """Membership scores of each patient for attackers who hold sets of masks; higher: member.

    `mask` is by the patient's mask, `picture` by the one that a forest finds in the image. The
    score is the overlap with the nearest mask that is held, less that with the nearest mask of
    another patient; the mean over a patient's cases with a label. Patients without one get the
    lowest score.
    """
    ours, theirs = labelled(members), labelled(others)
    real = [*ours, *theirs]
    patients = dict.fromkeys(case.patient for case in (*members, *others))
    scores: list[dict[str, dict[str, float]]] = [{} for _ in held]
    own = [case.mask for case in real]
    sets = [own, *([mask for mask in masks if mask.any()] for masks in held)]
    names = np.array([case.patient for case in real])
    strangers = torch.from_numpy(names[:, None] != names)
    for name, masks in (("mask", own), ("picture", segmented(ours, theirs))):
        dice = overlaps(masks, [mask for each in sets for mask in each])
        of_own, *of_held = dice.split([len(each) for each in sets], dim=1)
        usual = _largest(of_own * strangers)
        for found, each in zip(scores, of_held, strict=True):
            shown = [place for place, mask in enumerate(masks) if mask.any()]
            gains = by_patient([real[place] for place in shown], (_largest(each) - usual)[shown])
            told = {patient: float(gain) for patient, gain in gains.items()}
            lowest = min(told.values(), default=0.0)
            found[name] = {patient: told.get(patient, lowest) for patient in patients}
    return scores


def _largest(dice: Tensor) -> Tensor:
    """The largest of each row; 0 if rows are empty."""
    return F.pad(dice, (0, 1)).amax(1)


def labelled(cases: Sequence[Case]) -> list[Case]:
    """At most `MOST` cases with a label of each patient."""
    of: dict[str, list[Case]] = {}
    for case in cases:
        if case.mask.any():
            of.setdefault(case.patient, []).append(case)
    return [
        own[place]
        for own in of.values()
        for place in np.linspace(0, len(own) - 1, min(MOST, len(own))).round().astype(int).tolist()
    ]


def overlaps(masks: Sequence[Mask], held: Sequence[Mask]) -> Tensor:
    """Dice of each mask with each that is held, mean over their labels: (masks, held).

    Of a mask as it is, mirrored, turned and scaled the best one counts, wherever it lies.
    """
    labels = sorted({int(label) for mask in (*masks, *held) for label in mask.unique()} - {0})
    if not labels:
        return torch.zeros(len(masks), len(held))
    as_they_are = [(0.0, 1.0, 1.0)]
    still = torch.cat([next(_placed(chunk, labels, as_they_are)) for chunk in _chunks(held)], dim=1)
    areas = still.sum(2)[:, None]
    best: list[Tensor] = []
    for chunk in _chunks(masks):
        most = torch.zeros(len(chunk), len(held))
        for each in _placed(chunk, labels, product(ANGLES, ZOOMS, FLIPS)):
            all_of = each.sum(2)[:, :, None] + areas
            dice = 2 * each @ still.mT / all_of.clamp(min=1e-6)
            most = torch.maximum(most, dice.sum(0) / (all_of > 0).sum(0).clamp(min=1))
        best.append(most)
    return torch.cat(best)


def _chunks(masks: Sequence[Mask]) -> Iterator[Tensor]:
    return (torch.stack([*masks[at : at + CHUNK]]) for at in range(0, len(masks), CHUNK))


def _placed(
    masks: Tensor, labels: Sequence[int], ways: Iterable[tuple[float, float, float]]
) -> Iterator[Tensor]:
    """Labels of masks (n, *sides), moved to the middle: (label, n, pixel) for each way."""
    count, *sides = masks.shape
    dims = len(sides)
    parts = torch.stack([masks == label for label in labels], 1).float()
    parts = F.interpolate(parts, size=(2 * SIDE,) * dims, mode="area")
    place = (torch.arange(2 * SIDE) + 0.5) / SIDE - 1
    whole = parts.sum(1)
    # Coordinates are those of the last axis first.
    profiles = [whole.movedim(-1 - n, -1).reshape(count, -1, 2 * SIDE).sum(1) for n in range(dims)]
    middle = torch.stack([(profile * place).sum(1) for profile in profiles], 1)
    middle = middle / whole.flatten(1).sum(1).clamp(min=1e-6)[:, None]
    ratio = sides[-2] / sides[-1]
    for angle, zoom, flip in ways:
        cos, sin = zoom * math.cos(math.radians(angle)), zoom * math.sin(math.radians(angle))
        matrix = torch.eye(dims) * zoom
        matrix[:2, :2] = torch.tensor([[cos * flip, -sin * ratio], [sin / ratio * flip, cos]])
        where = torch.cat([matrix.expand(count, dims, dims), middle[:, :, None]], 2)
        grid = F.affine_grid(where, [count, len(labels), *[SIDE] * dims], align_corners=False)
        yield (
            F.grid_sample(parts, grid, align_corners=False).flatten(2).transpose(0, 1).contiguous()
        )


def segmented(members: Sequence[Case], others: Sequence[Case]) -> list[Mask]:
    """Masks that forests find in images of members, then of others.

    Each of two forests learns from one half of the other patients, and judges the rest.
    """
    cases = [*members, *others]
    half = {
        patient: place % 2
        for group in (members, others)
        for place, patient in enumerate(sorted({case.patient for case in group}))
    }
    found: dict[int, Mask] = {}
    for own in (0, 1):
        places = [place for place, case in enumerate(cases) if half[case.patient] == own]
        learned = [case for case in others if half[case.patient] != own]
        found |= zip(places, _found(learned, [cases[place].image for place in places]), strict=True)
    return [found[place] for place in range(len(cases))]


def _found(cases: Sequence[Case], images: Sequence[Image]) -> list[Mask]:
    """Masks of images, at most `FINEST` pixels a side, by a random forest (Breiman 2001) of cases.

    Of no cases it finds no label.
    """
    if not images or not cases:
        return [torch.zeros(image.shape[1:], dtype=torch.int64) for image in images]
    seen = np.concatenate([_features(case.image) for case in cases])
    truth = np.concatenate([_coarse(case).numpy().ravel() for case in cases])
    labels, counts = np.unique(truth, return_counts=True)
    random = np.random.default_rng(0)
    drawn = [
        random.choice(np.flatnonzero(truth == label), min(count, PIXELS // len(labels)), False)
        for label, count in zip(labels, counts, strict=True)
    ]
    chosen = np.concatenate(drawn)
    forest = ensemble.RandomForestClassifier(
        TREES, max_depth=DEPTH, min_samples_leaf=3, random_state=0
    ).fit(seen[chosen], truth[chosen])
    # As often as labels are in whole images, not among the pixels that were drawn.
    weights = counts / [len(own) for own in drawn]
    likely = forest.predict_proba(np.concatenate([_features(image) for image in images]))
    found = forest.classes_[(likely * weights).argmax(1)]
    return [*torch.from_numpy(found).reshape(len(images), *_smaller(images[0]).shape[1:])]


def _step(space: Sequence[int]) -> int:
    """By how much images are made smaller."""
    return math.ceil(max(space) / FINEST)


def _smaller(image: Image) -> Tensor:
    pool = F.avg_pool2d if image.ndim == 3 else F.avg_pool3d
    return pool(image, _step(image.shape[1:]))


def _coarse(case: Case) -> Tensor:
    """The label in the middle of each pixel of `_smaller`."""
    step = _step(case.mask.shape)
    coarse = case.mask[(slice(step // 2, None, step),) * case.mask.ndim]
    return coarse[tuple(map(slice, _smaller(case.image).shape[1:]))]


def _features(image: Image) -> NDArray[np.float32]:
    """What a forest sees of each pixel: its place, and intensities there and around (pixel, n)."""
    planes = _smaller(image).numpy()
    blurred = [gaussian_filter(plane, by) for plane in planes for by in BLURS]
    places = np.meshgrid(*(np.linspace(-1, 1, side) for side in planes.shape[1:]), indexing="ij")
    return np.stack([*planes, *blurred, *places], -1).reshape(planes[0].size, -1).astype(np.float32)
