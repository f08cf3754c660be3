"""Masks that the coordinator paints from in place of the patients': public or learned ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, final

import torch
from torch import Tensor

from asyndgan.arrays import Masks
from asyndgan.data import derived_seed, digest_of, drawn_from
from asyndgan.data.dataset import DataSet
from asyndgan.errors import CohortError, RunError
from asyndgan.recipe import Recipe
from asyndgan.training.scope import Scope


@final
@dataclass(frozen=True)
class Given:
    """Label maps of no patient of the sites, drawn anew for each site and step.

    The draw follows from the recipe's seed alone.

    Attributes:
        masks: label maps (n, rows, columns) of the recipe's size.
        folder: data set that they are from.
    """

    masks: Masks
    folder: DataSet
    _pools: dict[frozenset[int], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, recipe: Recipe) -> Self:
        """Reads the masks of a data set on the recipe's grid.

        Raises:
            DataError: there is no mask, or one cannot be read.
        """
        data = DataSet(folder)
        # Each once: a run keeps them so.
        found = {mask.long().numpy().tobytes(): mask for _, mask in data.masks(recipe.image)}
        return cls(torch.stack([mask.long() for mask in found.values()]), data)

    @property
    def digest(self) -> str:
        """SHA-256 of the masks, in hexadecimal."""
        return digest_of([self.masks])

    def check(self, scope: Scope) -> None:
        """Checks that masks and sites call the labels alike; raises `DataError` if not."""
        self.folder.check_labels({str(number): name for number, name in scope.labels.items()})

    def check_same(self, known: object) -> None:
        """Checks that a run goes on with the masks of this digest; raises `RunError` if not."""
        if known != self.digest:
            raise RunError(
                f"{self.folder.folder} holds other masks than those that the run began with. Give "
                "it those, or start a new run."
            )

    def of_labels(self, site: str, labels: Mapping[int, str]) -> Tensor:
        """The masks that hold these labels and no other.

        Raises:
            CohortError: there is none.
        """
        known = frozenset(labels)
        if known not in self._pools:
            unknown = ~torch.isin(self.masks, torch.tensor(sorted(known)))
            self._pools[known] = self.masks[~unknown.flatten(1).any(1)]
        if not len(self._pools[known]):
            raise CohortError(
                f"each of the given masks in {self.folder.folder} has a label that site {site} "
                f"does not have; it has {', '.join(labels.values())}. Add masks of these labels."
            )
        return self._pools[known]

    def drawn(self, recipe: Recipe, site: str, batch: int, labels: Mapping[int, str]) -> Tensor:
        """The masks of a site's batch: (n, rows, columns), mirrored and moved as in training.

        Raises:
            CohortError: as `of_labels`.
        """
        training = recipe.training
        random = torch.Generator().manual_seed(
            derived_seed(training.seed, "conditions", site, batch)
        )
        pool = self.of_labels(site, labels)
        return drawn_from(pool, training.batch, random, flip=training.flip, move=training.move)
