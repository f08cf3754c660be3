"""Completion of the modalities that a patient's case lacks, at the site that holds the case.

There are two ways. Painted: the central generator paints the missing modalities from the mask, the
only thing that it knows about the patient (Multi-modal AsynDGAN, Chang et al. 2020). Translated: a
network and a linear regression learn, on complete cases painted by the generator, to map the
present modalities to the missing ones; both are then applied to the patient's real images, and
their mean is taken. No site needs a complete real case.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndgan import __version__
from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Image, Images, Mask
from asyndgan.data import Case, derived_seed
from asyndgan.data.colours import Colours, recoloured
from asyndgan.data.description import DatasetInfo, check_labels, describe
from asyndgan.data.fit import check_contrast, check_uncut
from asyndgan.data.moves import Moves, mirrored, moved
from asyndgan.data.nnunet import CaseFiles, list_cases, read_case, read_image
from asyndgan.data.prepare import invert, prepare, stored_as
from asyndgan.data.writing import write_completed
from asyndgan.errors import DataError, NotFiniteError
from asyndgan.models.segmenters import build_segmenter, check_size
from asyndgan.painting.budget import TranslationBudget
from asyndgan.painting.pictures import plot_paintings
from asyndgan.painting.regression import Regression
from asyndgan.painting.synthesise import (
    check_labels_of,
    check_look,
    digests_of,
    looks_of,
    synthesise,
)
from asyndgan.recipe import ImageSection
from asyndgan.runs import RunFolder
from asyndgan.training.checkpoint import seeded

Way = Literal["translated", "painted"]
BATCH: Final = 32

TRANSLATION_VERSION: Final = 3
"""Part of the name of kept completions; to be raised when the same inputs give other images."""

REGRESSED: Final = 0.5
"""Part of the linear regression in what a translator says, chosen on validation patients.

A network learns how painted images differ from real ones as well; a regression has hardly any
parameters for that (docs/experiments-data.md, "Completing a modality").
"""

MOST_MASKS: Final = 1000
"""Most masks that the training images of a folder's translator are painted from, for its memory, if
they measure at most 64 x 64 pixels; of larger ones as many fewer.

