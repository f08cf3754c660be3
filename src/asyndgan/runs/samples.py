"""Paints grids of sample images during training, with the same masks and noise every time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from PIL import Image

from asyndgan.arrays import Mask
from asyndgan.runs.kept_masks import MaskBank
from asyndgan.store import derived_seed
from asyndgan.texts import stored_whole
from asyndgan.training import Coordinator
from asyndgan.training.scope import generator_inputs

ROWS = 2
"""Images of each site in a grid."""


@final
class SampleGrid:
    """Paints the first kept masks of each site, one row per image and one column per modality."""

    def __init__(self, folder: Path, coordinator: Coordinator, bank: MaskBank) -> None:
        self.folder = folder
        self.coordinator = coordinator
        self.bank = bank

    def _shown(self) -> Mapping[str, Sequence[Mask]]:
        given = self.coordinator.roster.given
        if not given:
            return self.bank.first(ROWS)
        return {
            site: given.learned_for(site)[ROWS * number : ROWS * number + ROWS].unbind()
            for number, site in enumerate(sorted(self.coordinator.roster.held))
        }

    @torch.no_grad()
    def write(self, step: int) -> np.ndarray | None:
        """Writes the grid of a step; returns it as uint8 (1, height, width), None without masks."""
        one = self.coordinator
        rows = []
        for site, masks in self._shown().items():
            look = one.roster.look_of(site)
            for number, mask in enumerate(masks):
                seed = derived_seed(one.recipe.training.seed, "samples", site, number)
                random = torch.Generator().manual_seed(seed)
                inputs = generator_inputs(
                    one.recipe, one.scope, mask[None], [look], random, one.device
                )
                painted = one.average(*inputs)[0].cpu()
                if painted.ndim > 3:  # of a volume its middle slice
                    painted = painted[:, painted.shape[1] // 2]
                rows.append(torch.cat(list(painted), dim=-1))
        if not rows:
            return None
        grid = ((torch.cat(rows, dim=0) + 1) * 127.5).round().to(torch.uint8).numpy()
        self.folder.mkdir(parents=True, exist_ok=True)
        with stored_whole(self.folder / f"step-{step:06d}.png") as half:
            Image.fromarray(grid).save(half, format="PNG")
        return grid[None]
