"""Painting a synthetic data set with a finished run's generator."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from asyndgan.arrays import Mask
from asyndgan.data import Case, Preparation, RawCase, derived_seed
from asyndgan.data.cohort import digest_of
from asyndgan.data.description import check_labels
from asyndgan.data.moves import Moves, mirrored, moved
from asyndgan.data.prepare import load_masks
from asyndgan.data.writing import write_dataset
from asyndgan.errors import RunError
from asyndgan.recipe import PrivacySection, Recipe
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.training import SHARED_LOOK, Scope, generator_inputs

BATCH: Final = 32
PAINTING_VERSION: Final = 5
"""To be raised when a change alters what is painted from the same masks and seeds."""
CONTRASTS: Final = (0.5, 1.1)
"""Least and highest contrast of faded labels. Chosen on validation patients: see
docs/experiments-labels.md."""

Looks = dict[int, list[str]]
"""Looks that some channels of images are painted in, by channel; one for each image."""


@final
@dataclass(frozen=True)
class Fading:
    """Labels whose contrast varies from image to image.

    A generator paints all lesions about equally clearly, and patients' are not. With contrast a an
    image is `without + a * (with - without)`: `without` is painted with the same noise and look,
    from the mask in which the labels are replaced by what surrounds them. Where masks hold nothing
    but these labels, and the generator was shown no empty one, it paints anything for `without`.

    Attributes:
        labels: values of the labels; empty: none is faded.
        contrasts: least and highest contrast; each image's is drawn uniformly. 1: as painted.
    """

    labels: tuple[int, ...] = ()
    contrasts: tuple[float, float] = CONTRASTS

    @classmethod
    def of(cls, names: Sequence[str], labels: Mapping[str, int]) -> "Fading":
        """Fading of labels by their names.

        Args:
            names: labels to fade.
            labels: value of each label by name.

        Raises:
            RunError: a name is not among the labels, or is that of 0.
        """
        known = [name for name, value in labels.items() if value]
        for name in names:
            if name not in known:
                raise RunError(f"there is no label '{name}' to fade; there are {', '.join(known)}.")
        return cls(tuple(sorted({labels[name] for name in names})))

    def told(self) -> dict[str, Any]:
        """The fading as it is written into a synthetic set's provenance."""
        return {
            "faded": list(self.labels),
            "contrasts": list(self.contrasts if self.labels else ()),
        }


AS_PAINTED: Final = Fading()
"""No label is faded."""


def fading_of(run: RunFolder, faded: Sequence[str]) -> Fading:
    """Fading of the labels with these names of a run.

    Raises:
        RunError: the run has no such label.
    """
    return Fading.of(faded, {name: number for number, name in run.facts().scope.labels.items()})


def released_masks(run: RunFolder) -> list[tuple[str, Mask]]:
    """Name and label map of every mask that the run kept from training.

    For a run whose condition is `none`, which paints without masks, this is one empty mask, to be
    drawn once per image wanted.

    Raises:
        RunError: the run kept no masks; the message names the remedies.
        DataError: one of those that it kept cannot be read.
    """
    if run.recipe().condition.kind == "none":
        return [("image", torch.zeros(run.facts().scope.space, dtype=torch.int64))]
    if not run.has_masks:
        raise RunError(
            f"the run in {run.path} kept no masks, so there is nothing to paint from. Have "
            "'asyndgan generate' paint from a folder of masks with --masks FOLDER (labelsTr and "
            "dataset.json), or train with --set masks.release=true where the sites agree to it."
        )
    return load_masks(run.masks, run.recipe().image)