By default they give 6,000 images, of which training draws 32,000, each moved anew: 0.6 GB for four
modalities.
"""


@final
@dataclass(frozen=True)
class Incomplete:
    """A prepared case that lacks modalities.

    Attributes:
        case: the case; its absent channels are -1.
        masked: whether its mask is known; an unknown mask is all 0.
    """

    case: Case
    masked: bool


GALLERY: Final = "gallery.png"
"""A few completed cases, beside the completed set."""

MOVES: Final = Moves(flips=(-1,), rotation=20.0, zoom=0.2, translation=0.08)
"""Moves of images with their masks in training."""

COLOURS: Final = Colours(intensity=0.1, gamma=0.2, noise=0.03)
"""Intensity augmentation of the input images only, since real images differ from painted ones."""


@final
class Translator(nn.Module):
    """Predicts missing modalities from the present ones and the mask.

    Args:
        regression: fitted to the cases that the network learns from.
        channels: number of all modalities.
        labels: number of labels of the masks, background included.
        width: filters of the U-Net's first level.
        space: rows and columns.
    """

    def __init__(
        self,
        regression: Regression,
        *,
        channels: int,
        labels: int,
        width: int,
        space: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.regression = regression
        self.labels = labels
        inputs = 2 * channels + labels
        self.network = build_segmenter(inputs, channels, width=width, space=space)
        # The network's norms remove an image's brightness; this bypass keeps it.
        self.direct = nn.Conv2d(inputs, channels, 1)

    def forward(self, images: Images, present: Tensor, masks: Tensor, masked: Tensor) -> Images:
        """The network's part: all modalities; the outputs of present ones are to be ignored.

        Args:
            images: (b, c, *space); absent channels are ignored.
            present: (b, c) booleans: which channels are present.
            masks: (b, *space) labels.
            masked: (b,) booleans: which masks are known.
        """
        space = [1] * (images.ndim - 2)
        there = present.reshape(*present.shape, *space)
        known = masked.reshape(-1, 1, *space)
        maps = F.one_hot(masks, self.labels).movedim(-1, 1) * known
        shown = torch.where(there, images, IMAGE_LOW)
        flags = there.expand_as(images)
        inputs = torch.cat([shown, flags, maps], dim=1).float()
        return torch.tanh(self.network(inputs) + self.direct(inputs))


def train_translator(
    complete: Sequence[Case],
    patterns: Sequence[Sequence[bool]],
    *,
    labels: int,
    budget: TranslationBudget,
    moves: Moves = MOVES,
    seed: int = 0,
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
) -> Translator:
    """Trains a translator on complete synthetic cases.

    Args:
        complete: cases with all modalities.
        patterns: patterns of present modalities to train for, one boolean per modality.
        labels: number of labels of the masks, background included.
        budget: steps, rates and width.
        moves: how images are moved with their masks.
        seed: seed of weights and draws.
        device: device to train on.
        on_progress: called after every step with the steps done.

    Returns:
        The translator, in evaluation mode.

    Raises:
        NotFiniteError: the loss became infinite or NaN.
    """
    channels, *space = complete[0].image.shape
    seed = derived_seed(seed, "translator")
    regression = Regression.of(complete, labels)
    with seeded(seed):
        translator = Translator(
            regression, channels=channels, labels=labels, width=budget.width, space=tuple(space)
        )
    translator.to(device)
    random = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(translator.parameters(), lr=budget.rate)
    half = budget.steps / 2
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (budget.steps - step) / half)
    )
    there = torch.tensor([list(pattern) for pattern in patterns])
    for step in range(budget.steps):
        places = torch.randint(len(complete), (budget.batch,), generator=random).tolist()
        images = torch.stack([complete[place].image for place in places]).to(device)
        masks = torch.stack([complete[place].mask for place in places]).to(device)
        target, masks = moved(images, masks, moves, random)
        shown = recoloured(target, COLOURS, random)
        present = there[torch.randint(len(there), (budget.batch,), generator=random)].to(device)
        masked = (torch.rand(budget.batch, generator=random) >= budget.unmasked).to(device)
        painted = translator(shown, present, masks, masked)
        gap = (painted - target).abs().mean((2, 3))
        loss = gap[~present].mean()
        if not torch.isfinite(loss):
            raise NotFiniteError(f"the translator's loss is {loss.item()} at step {step + 1}.")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if on_progress:
            on_progress(step + 1)
    return translator.eval()


@torch.no_grad()
def translated(
    translator: Translator, cases: Sequence[Incomplete], *, regressed: float = REGRESSED
) -> list[Image]:
    """Completes cases by translation: images of all modalities, the acquired ones unchanged.

    Args:
        translator: network and regression.
        cases: cases with absent modalities, which are completed.
        regressed: part of the regression in the result, 0 to 1; the rest is the network's.
    """
    device = next(translator.parameters()).device
    found: list[Image] = []
    for start in range(0, len(cases), BATCH):
        part = cases[start : start + BATCH]
        images = torch.stack([each.case.image for each in part]).to(device)
        present = torch.stack([present_in(each.case) for each in part]).to(device)
        masks = torch.stack([each.case.mask for each in part]).to(device)
        masked = torch.tensor([each.masked for each in part], device=device)
        painted = translator(images, present, masks, masked).cpu()
        for each, own in zip(part, painted, strict=True):
            linear = translator.regression.predicted(each.case, masked=each.masked)
            found.append(filled(each.case, own.lerp(linear, regressed)))
    return found


def painted_from_masks(
    run: RunFolder, cases: Sequence[Incomplete], *, seed: int = 0, look: str | None = None
) -> list[Image]:
    """Completes cases like `translated`, but painted by the generator from each mask alone.

    All slices of a patient have the same look: that of the site `look`, or one drawn per patient.
    So has what this site does not hold: that of one which does, drawn per patient.

    Raises:
        DataError: a case has no mask.
    """
    for each in cases:
        if not each.masked:
            raise DataError(
                f"case {each.case.name} has no mask to paint from. Add it, or complete by "
                "translation."
            )
    masks = [(each.case.name, each.case.mask) for each in cases]
    patients = [each.case.patient for each in cases]
    looks = looks_of(patients, run, look=look, seed=seed)
    painted = synthesise(run, masks, seed=seed, looks=looks, patients=patients)
    return [filled(each.case, own.image) for each, own in zip(cases, painted, strict=True)]


def present_in(case: Case) -> Tensor:
    """Which modalities a case has, as (c,) booleans."""
    return torch.tensor(case.present)


def filled(case: Case, painted: Image) -> Image:
    """A case's image with its absent modalities taken from `painted`."""
    return torch.where(present_in(case)[:, None, None], case.image, painted)


