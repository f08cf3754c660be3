"""The cases of one site and the batches drawn from them. A cohort never leaves its site."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Self, final

import torch
from torch import Tensor

from asyndgan.arrays import IMAGE_LOW, Images
from asyndgan.errors import CohortError
from asyndgan.store.augmentation import LIKE_PATIENTS, moved
from asyndgan.store.enrolment import untaught
from asyndgan.store.prepared import Case
from asyndgan.store.resampling import label_shares
from asyndgan.store.splits import OPEN, Chooser, halves_of


@final
@dataclass(frozen=True)
class Batch:
    """Real images and their conditions."""

    images: Images  # (b, c, *space) in [-1, 1]
    conditions: Tensor  # int64, (b, *space) label maps or (b,) classes
    # (b,) zeros and ones, the half of each patient; None: no patient's
    halves: Tensor | None = None
    present: Tensor | None = None  # (b, c) booleans; absent: -1 everywhere. None: none is absent

    def to(self, device: torch.device) -> Self:
        """Returns the same batch on a device."""
        parts = (self.images, self.conditions, self.halves, self.present)
        return type(self)(*(part if part is None else part.to(device) for part in parts))  # type: ignore[arg-type]  # None only where it may be

    def blanked(self, images: Images) -> Images:
        """Images of this batch's shape, set to -1 where a case lacks a modality."""
        if self.present is None:
            return images
        space = [1] * (images.ndim - 2)
        return torch.where(self.present.reshape(*self.present.shape, *space), images, IMAGE_LOW)


@final
class Stack:
    """Arrays of one shape as if they were stacked, such as those of a mapped file.

    What is asked for is copied, in type `dtype`.
    """

    def __init__(self, parts: Sequence[Tensor], dtype: torch.dtype) -> None:
        self._parts = parts
        self.dtype = dtype
        self.shape = torch.Size((len(parts), *parts[0].shape))
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Tensor]:
        return (part.to(self.dtype) for part in self._parts)

    def __getitem__(self, index: Tensor) -> Tensor:
        drawn = [self._parts[place] for place in index.tolist()]
        return (torch.stack(drawn) if drawn else torch.zeros(0, *self.shape[1:])).to(self.dtype)


@final
@dataclass(frozen=True)
class Declared:
    """What a site says that it has, with the patients whom it holds out."""

    cases: int
    parts: list[float]  # fraction of the cases that has each modality of the cohort
    patients: int