def synthesise(
    run: RunFolder,
    masks: Sequence[tuple[str, Mask]],
    *,
    draws: int = 1,
    seed: int = 0,
    move: bool = False,
    step: int | None = None,
    looks: Sequence[str] = (),
    patients: Sequence[str] = (),
    fading: Fading = AS_PAINTED,
) -> Iterator[Case]:
    """Paints images from masks with a run's averaged generator, some at a time.

    Args:
        run: a finished run.
        masks: names and label maps [H, W]; `released_masks` gives the run's own.
        draws: number of images per mask, each with different noise.
        seed: seed of noise and augmentation.
        move: first mirror, rotate, scale and shift the masks, differently for every draw.
        step: step of a stored intermediate generator; None: the final one.
        looks: for each mask, the site whose look to paint in; empty: drawn by the sites' shares,
            independently of the mask's origin. A modality that no site of this look holds is
            painted in another one, since nobody has judged it in this one.
        patients: for each mask, whose it is: sites that hold what that of the look lacks are drawn
            once for each patient; empty: for each image.
        fading: labels to paint more or less clearly.

    Yields:
        One case per mask and draw; none if there are no masks.

    Raises:
        RunError: once a case is asked for: the run has no such generator, nobody judged a modality
            that it paints, several draws of a mask would be equal, a mask holds a label that the
            generator does not know, or labels are to be faded by a generator that paints without
            masks.
    """
    recipe, facts, generator = run.recipe(), run.facts(), run.generator(step)
    scope = facts.scope
    judged = set().union(*facts.judged_in().values())
    if unjudged := [name for name in scope.modalities if name not in judged]:
        raise RunError(
            f"no site that took part in this run holds {', '.join(unjudged)}, so what its "
            "generator paints there is nothing. Train anew, with a site that does or without it "
            "(image.modalities)."
        )
    if draws > 1 and not move and not recipe.generator.noise + recipe.generator.latent:
        raise RunError(
            f"recipe '{recipe.name}' paints without noise, so {draws} draws of a mask are equal. "
            "Add --augment, or train with generator.noise above 0."
        )
    if fading.labels and recipe.condition.kind == "none":
        raise RunError(
            f"recipe '{recipe.name}' paints without masks, so there is no label to fade."
        )
    random = torch.Generator().manual_seed(derived_seed(seed, "synthesise"))
    # A separate generator, so that recipes with different noise are shown the same masks.
    moves = torch.Generator().manual_seed(derived_seed(seed, "synthesise", "masks"))
    contrasts = torch.Generator().manual_seed(derived_seed(seed, "synthesise", "contrasts"))
    holders = torch.Generator().manual_seed(derived_seed(seed, "synthesise", "holders"))
    how = Moves(flips=mirrored(recipe))
    for draw in range(draws):
        suffix = f"_d{draw}" if draws > 1 or move else ""
        for start in range(0, len(masks), BATCH):
            part = masks[start : start + BATCH]
            conditions = torch.stack([mask for _, mask in part])
            check_labels_of(conditions, scope.labels)
            if move:
                nothing = torch.zeros(len(part), 1, *scope.space)
                conditions = moved(nothing, conditions, how, moves)[1]
            own = [facts.look_of(site) for site in looks[start : start + BATCH]]
            if not own:
                styled = recipe.generator.style
                own = _looks(facts, len(part), random) if styled else [SHARED_LOOK] * len(part)
            others: Looks = {}
            if recipe.generator.style:
                same = [
                    torch.Generator().manual_seed(derived_seed(seed, "holders", patient))
                    for patient in patients[start : start + BATCH]
                ]
                others = _looks_of_holders(facts, own, same or [holders] * len(part))
            noise = random.get_state()
            paint = partial(_painted, generator, recipe, scope, random, own, others)
            images = paint(conditions)
            if fading.labels:
                random.set_state(noise)
                images = _faded(
                    images, paint(without_labels(conditions, fading.labels)), fading, contrasts
                )
            if recipe.image.source == "masks":
                conditions = _painted_masks(images, scope)
            for (name, _), image, mask in zip(part, images, conditions, strict=True):
                yield _case(name + suffix, image, mask, scope.modalities)


def without_labels(masks: Mask, labels: Collection[int]) -> Mask:
    """Label maps [N, H, W] with regions of these labels replaced by the nearest other label.

    A mask of nothing else is 0 everywhere.
    """
    found = []
    for mask in masks.numpy():
        where = np.isin(mask, list(labels))
        nearest: Any = ndimage.distance_transform_edt(
            where, return_distances=False, return_indices=True
        )
        found.append(np.zeros_like(mask) if where.all() else mask[tuple(nearest)])
    return torch.from_numpy(np.stack(found))


