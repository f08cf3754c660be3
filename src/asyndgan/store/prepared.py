"""One prepared image with its mask; apart from `case`, which needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self, final

import torch
from jaxtyping import Integer
from pydantic import TypeAdapter
from torch import Tensor

from asyndgan.arrays import Image, Mask
from asyndgan.store.case import Preparation
from asyndgan.store.store import Item


@final
class _Labels:
    """The field of a mask, which is kept in the type it comes in and read as int64."""

    def __get__(self, case: Any, kind: Any = None) -> Mask:
        if case is None:
            raise AttributeError("a class of cases has no mask")  # so the field has no default
        mask: Tensor = case.__dict__["mask"]
        return mask.long()

    def __set__(self, case: Any, mask: Tensor) -> None:
        case.__dict__["mask"] = mask


@final
@dataclass(frozen=True)
class Case:
    """One image with its label map."""

    name: str  # as in the file names; a slice of a volume is `NAME_z<index>`
    patient: str  # no two splits share one
    image: Image  # float32 in [-1, 1], one channel for each of `modalities`
    if TYPE_CHECKING:
        mask: Mask  # int64 labels, same spatial shape
    else:
        mask: Integer[Tensor, "*space"] = _Labels()
    modalities: tuple[str, ...]
    preparation: Preparation  # what restores the stored grid and intensities
    absent: tuple[str, ...] = ()  # modalities that it lacks; their channels are -1

    @classmethod
    def drawn(cls, name: str, image: Image, mask: Mask, modalities: tuple[str, ...]) -> Self:
        """A case of no file, on a grid of its own; its patient is its name."""
        sides = tuple(mask.shape)
        made = Preparation(
            shape=sides,
            spacing=(1.0,) * len(sides),
            resized=sides,
            offset=(0,) * len(sides),
            scale=(1 / 127.5,) * len(modalities),
            shift=(-1.0,) * len(modalities),
        )
        return cls(name, name, image, mask, modalities, made)

    @property
    def labels(self) -> Tensor:
        """The mask in the type in which it is kept, of integers."""
        kept: Tensor = self.__dict__["mask"]
        return kept

    @property
    def present(self) -> tuple[bool, ...]:
        """Whether the case has each of `modalities`."""
        return tuple(name not in self.absent for name in self.modalities)


@final
@dataclass(frozen=True)
class _About:
    """What an item says of a prepared case beside its arrays."""

    name: str
    modalities: tuple[str, ...]
    absent: tuple[str, ...]
    preparation: Preparation


_ABOUT: Final = TypeAdapter(list[_About])


def stored(case: Case) -> Item:
    """A prepared case of a stored one, as an item of a store."""
    about = asdict(_About(case.name, case.modalities, case.absent, case.preparation))
    mask = case.labels.to(torch.uint8)  # labels are 0 to 255
    return Item(about, {"image": case.image.numpy(), "mask": mask.numpy()})


def restored(items: Sequence[Item], patients: Mapping[str, str]) -> list[Case]:
    """The cases of a store's items; raises `ValueError` or `KeyError` if they are others."""
    cases = []
    for item, about in zip(items, _ABOUT.validate_python([i.about for i in items]), strict=True):
        image, mask = (torch.from_numpy(item.arrays[name]) for name in ("image", "mask"))
        if (len(image), *mask.shape) != (len(about.modalities), *image.shape[1:]):
            raise ValueError("image and mask do not fit")
        patient = patients[about.preparation.source.name] if about.preparation.source else ""
        preparation, absent = about.preparation, about.absent
        cases.append(Case(about.name, patient, image, mask, about.modalities, preparation, absent))
    return cases
