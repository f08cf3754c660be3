"""Comparison of completed modalities with the acquired ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Image
from asyndgan.errors import DataError
from asyndgan.judging.metrics import mean
from asyndgan.models.budgets import TranslationBudget
from asyndgan.painting.sets import masks_of
from asyndgan.painting.synthesise import synthesise
from asyndgan.painting.translation import (
    Incomplete,
    Regression,
    filled,
    translated,
    translator_of,
)
from asyndgan.runs import RunFolder
from asyndgan.store import Case
from asyndgan.store.prepare import blanked, widened
from lab.scores import interval

RANGE: Final = IMAGE_HIGH - IMAGE_LOW
WINDOW: Final = 11
"""Window of the structural similarity in pixels, with a Gaussian of 1.5 (Wang et al. 2004)."""

HIDDEN: Final = ", mask hidden"
"""Suffix of ways that do not use the mask, so that segmenting their results is a fair test."""

NOTHING: Final = "left as it is"
WITHOUT: Final = "left out, and no network knows it"
ACQUIRED: Final = "acquired"
"""References without any completion: modality blank, network trained without it, acquired."""

Completed = Mapping[str, Sequence[Image]]
"""Images with all modalities, one for each judged case, by the way of completion."""


def completions(
    run: RunFolder,
    sites: Mapping[str, Sequence[Case]],
    judged: Sequence[Case],
    lacking: Sequence[str],
    *,
    budget: TranslationBudget,
    seed: int = 0,
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, list[Image]]:
    """Completes cases in every way, including baselines fitted to real complete cases.

    Args:
        run: a finished run.
        sites: real complete cases of each site, to which the label means and the regressions are
            fitted; a site that lacks the modality would not have them. The translator's training
            cases are painted from their masks.
        judged: complete cases of other patients, whose `lacking` modalities are hidden.
        lacking: modalities to complete.
        budget: budget of the translator.
        seed: seed of everything random.
        device: device to train on.
        on_progress: called after every step of the translator.

    Returns:
        Images by way, with the channels in the order of `judged`.

    Raises:
        DataError: the run paints other modalities than the cases have.
    """
    theirs, painted = judged[0].modalities, run.facts().scope.modalities
    if set(theirs) != set(painted):
        raise DataError(
            f"the cases have {', '.join(theirs)}, and the run paints {', '.join(painted)}; to be "
            "judged by, they have to be the same."
        )
    judged = [widened(case, painted) for case in judged]
    sites = {site: [widened(case, painted) for case in own] for site, own in sites.items()}
    hidden = [blanked(case, lacking) for case in judged]
    masked = [Incomplete(case, True) for case in hidden]
    unmasked = [
        Incomplete(replace(case, mask=torch.zeros_like(case.mask)), masked=False) for case in hidden
    ]
    real = [case for own in sites.values() for case in own]
    translator = translator_of(
        run,
        masked,
        masks_of(sites),
        budget=budget,
        seed=seed,
        device=device,
        on_progress=on_progress,
    )
    found = {
        "mean of each label": _label_means(real, masked),
        "painted from the mask": _painted(run, hidden, seed),
        "linear regression": _regressed(real, masked),
        f"linear regression{HIDDEN}": _regressed(real, unmasked),
        "translated": translated(translator, masked),
        f"translated{HIDDEN}": translated(translator, unmasked),
        **{
            f"{name} as it is{HIDDEN}": _copied(unmasked, name)
            for name in painted
            if name not in lacking
        },
    }
    back = [painted.index(name) for name in theirs]
    return {way: [image[back] for image in images] for way, images in found.items()}


def _painted(run: RunFolder, cases: Sequence[Case], seed: int) -> list[Image]:
    """Painted by the generator from each mask alone (Chang et al. 2020)."""
    masks = [(case.name, case.mask) for case in cases]
    found = synthesise(run, masks, seed=seed)
    return [filled(case, own.image) for case, own in zip(cases, found, strict=True)]


def nearness(
    completed: Completed, judged: Sequence[Case], lacking: Sequence[str], best: str
) -> list[dict[str, Any]]:
    """Scores every way against the acquired images, over pixels whose label is not 0.

    Args:
        completed: result of `completions`.
        judged: the cases with the acquired modalities.
        lacking: modalities to compare.
        best: way that the others are compared with; ways that do not use the mask are compared
            with its variant that does not use it either, if there is one.

    Returns:
        For each way: `way`; `patients`; `ssim`, mean structural similarity over patients, up to 1;
        `psnr`, mean peak signal-to-noise ratio in decibels; `ahead` and `psnr_ahead`, the lead of
        the best way in both, mean paired difference; each with the ends of its 95 % bootstrap
        interval over patients, `_low` and `_high`.
    """
    similar, noise = (
        {way: _by_patient(score, images, judged, lacking) for way, images in completed.items()}
        for score in (_ssim, _psnr)
    )
    rows = []
    for way, scores in similar.items():
        hidden = best + HIDDEN  # ways without the mask are compared with each other
        other = hidden if way.endswith(HIDDEN) and hidden in similar else best
        rows.append(
            {
                "way": way, "patients": len(scores),
                **interval("ssim", scores),
                **interval("psnr", noise[way]),
                **interval("ahead", np.subtract(similar[other], scores)),
                **interval("psnr_ahead", np.subtract(noise[other], noise[way])),
            }
        )  # fmt: skip
    return rows


def with_images(cases: Sequence[Case], images: Sequence[Image]) -> list[Case]:
    """The cases with these images in place of their own."""
    return [
        replace(case, image=image, absent=()) for case, image in zip(cases, images, strict=True)
    ]


def _by_patient(
    score: Callable[[Tensor, Tensor, Tensor], float],
    images: Sequence[Image],
    judged: Sequence[Case],
    lacking: Sequence[str],
) -> list[float]:
    """Mean score over the slices of each patient, in the order in which patients appear."""
    found: dict[str, list[float]] = {}
    for case, image in zip(judged, images, strict=True):
        places = [case.modalities.index(name) for name in lacking]
        inside = case.mask > 0
        if inside.any():
            value = score(image[places], case.image[places], inside)
            found.setdefault(case.patient, []).append(value)
    return [mean(values) for values in found.values()]


def _ssim(image: Tensor, truth: Tensor, inside: Tensor) -> float:
    rim = [WINDOW // 2] * 4  # padding that keeps the similarity map as large as the image
    # Similarity compares brightness as well, which must not be below 0.
    one, other = (
        F.pad((planes[:, None] - IMAGE_LOW) / RANGE, rim, mode="reflect")
        for planes in (image, truth)
    )
    from monai.metrics.regression import compute_ssim_and_cs  # slow to import

    maps, _ = compute_ssim_and_cs(
        one, other, spatial_dims=2, kernel_size=[WINDOW] * 2, kernel_sigma=[1.5] * 2,
        data_range=1.0,
    )  # fmt: skip
    return float(maps[:, 0][:, inside].mean())


def _psnr(image: Tensor, truth: Tensor, inside: Tensor) -> float:
    error = float((image - truth)[:, inside].square().mean())
    return 10 * math.log10(RANGE**2 / max(error, 1e-12))


def _copied(cases: Sequence[Incomplete], modality: str) -> list[Image]:
    """Shows an acquired modality in place of those that are missing: what a reader has already."""
    place = cases[0].case.modalities.index(modality)
    return [
        filled(each.case, each.case.image[[place]].expand_as(each.case.image)) for each in cases
    ]


def _label_means(real: Sequence[Case], cases: Sequence[Incomplete]) -> list[Image]:
    """Sets each pixel to the mean intensity of its label in the real cases."""
    labels = 1 + max(int(case.mask.max()) for case in [*real, *(each.case for each in cases)])
    images = torch.stack([case.image for case in real])
    maps = F.one_hot(torch.stack([case.mask for case in real]), labels).float()
    sums = torch.einsum("nchw,nhwl->lc", images, maps)
    means = sums / maps.sum((0, 1, 2)).clamp(min=1)[:, None]
    return [filled(each.case, means[each.case.mask].movedim(-1, 0)) for each in cases]


def _regressed(real: Sequence[Case], cases: Sequence[Incomplete]) -> list[Image]:
    """Predicts each pixel as a regression fitted to real complete cases does."""
    fitted = Regression.of(real, 1 + max(int(case.mask.max()) for case in real))
    return [filled(each.case, fitted.predicted(each.case, masked=each.masked)) for each in cases]