@torch.no_grad()
def _painted(
    generator: nn.Module,
    recipe: Recipe,
    scope: Scope,
    random: torch.Generator,
    looks: Sequence[str],
    others: Looks,
    conditions: Mask,
) -> torch.Tensor:
    """Images (n, c, *space) in these looks, and channels in other ones, all with the same noise."""
    noise = random.get_state()
    images: torch.Tensor = generator(*generator_inputs(recipe, scope, conditions, looks, random))
    for channel, own in others.items():
        random.set_state(noise)
        again = generator(*generator_inputs(recipe, scope, conditions, own, random))
        images[:, channel] = again[:, channel]
    return images


def _looks_of_holders(
    facts: RunFacts, looks: Sequence[str], draws: Sequence[torch.Generator]
) -> Looks:
    """Looks to paint channels in that no site of an image's own look holds, by channel.

    All that one look lacks comes from another one, if any has it all.

    Args:
        facts: of the run.
        looks: look of each image.
        draws: for each image, what draws the order in which other looks are taken.
    """
    held = facts.judged_in()
    others: Looks = {}
    for place, (look, random) in enumerate(zip(looks, draws, strict=True)):
        own = held.get(look, set(facts.scope.modalities))  # of a site that never came
        lacking = [name for name in facts.scope.modalities if name not in own]
        if not lacking:
            continue
        drawn = dict.fromkeys(_looks(facts, 8 * len(facts.sites), random) + sorted(held))
        by_use = sorted(drawn, key=lambda other: -len(held[other] & set(lacking)))
        for name in lacking:
            holder = next((other for other in by_use if name in held[other]), look)
            channel = facts.scope.modalities.index(name)
            others.setdefault(channel, list(looks))[place] = holder
    return others


def _faded(
    images: torch.Tensor, without: torch.Tensor, fading: Fading, random: torch.Generator
) -> torch.Tensor:
    """Images (n, c, *space) with another contrast each to those without the labels."""
    low, high = fading.contrasts
    contrast = low + (high - low) * torch.rand(len(images), generator=random)
    contrast = contrast.view(-1, *[1] * (images.dim() - 1))
    return (without + contrast * (images - without)).clamp(-1, 1)


def masks_in(folder: Path, run: RunFolder) -> list[tuple[str, Mask]]:
    """The masks of a data set, on a run's grid, for its generator.

    They are numbered, because case names may be patients' names and synthetic sets are shared.

    Raises:
        DataError: there is no mask, one cannot be read, or its labels differ in meaning.
    """
    check_labels(folder, run.facts().labels)
    loaded = load_masks(folder, run.recipe().image)
    return [(f"mask-{number:05d}", mask) for number, (_, mask) in enumerate(loaded, 1)]


def source_of_masks(run: RunFolder) -> str:
    """Description of where a run's own masks come from."""
    recipe = run.recipe()
    if recipe.masks.source == "given":
        return "given to the sites, no patient's of theirs"
    if recipe.condition.kind != "none":
        return "released by the sites during training"
    return "painted" if recipe.image.source == "masks" else "none; painted from noise"


def mask_of(case: str) -> str:
    """Name of the mask that the synthetic case with this name was painted from."""
    return re.sub(r"(_r\d+)?(_d\d+)?$", "", case)


def masks_digest(masks: Sequence[tuple[str, Mask]]) -> str:
    """SHA-256 of the label maps in their order, in hexadecimal."""
    return digest_of(mask for _, mask in masks)


def digests_of(masks: Iterable[Mask]) -> list[str]:
    """SHA-256 of each mask that holds a label, on a run's grid; sorted, without duplicates."""
    return sorted({mask_digest(mask) for mask in masks if bool(mask.any())})


def mask_digest(mask: Mask) -> str:
    """SHA-256 of a label map on a run's grid, in hexadecimal, whatever integers it is stored in."""
    return digest_of([mask.to(torch.uint8)])


