"""What a generator learned from sites that are not there any more, kept by painting it again.

Source: Qu et al. 2020 (TDGAN), section 3: while the discriminators of the sites that are there
teach it something new (digesting), the generator is asked to paint the masks of those that left as
it did when they were there (reminding).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from asyndgan.data import derived_seed, drawn_from
from asyndgan.models.losses import balanced_l1
from asyndgan.recipe import Recipe
from asyndgan.training.checkpoint import load_network, network_state

Recall = Callable[[str], Tensor]
"""Conditions of a site, as many as were kept: (n, *space); none: (0, ...)."""

Paint = Callable[[nn.Module, Tensor, Sequence[str], torch.Generator], Tensor]
"""A generator's images (b, c, *space) of conditions, in the looks of these sites."""


@final
class Memory:
    """The generator as it was when a site was last there, and who is remembered.

    Args:
        recipe: says how strongly, and how many images of each site.
        recall: conditions that a site has released.

    Attributes:
        away: share of each site that is remembered.
    """

    def __init__(self, recipe: Recipe, recall: Recall) -> None:
        self.recipe = recipe
        self.recall = recall
        self.away: dict[str, float] = {}
        self._frozen: nn.Module | None = None
        self._conditions: dict[str, Tensor] = {}

    def follow(self, away: Mapping[str, float], average: nn.Module) -> None:
        """Takes note of who is there. When a site has left, the generator of now is what counts.

        It remembers those who left before as well, since it was reminded of them until now.

        Args:
            away: share of each site that has been there and is not.
            average: the averaged generator.
        """
        if set(away) - set(self.away):
            self._frozen = copy.deepcopy(average).requires_grad_(False).eval()
        self.away = dict(away)
        self._conditions = {
            site: self._conditions[site] if site in self._conditions else self.recall(site)
            for site in away
        }

    def loss(self, generator: nn.Module, step: int, paint: Paint) -> Tensor | None:
        """How differently the two generators paint, (); None if there is nobody to remember.

        Args:
            generator: that learns.
            step: of the run; fixes what is drawn.
            paint: paints with a generator.
        """
        training = self.recipe.training
        gaps: list[Tensor] = []
        weights: list[float] = []
        for site, share in sorted(self.away.items()):
            pool = self._conditions[site]
            if self._frozen is None or not len(pool):
                continue
            masks, noise, again = (
                torch.Generator().manual_seed(derived_seed(training.seed, name, site, step))
                for name in ("remembered masks", "reminding", "reminding")
            )
            conditions = drawn_from(pool, training.batch, masks, flip=training.flip)
            looks = [site] * training.batch
            with torch.no_grad():
                before = paint(self._frozen, conditions, looks, noise)
            now = paint(generator, conditions, looks, again)
            balance = self.recipe.loss.balance
            gaps.append(balanced_l1(now, before, conditions.to(now.device), balance))
            weights.append(share)
        if not gaps:
            return None
        weight = torch.tensor(weights, device=gaps[0].device)
        return (weight / weight.sum() * torch.stack(gaps)).sum()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """For a checkpoint. It holds how many conditions there were of each site, and none."""
        tensors = network_state("remembered", self._frozen) if self._frozen else {}
        kept = {site: len(own) for site, own in self._conditions.items()}
        return tensors, {"away": self.away, "kept": kept}

    def load(
        self, tensors: Mapping[str, Tensor], about: Mapping[str, Any], like: nn.Module
    ) -> None:
        """Takes what `state` gave.

        Args:
            tensors: of the checkpoint.
            about: of the checkpoint.
            like: a generator of the same recipe.
        """
        self.away = {site: float(share) for site, share in about["away"].items()}
        # More may have been kept since, by steps that are taken anew.
        self._conditions = {
            site: self.recall(site)[: int(count)] for site, count in about["kept"].items()
        }
        if any(key.startswith("remembered/") for key in tensors):
            self._frozen = copy.deepcopy(like).requires_grad_(False).eval()
            load_network("remembered", self._frozen, tensors)
