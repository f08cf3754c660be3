"""Masks that the coordinator paints from in place of the patients': public or learned ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, Self, final

import torch
from torch import Tensor

from asyndgan.arrays import Masks
from asyndgan.errors import CohortError, RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.recipe import Recipe
from asyndgan.store import derived_seed, digest_of, drawn_from

ANY: Final = "given"  # What kept masks are named after that are no site's


def site_of(name: str) -> str:
    """The site that a kept mask, `<site>-m<number>`, is named after."""
    return name.rpartition("-m")[0]


@final
@dataclass(frozen=True)
class Given:
    """Label maps of no patient of the sites, drawn for each site and step by the seed.

    A site for which masks were learned is sent no others: they would tell synthetic images.
    """

    masks: Masks  # label maps (n, rows, columns) of the recipe's size
    sites: tuple[str, ...]  # the site that each was learned for, or `ANY`
    folder: DataSet  # data set that they are from
    _pools: dict[tuple[str, frozenset[int]], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, recipe: Recipe) -> Self:
        """Reads a data set's masks on the recipe's grid; may raise `DataError`."""
        data = DataSet(folder)
        kept = data.info.extra.get("masks_only") is True
        masks = {}  # each once for a site: a run keeps them so
        for name, mask in data.masks(recipe.image):
            site = site_of(name) if kept else ANY
            masks[site, mask.long().numpy().tobytes()] = mask.long()
        return cls(torch.stack([*masks.values()]), tuple(site for site, _ in masks), data)

    def learned_for(self, site: str) -> Tensor:
        """The masks that were learned for a site, or all if none were."""
        chosen = torch.tensor([learned == site for learned in self.sites])
        return self.masks[chosen] if chosen.any() else self.masks

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the masks and of the sites they are for, in hexadecimal."""
        whose = torch.tensor([*"\n".join(self.sites).encode()], dtype=torch.uint8)
        return digest_of([self.masks, whose])

    def check_same(self, known: object) -> None:
        """Checks that a run goes on with the masks of this digest; raises `RunError` if not."""
        if known != self.digest:
            raise RunError(
                f"{self.folder.folder} holds other masks than those that the run began with. Give "
                "it those, or start a new run."
            )

    def of_labels(self, site: str, labels: Mapping[int, str]) -> Tensor:
        """The masks that hold these labels and no other; raises `CohortError` if there is none."""
        key = site, frozenset(labels)
        if key not in self._pools:
            pools = (
                masks[torch.isin(masks, torch.tensor(sorted(labels))).flatten(1).all(1)]
                for masks in (self.learned_for(site), self.masks)
            )
            self._pools[key] = next((pool for pool in pools if len(pool)), self.masks[:0])
        if not len(self._pools[key]):
            raise CohortError(
                f"each of the given masks in {self.folder.folder} has a label that site {site} "
                f"does not have; it has {', '.join(labels.values())}. Add masks of these labels."
            )
        return self._pools[key]

    def drawn(self, recipe: Recipe, site: str, batch: int, labels: Mapping[int, str]) -> Tensor:
        """The masks of a site's batch, (n, rows, columns), mirrored and moved as in training."""
        training = recipe.training
        random = torch.Generator().manual_seed(
            derived_seed(training.seed, "conditions", site, batch)
        )
        pool = self.of_labels(site, labels)
        return drawn_from(pool, training.batch, random, flip=training.flip, move=training.move)