def write_synthetic(
    folder: Path,
    run: RunFolder,
    cases: Sequence[Case],
    *,
    masks: Sequence[tuple[str, Mask]],
    source: str,
    painting: Mapping[str, Any],
    audited: str | None = None,
) -> int:
    """Writes synthetic cases as an nnU-Net data set with provenance and a model card.

    Images are 8-bit PNGs: 0 is the lowest and 255 the highest intensity of the recipe's
    normalisation.

    Args:
        folder: folder to create.
        run: run that painted the cases.
        cases: result of `synthesise`.
        masks: masks that the cases were painted from, before any of them was moved.
        source: description of where the masks came from.
        painting: parameters of the painting, such as images per mask, for the provenance.
        audited: findings of the audit that permits the release of the set, if there was one.

    Returns:
        The number of cases.
    """
    facts, recipe = run.facts(), run.recipe()
    provenance: dict[str, Any] = {
        "generator_sha256": facts.generator_sha256,
        "run": facts.run,
        "recipe": recipe.name,
        "recipe_sha256": facts.recipe_digest,
        "asyndgan": facts.version,
        "shares": {site: about["share"] for site, about in facts.teachers.items()},
        "masks": source,
        "masks_sha256": masks_digest(masks),
        "privacy": recipe.privacy.kind,
        **painting,
        "painting_version": PAINTING_VERSION,
        "intensity": {
            name: recipe.image.intensity_of(name).model_dump() for name in facts.modalities
        },
    }
    count = write_dataset(
        folder,
        (_raw(case) for case in cases),
        modalities=facts.modalities,
        labels={name: int(number) for number, name in facts.labels.items()},
        name=f"synthetic ({recipe.name}, {', '.join(facts.teachers)})",
        extra={"synthetic": True, "provenance": provenance},
    )
    if audited:
        provenance["audited"] = audited
    card = _model_card(facts, provenance, count, recipe)
    (folder / "MODEL_CARD.md").write_text(card, "utf-8")
    return count


def _painted_masks(images: torch.Tensor, scope: Scope) -> torch.Tensor:
    """Label maps (b, *space): each pixel gets the label whose channel is brightest."""
    numbers = {name: number for number, name in scope.labels.items()}
    return torch.tensor([numbers[name] for name in scope.modalities])[images.argmax(1)]


def looks_of(
    patients: Sequence[str],
    run: RunFolder,
    *,
    look: str | None = None,
    seed: int = 0,
    among: Collection[str] | None = None,
) -> list[str]:
    """The site whose look each image is painted in, the same for all images of a patient.

    Args:
        patients: patient of each image.
        run: run whose sites' looks are available.
        look: site whose look all images get; None: one is drawn for each patient.
        seed: seed of the draws.
        among: sites whose looks are drawn; None: all that the run learned from.
    """
    random = torch.Generator().manual_seed(derived_seed(seed, "looks"))
    different = list(dict.fromkeys(patients))
    drawn = _sites(run.facts(), len(different), random, among)
    of = dict(zip(different, drawn, strict=True))
    return [look or of[patient] for patient in patients]


def check_look(run: RunFolder, look: str) -> None:
    """Refuses a look that a generator was not taught, which it would paint all the same.

    Raises:
        RunError: the run did not learn from a site of this name, or its generator has no looks.
    """
    teachers = run.facts().teachers
    if look not in teachers:
        raise RunError(
            f"{look} is no site that this run learned from; those are {', '.join(teachers)}."
        )
    if not run.recipe().generator.style:
        raise RunError(
            "this run's generator has no looks to choose from (generator.style is 0); leave the "
            "look out."
        )


def _looks(facts: RunFacts, count: int, random: torch.Generator) -> list[str]:
    """Draws the look that each image gets, by the sites' shares."""
    return [facts.look_of(site) for site in _sites(facts, count, random)]


def _sites(
    facts: RunFacts, count: int, random: torch.Generator, among: Collection[str] | None = None
) -> list[str]:
    teachers = {s: own for s, own in facts.teachers.items() if among is None or s in among}
    shares = torch.tensor([float(about["share"]) for about in teachers.values()])
    drawn = torch.multinomial(shares, count, replacement=True, generator=random)
    return [list(teachers)[index] for index in drawn.tolist()]


