"""Paints grids of sample images during training, with the same masks and noise every time."""

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from asyndgan.training import Coordinator, generator_inputs

ROWS = 2
"""Images of each site in a grid."""


@final
class SampleGrid:
    """Paints the first masks of each site, one row per image and one column per modality.

    Grids are written only if sites release their masks, since an image reveals its mask.

    Args:
        folder: folder for the pictures.
        coordinator: coordinator whose averaged generator paints.
        masks: site and mask of each image, one at least.
    """

    def __init__(
        self, folder: Path, coordinator: Coordinator, masks: Sequence[tuple[str, Tensor]]
    ) -> None:
        self.folder = folder
        self.coordinator = coordinator
        conditions = torch.stack([mask for _, mask in masks])
        recipe, scope = coordinator.recipe, coordinator.scope
        random = torch.Generator().manual_seed(recipe.training.seed)
        sites = [site for site, _ in masks]
        self.inputs = generator_inputs(recipe, scope, conditions, sites, random, coordinator.device)

    def write(self, step: int) -> np.ndarray:
        """Writes the grid of a step; returns it as uint8 (1, height, width)."""
        with torch.no_grad():
            images = self.coordinator.average(*self.inputs).cpu()
        rows = [torch.cat(list(image), dim=-1) for image in images]
        grid = ((torch.cat(rows, dim=0) + 1) * 127.5).round().to(torch.uint8).numpy()
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grid).save(self.folder / f"step-{step:06d}.png")
        return grid[None]