@final
class Cohort:
    """The cases of one site. A batch depends on its number and the site's seed alone.

    Args:
        images: (n, c, *space) in [-1, 1].
        conditions: integers, (n, *space) label maps or (n,) classes.
        modalities: names of the c channels.
        patients: of each case; None: each case is of another patient.
        present: (n, c) booleans; None: no case lacks a modality.
        labels: name of every label or class, by its number.
        declared: what the site says that it has; None: this cohort.
        chooser: of the patients of the two halves.
        seed: seed of the draws.
        flip, move: whether images are mirrored (last axis) and moved, with their label maps.
        weights: relative draw weight of each case, (n,); None: each is drawn once in every pass.
        maps: the images are label maps, a channel of -1 and 1 a label; batches hold `label_shares`.

    Raises:
        CohortError: if there is no case, or the arguments do not fit each other.
    """

    def __init__(
        self,
        images: Images | Stack,
        conditions: Tensor | Stack,
        *,
        modalities: Sequence[str],
        labels: Mapping[int, str],
        patients: Sequence[str] | None = None,
        present: Tensor | None = None,
        declared: Declared | None = None,
        chooser: Chooser = OPEN,
        seed: int = 0,
        flip: bool = False,
        move: bool = False,
        weights: Tensor | None = None,
        maps: bool = False,
    ) -> None:
        if not len(images) or len(images) != len(conditions):
            raise CohortError(
                f"a cohort needs as many conditions as images and at least one; "
                f"it was given {len(images)} images and {len(conditions)} conditions."
            )
        if conditions.ndim > 1 and conditions.shape[1:] != images.shape[2:]:
            raise CohortError(
                f"images have size {tuple(images.shape[2:])}, their label maps "
                f"{tuple(conditions.shape[1:])}. Prepare both on one grid."
            )
        if present is not None and not (
            present.shape == images.shape[:2] and present.any(0).all() and present.any(1).all()
        ):
            raise CohortError(
                "every case needs a modality, and every modality that a site names a case; leave "
                "the others out of the folder's dataset.json, or name them under image.modalities."
            )
        if len(modalities) != images.shape[1] or len(patients or images) != len(images):
            raise CohortError(
                f"{len(images)} images of {images.shape[1]} channels came with "
                f"{len(modalities)} names of modalities and {len(patients or images)} patients. "
                "Name each channel, and the patient of each image."
            )
        unknown = {int(n) for part in conditions for n in part.unique()} - set(labels)
        if unknown:
            raise CohortError(
                f"conditions hold labels {sorted(unknown)}; the data set knows {sorted(labels)}. "
                "Name them in dataset.json, or remap them."
            )
        self._images = images
        self._conditions = conditions if isinstance(conditions, Stack) else conditions.long()
        self.modalities = tuple(modalities)
        self.present = None if present is None or present.all() else present
        self.labels = dict(labels)
        self.seed = seed
        self.flip = flip
        self.move = move
        self.maps = maps
        cases: dict[object, list[int]] = {}
        for case, patient in enumerate(patients or range(len(images))):
            cases.setdefault(patient, []).append(case)
        self._cases_of_patients = [torch.tensor(own) for own in cases.values()]
        self.declared = declared or Declared(len(images), self._parts(), self.patients)
        names = [str(patient) for patient in patients or range(len(images))]
        given = None if self.present is None else self.present.tolist()
        self.halves = torch.tensor(halves_of(names, chooser, given))
        self.weights = weights

    @classmethod
    def from_cases(
        cls,
        cases: Sequence[Case],
        *,
        labels: Mapping[str, int],
        everyone: Sequence[Case] | None = None,
        chooser: Chooser = OPEN,
        condition: str = "mask",
        seed: int = 0,
        flip: bool = False,
        move: bool = False,
        maps: bool = False,
    ) -> Self:
        """Builds a cohort from prepared cases; drops modalities that no case has.

        Args are those of the constructor, and:
            labels: number of each label by name.
            everyone: all cases of the site, with those that it holds out; None: `cases`.
            condition: `mask` uses the label maps, `none` does not.

        Raises:
            CohortError: there is no case, or the recipe's condition is `class`.
        """
        if not cases:
            raise CohortError("the data set has no cases; run 'asyndgan check' on its folder.")
        if condition not in ("mask", "none"):
            raise CohortError(
                f"folders of images have no conditions of kind '{condition}'; "
                "build the cohort in Python: Cohort(images, classes, ...)."
            )
        present = torch.tensor([case.present for case in cases])
        held = present.any(0)  # a modality that the folder names but no case has is dropped
        everyone = everyone or cases
        every = torch.tensor([case.present for case in everyone])[:, held]
        patients = len({case.patient for case in everyone})
        images = [case.image if held.all() else case.image[held] for case in cases]
        masks = Stack([case.labels for case in cases], torch.int64)
        return cls(
            Stack(images, images[0].dtype),
            masks if condition == "mask" else torch.zeros(len(cases), dtype=torch.int64),
            modalities=[m for m, has in zip(cases[0].modalities, held, strict=True) if has],
            patients=[case.patient for case in cases],
            present=present[:, held],
            labels={number: name for name, number in labels.items()},
            declared=Declared(len(every), every.double().mean(0).tolist(), patients),
            chooser=chooser,
            seed=seed,
            flip=flip,
            move=move,
            maps=maps,
        )

    def __len__(self) -> int:
        return len(self._images)

    @property
    def images(self) -> Images:
        """A copy of all images, (n, c, *space) in [-1, 1]."""
        images = self._images[torch.arange(len(self))]
        return label_shares(images) if self.maps else images

    @property
    def conditions(self) -> Tensor:
        """A copy of all conditions, int64."""
        return self._conditions[torch.arange(len(self))]

    @property
    def space(self) -> tuple[int, ...]:
        """Height and width (and depth) of the images of batches."""
        return tuple(side // 2 if self.maps else side for side in self._images.shape[2:])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all images and conditions in their order; equal for equal cases."""
        return digest_of((self._images, self._conditions))

    @cached_property
    def members(self) -> str:
        """SHA-256 of all cases and of which of them belong to one patient; see `digest`."""
        return digest_of((self._images, self._conditions, *self._cases_of_patients))

    def batch(self, number: int, size: int) -> Batch:
        """The cases from position `number * size` of an endless shuffle."""
        first, offset = divmod(number * size, len(self))
        last = ((number + 1) * size - 1) // len(self)  # a batch may span passes
        passes = [self._order(epoch) for epoch in range(first, last + 1)]
        index, mirror = (
            torch.cat(part)[offset : offset + size] for part in zip(*passes, strict=True)
        )
        return self._batch(index, mirror, self._random("moves", number))

    def redrawn(self, secret: str) -> Self:
        """The same cohort with other draws: of the order, the mirroring and the moves."""
        other = copy(self)
        other.seed = derived_seed(self.seed, secret)
        return other

    @cached_property
    def labels_by_half(self) -> Tensor:
        """Labels (or classes) that each half of the patients has, (2, labels) booleans."""
        found = torch.zeros(2, max(self.labels) + 1, dtype=torch.bool)
        for half, condition in zip(self.halves, self._conditions, strict=True):
            found[half, condition.unique()] = True
        return found

    @property
    def untaught(self) -> list[str]:
        """Modalities of which one half of the patients has no case while the other has some."""
        if self.present is None:
            return []
        return untaught(self.modalities, self.present.tolist(), self.halves.tolist())

    def _parts(self) -> list[float]:
        if self.present is None:
            return [1.0] * len(self.modalities)
        return self.present.double().mean(0).tolist()

    @property
    def patients(self) -> int:
        """Number of patients."""
        return len(self._cases_of_patients)

    @property
    def fewest(self) -> int:
        """Number of patients of the modality that the fewest have."""
        if self.present is None:
            return self.patients
        have = [self.present[own].any(0) for own in self._cases_of_patients]
        return int(torch.stack(have).sum(0).min())

    def patients_by_chance(self, rate: float, uniform: Callable[[int], Tensor]) -> Batch:
        """Draws each patient independently with probability `rate`, and one case of each drawn.

        `uniform` returns so many uniform draws from [0, 1), not seeded from the recipe.
        """
        drawn = uniform(self.patients) < rate
        chosen = [
            cases for cases, taken in zip(self._cases_of_patients, drawn, strict=True) if taken
        ]
        places = uniform(len(chosen))
        index = torch.tensor(
            [int(own[int(place * len(own))]) for own, place in zip(chosen, places, strict=True)],
            dtype=torch.int64,
        )
        mirror = uniform(len(index)) < (0.5 if self.flip else 0)
        random = torch.Generator()
        if self.move:
            random.manual_seed(int(uniform(1) * 2**53))
        return self._batch(index, mirror, random)

    def _batch(self, index: Tensor, mirror: Tensor, random: torch.Generator) -> Batch:
        images = _mirrored(self._images[index], mirror)
        conditions = _mirrored(self._conditions[index], mirror)
        if self.move and len(index):
            images, conditions = _moved(images, conditions, random)
        return Batch(
            label_shares(images) if self.maps else images,
            conditions,
            self.halves[index],
            None if self.present is None else self.present[index],
        )

    def _order(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The cases in the order of a pass over them, and which of them to mirror."""
        random = self._random("epoch", epoch)
        if self.weights is None:
            order = torch.randperm(len(self), generator=random)
        else:
            order = torch.multinomial(self.weights, len(self), replacement=True, generator=random)
        return order, _mirrors(len(self), random, self.flip)

    def _random(self, purpose: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(self.seed, purpose, number))


def drawn_from(
    pool: Tensor, count: int, random: torch.Generator, *, flip: bool, move: bool = False
) -> Tensor:
    """Draws conditions uniformly from a pool (n, *space) or (n,), with replacement."""
    drawn = pool[torch.randint(len(pool), (count,), generator=random)]
    drawn = _mirrored(drawn, _mirrors(count, random, flip))
    if move and drawn.ndim > 1:
        blank = torch.zeros(count, 1, *drawn.shape[1:])
        return moved(blank, drawn, LIKE_PATIENTS, random)[1]
    return drawn


def derived_seed(seed: int, *parts: object) -> int:
    """A 63-bit seed: SHA-256 of a seed and the parts that name its use."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def digest_of(tensors: Iterable[Tensor | Stack]) -> str:
    """SHA-256, in hexadecimal, of the types, shapes and values of tensors in their order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        for part in tensor if isinstance(tensor, Stack) else (tensor,):
            digest.update(part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _mirrors(count: int, random: torch.Generator, flip: bool) -> Tensor:
    return (torch.rand(count, generator=random) < 0.5) & flip  # drawn always: other draws stay


def _mirrored(arrays: Tensor, mirror: Tensor) -> Tensor:
    if arrays.ndim == 1:
        return arrays
    chosen = mirror.reshape(-1, *[1] * (arrays.ndim - 1))
    return torch.where(chosen, arrays.flip(-1), arrays)


def _moved(images: Tensor, conditions: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Moves images and their label maps; class conditions are left unchanged."""
    maps = conditions if conditions.ndim > 1 else torch.zeros_like(images[:, 0], dtype=torch.int64)
    images, maps = moved(images, maps, LIKE_PATIENTS, random)
    return images.clamp(min=IMAGE_LOW), maps if conditions.ndim > 1 else conditions