def _case(name: str, image: torch.Tensor, mask: Mask, modalities: tuple[str, ...]) -> Case:
    rows, columns = mask.shape
    return Case(
        name=name,
        patient=name,
        image=image,
        mask=mask,
        modalities=modalities,
        preparation=Preparation(
            shape=(rows, columns),
            spacing=(1.0, 1.0),
            resized=(rows, columns),
            offset=(0, 0),
            scale=(1 / 127.5,) * len(modalities),
            shift=(-1.0,) * len(modalities),
        ),
    )


def _raw(case: Case) -> RawCase:
    grey = (case.image.numpy() + 1) * np.float32(127.5)
    return RawCase(
        name=case.name,
        patient=case.patient,
        channels=dict(zip(case.modalities, grey, strict=True)),
        mask=case.mask.numpy(),
    )


def _privacy_line(privacy: PrivacySection) -> str:
    if privacy.kind == "none":
        return "No differential privacy was applied: an image may resemble one of a site's."
    return (
        f"The recipe asked for differential privacy (`{privacy.kind}`) with a noise multiplier of "
        f"{privacy.noise:g} and a clip of {privacy.clip:g}. That alone is no guarantee: the "
        "epsilon that a site spent stands in its own ledger (`asyndgan ledger show`), and nobody "
        "has verified it for this card."
    )


def _audit_line(provenance: Mapping[str, Any]) -> str:
    found = provenance.get("audited")
    return f"Audited before its release: {found}." if found else "Not audited for membership."


def _faded_line(facts: RunFacts, provenance: Mapping[str, Any]) -> str:
    if not provenance.get("faded"):
        return ""
    names = " and ".join(facts.scope.labels[number] for number in provenance["faded"])
    low, high = provenance["contrasts"]
    return (
        f"\n- Faded, {names}: at {low:g} to {high:g} of the contrast that the generator paints, "
        "drawn for each image."
    )


def check_labels_of(masks: Iterable[Mask], labels: Collection[int]) -> None:
    """Refuses masks with a label that a generator was never shown.

    Raises:
        RunError: a value is neither 0 nor among `labels`.
    """
    known = torch.tensor(sorted({0, *labels}))  # 0 need not be named
    for mask in masks:
        strange = ~torch.isin(mask, known)
        if strange.any():
            found = ", ".join(map(str, mask[strange].unique().tolist()))
            raise RunError(
                f"the masks hold label {found}; this generator knows "
                f"{', '.join(map(str, known.tolist()))}. Remap them."
            )


def _model_card(facts: RunFacts, provenance: dict[str, Any], count: int, recipe: Recipe) -> str:
    sites = "\n".join(
        f"| {site} | {about['cases']} | {about['share']:.3f} | {', '.join(about['modalities'])} |"
        for site, about in facts.teachers.items()
    )
    how = (
        "Its weights were trained on the real images at the sites and averaged (FedGAN)."
        if facts.engine == "fedgan"
        else "It saw no real image: each site's discriminator sent it gradients only."
    )
    if recipe.selection.kind == "nearest":
        how += " Of its checkpoints it is the one nearest to the sites' moments of features."
    return f"""# Model card: synthetic data set

**Every image in this folder is synthetic.** None was acquired from a patient.

- Cases: {count}; modalities: {", ".join(facts.modalities)};
  labels: {", ".join(f"{number} {name}" for number, name in facts.labels.items())}.
- Painted by a generator that was trained for {facts.generator_step or facts.steps} steps with
  asyndgan {facts.version} (recipe `{provenance["recipe"]}`). {how}
- Masks: {provenance["masks"]}.{_faded_line(facts, provenance)}

| site | real cases behind it | share | modalities |
|---|---|---|---|
{sites}

## Intended use

Training segmentation models, and research. Not for diagnosis, and not a stand-in for a clinical
validation on real patients.

## Limits

- What the sites' patients have in common, the images have too: rare findings may be missing.
- {_privacy_line(recipe.privacy)}
- {_audit_line(provenance)}
- Measure before you rely on it: `asyndgan evaluate` compares models trained on this set with models
  trained on real data.

## Provenance

```json
{json.dumps(provenance, indent=2)}
```

Method: Q. Chang et al., "Synthetic Learning: Learn From Distributed Asynchronized Discriminator GAN
Without Sharing Medical Image Data", CVPR 2020.
"""
