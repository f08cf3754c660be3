"""One prepared image with its mask; apart from `case`, which needs no torch."""

from dataclasses import dataclass
from typing import Self, final

from asyndgan.arrays import Image, Mask
from asyndgan.store.case import Preparation


@final
@dataclass(frozen=True)
class Case:
    """One image with its label map.

    Attributes:
        name: case name as in the file names; one slice of a volume is `NAME_z<index>`.
        patient: the patient the case belongs to; no two splits share a patient.
        image: float32 in [-1, 1], one channel for each of `modalities`, in their order.
        mask: int64 labels, same spatial shape.
        modalities: names of the channels.
        preparation: what is needed to restore the stored grid and intensities.
        absent: modalities that this case lacks; their channels are -1 everywhere.
    """

    name: str
    patient: str
    image: Image
    mask: Mask
    modalities: tuple[str, ...]
    preparation: Preparation
    absent: tuple[str, ...] = ()

    @classmethod
    def drawn(cls, name: str, image: Image, mask: Mask, modalities: tuple[str, ...]) -> Self:
        """A case of no file, on a grid of its own; its patient is its name."""
        rows, columns = mask.shape
        made = Preparation(
            shape=(rows, columns),
            spacing=(1.0, 1.0),
            resized=(rows, columns),
            offset=(0, 0),
            scale=(1 / 127.5,) * len(modalities),
            shift=(-1.0,) * len(modalities),
        )
        return cls(name, name, image, mask, modalities, made)

    @property
    def present(self) -> tuple[bool, ...]:
        """Whether the case has each of `modalities`."""
        return tuple(name not in self.absent for name in self.modalities)