def translator_of(
    run: RunFolder,
    cases: Sequence[Incomplete],
    masks: Sequence[tuple[str, Mask]],
    *,
    budget: TranslationBudget,
    seed: int = 0,
    look: str | None = None,
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
) -> Translator:
    """Trains a translator for these cases on images that a run's generator paints from masks.

    Args:
        run: a finished run.
        cases: cases to be completed; only their patterns of present modalities are used.
        masks: masks to paint the training images from.
        budget: as for `train_translator`, like `device` and `on_progress`.
        seed: seed of the painting and of the training.
        look: site whose look to paint in; None: looks are drawn by the sites' shares. Where some
            have every modality, only theirs: of an image whose channels come from several looks,
            nothing is learned about how one modality follows from the others.
        device: device to train on.
        on_progress: called after every step with the steps done.

    Raises:
        ValueError: a case has other modalities than the run paints, or in another order.
        NotFiniteError: as in `train_translator`.
    """
    facts = run.facts()
    painted = tuple(facts.scope.modalities)
    if other := [each.case for each in cases if each.case.modalities != painted]:
        raise ValueError(f"{other[0].name} has {other[0].modalities}, the run paints {painted}.")
    looks = [look] * len(masks) if look else []
    if not look and run.recipe().generator.style and 0 < len(facts.whole) < len(facts.teachers):
        names = [name for name, _ in masks]
        looks = looks_of(names, run, seed=seed, among=facts.whole)
    complete = list(synthesise(run, masks, draws=budget.images, seed=seed, move=True, looks=looks))
    patterns = sorted({tuple(present_in(each.case).tolist()) for each in cases})
    return train_translator(
        complete,
        patterns,
        labels=max(facts.scope.labels) + 1,
        budget=budget,
        moves=replace(MOVES, flips=mirrored(run.recipe())),
        seed=seed,
        device=device,
        on_progress=on_progress,
    )


def own_masks(cases: Sequence[Incomplete], image: ImageSection) -> list[tuple[str, Mask]]:
    """The masks of a site's cases, complete or not, as a run's generator was shown masks.

    Those without a label are among them only if `image.slices` is "all".
    """
    return [
        (f"own-{number:05d}", each.case.mask)
        for number, each in enumerate(cases)
        if each.masked and (image.slices == "all" or each.case.mask.any())
    ]


def drawn_masks(masks: Sequence[tuple[str, Mask]], *, seed: int = 0) -> list[tuple[str, Mask]]:
    """All of the masks in their order, or as many as `MOST_MASKS` says, drawn at random."""
    largest = max((mask.numel() for _, mask in masks), default=1)
    most = max(1, MOST_MASKS * 64**2 // max(64**2, largest))
    random = torch.Generator().manual_seed(derived_seed(seed, "complete", "masks"))
    places = torch.randperm(len(masks), generator=random)[:most].sort().values
    return [masks[place] for place in places.tolist()]


def complete_folder(
    run: RunFolder,
    folder: Path,
    out: Path,
    *,
    way: Way,
    masks: Sequence[tuple[str, Mask]],
    source: str,
    budget: TranslationBudget,
    patient_pattern: str,
    seed: int = 0,
    look: str | None = None,
    hide_masks: bool = False,
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
) -> tuple[int, tuple[str, ...]]:
    """Copies a site's data set and adds the modalities that its cases lack, on this machine only.

    Args:
        run: a finished run; its generator paints all modalities.
        folder: data set of the site.
        out: folder to create; a picture of a few cases, `GALLERY`, lies beside the files.
        way: `translated` or `painted`.
        masks: masks to paint training cases from, in addition to the site's own; at most
            `MOST_MASKS` of all are used.
        source: description of where `masks` came from.
        budget: budget of the translator.
        patient_pattern: see `asyndgan.data.nnunet.patient_of`.
        seed: seed of everything random.
        look: site of the run whose look to paint in; None: looks are drawn.
        hide_masks: complete the cases as if they had no masks, so that the completed images can be
            segmented fairly. The translator's training cases are still painted from the masks.
        device: device to train on.
        on_progress: called after every step of the translator's training with the steps done.

    Returns:
        The number of files added, and the names of the added modalities.

    Raises:
        DataError: no case lacks a modality, a case has none of them or cannot be read, there are no
            masks to paint from, or the run cannot complete this set, or paints only a part of its
            images.
        RunError: a mask holds a label that the run does not know, or as `check_look`.
        NotFiniteError: the translator's loss became infinite or NaN.
    """
    facts, image = run.facts(), run.recipe().image
    if look is not None:
        check_look(run, look)
    if way == "translated":
        if look and facts.whole and look not in facts.whole:
            raise DataError(
                f"no site of {look}'s look has every modality, so a translator would learn from "
                f"channels of different looks. Name one that does ({', '.join(facts.whole)}), or "
                "leave --look out."
            )
        other = "Complete with --way painted, or by a run with another image.size."
        check_size(image.size, "the run's images", other)
    info = _described(run, folder)
    read = [
        (files, _incomplete(files, info, image, facts.modalities, patient_pattern))
        for files in list_cases(folder, info)
    ]
    every = [each for _, slices in read for each in slices]
    stored = [*(each.case.mask for each in every if each.masked), *(mask for _, mask in masks)]
    check_labels_of(stored, facts.scope.labels)
    check_contrast([each.case for each in every], image, folder)
    own = own_masks(every, image)
    if hide_masks:
        read = [(files, [without_mask(each) for each in slices]) for files, slices in read]
    lacking = [each for _, slices in read for each in slices if each.case.absent]
    if not lacking:
        raise DataError(f"every case in {folder} has {', '.join(facts.modalities)} already.")
    check_uncut([each.case for each in lacking], image, folder)
    taught = None
    if way == "painted":
        images = painted_from_masks(run, lacking, seed=seed, look=look)
    elif drawn := drawn_masks([*own, *masks], seed=seed):
        taught = {
            "masks": f"{len(drawn)} out of {len(own)} of the site's own and {len(masks)} others "
            f"({source}), moved at random",
            "masks_sha256": digests_of(mask for _, mask in drawn),
            "budget": asdict(budget),
            "regressed": REGRESSED,
        }
        translator = translator_of(
            run, lacking, drawn, budget=budget, seed=seed, look=look, device=device,
            on_progress=on_progress,
        )  # fmt: skip
        images = translated(translator, lacking)
    else:
        raise DataError(
            f"{folder} has no masks to paint training cases from (image.slices of the run is "
            f"'{image.slices}'), and this run kept none. Name a folder of masks with --masks."
        )
    planes = _planes(read, images, image)
    names = tuple(dict.fromkeys(name for of_case in planes.values() for name in of_case))
    provenance = {
        "way": way,
        "run": facts.run,
        "generator_sha256": facts.generator_sha256,
        "recipe_sha256": facts.recipe_digest,
        "asyndgan": __version__,
        "seed": seed,
        "look": look,
        "looks": {name: _sites_of_look(run, name, look, way) for name in names},
        "hide_masks": hide_masks,
        "translator": taught,
        "acquired": list(info.modalities),
        "intensity": {name: _scale_of(image, name) for name in names},
    }
    made_from = {
        files.name: _made_from(way, masked=any(each.masked for each in slices))
        for files, slices in read
    }
    count = write_completed(
        folder, out, planes, axis=image.axis, made_from=made_from, provenance=provenance
    )
    # For whoever completes: the first look at what came out belongs beside it.
    shown = [replace(e.case, image=found) for e, found in zip(lacking, images, strict=True)]
    title = "framed: synthetic, never acquired"
    (out / GALLERY).write_bytes(plot_paintings(shown, None, title=title))
    return count, names


def _described(run: RunFolder, folder: Path) -> DatasetInfo:
    """Describes a site's data set after checking that the run can complete it.

    Raises:
        DataError: the run cannot complete the set.
    """
    facts = run.facts()
    check_labels(folder, facts.labels)
    info = describe(folder)
    check_own_set(run, folder, info)
    first = list_cases(folder, info)[0].images
    if len(read_image(first[min(first)], min(first), info)) > 1:
        raise DataError(
            f"{folder} holds RGB pictures, beside which no further channel can be stored. Store "
            "each channel as a grey picture first."
        )
    if unknown := [name for name in info.modalities if name not in facts.modalities]:
        raise DataError(
            f"{folder} holds {', '.join(unknown)}, which this run does not paint; it paints "
            f"{', '.join(facts.modalities)}. Modalities match by name."
        )
    return info


def _sites_of_look(run: RunFolder, modality: str, look: str | None, way: Way) -> list[str]:
    """Sites in one of whose looks a modality may be painted; none if the generator has none."""
    if not run.recipe().generator.style:
        return []
    facts = run.facts()
    within = (way == "translated" and facts.whole) or list(facts.teachers)
    holders = [site for site in within if modality in facts.sites[site]["modalities"]]
    alike = [site for site in holders if look and facts.look_of(site) == facts.look_of(look)]
    return alike or holders


def _made_from(way: Way, *, masked: bool) -> str:
    if way == "painted":
        return "the mask"
    return "the acquired modalities and the mask" if masked else "the acquired modalities"


def _incomplete(
    files: CaseFiles,
    info: DatasetInfo,
    image: ImageSection,
    modalities: Sequence[str],
    patient_pattern: str,
) -> list[Incomplete]:
    """All slices of a case, prepared on the recipe's grid."""
    return [
        Incomplete(prepare(raw, image, modalities, incomplete=True), raw.mask is not None)
        for raw in read_case(files, info, axis=image.axis, patient_pattern=patient_pattern)
    ]


def without_mask(each: Incomplete) -> Incomplete:
    """The case with its mask removed."""
    nothing = replace(each.case, mask=torch.zeros_like(each.case.mask))
    return Incomplete(nothing, masked=False)


def check_own_set(run: RunFolder, folder: Path, info: DatasetInfo) -> None:
    """Checks that a run's generator can paint images for a site's own data set.

    Raises:
        DataError: the run does not paint images from masks, or the set holds synthetic cases.
    """
    recipe = run.recipe()
    if recipe.condition.kind != "mask" or recipe.image.source != "images":
        raise DataError(
            f"the run in {run.path} does not paint images from masks (condition.kind "
            f"'{recipe.condition.kind}', image.source '{recipe.image.source}'), so what it paints "
            "would not fit a case's mask. Take another run."
        )
    if info.synthetic or info.synthetic_cases:
        raise DataError(
            f"{folder} holds synthetic cases, which nobody acquired. Name the set that it was made "
            "from."
        )


def _planes(
    read: Sequence[tuple[CaseFiles, Sequence[Incomplete]]],
    images: Sequence[Image],
    image: ImageSection,
) -> dict[str, dict[str, list[np.ndarray]]]:
    """Stored slices of the modalities that cases lack, by case and modality.

    Args:
        read: cases with their slices.
        images: completed images of the slices that lack a modality, in their order.
        image: the recipe's normalisation.
    """
    found = iter(images)
    planes: dict[str, dict[str, list[np.ndarray]]] = {}
    for files, slices in read:
        for each in slices:
            if each.case.absent:
                painted = next(found)
            for modality in each.case.absent:
                plane = _stored(painted, each.case, modality, image)
                planes.setdefault(files.name, {}).setdefault(modality, []).append(plane)
    return planes


def _scale_of(image: ImageSection, modality: str) -> dict[str, object]:
    """What the numbers mean in which a painted channel is stored."""
    scale, shift = stored_as(image, modality)
    black, white = (round((end - shift) / scale, 6) for end in (IMAGE_LOW, IMAGE_HIGH))
    acquired = image.intensity_of(modality).kind == "range"
    return {"black": black, "white": white, "units": "as acquired" if acquired else "its own"}


def _stored(painted: Image, case: Case, modality: str, image: ImageSection) -> np.ndarray:
    """One painted channel on the grid and in the intensities in which the case is stored."""
    scale, shift = stored_as(image, modality)
    place = case.modalities.index(modality)
    alone = replace(case.preparation, scale=(scale,), shift=(shift,))
    return invert(painted[[place]], alone)[0]
