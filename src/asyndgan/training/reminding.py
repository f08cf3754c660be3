"""Keeps what a generator learned from absent sites by painting their masks again.

Source: Qu et al. 2020 (TDGAN), section 3: while the present sites teach it something new, it is
asked to paint the masks of those that left as it did when they were present.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from asyndgan.data import derived_seed, drawn_from
from asyndgan.recipe import Recipe
from asyndgan.training.checkpoint import load_network, network_state, shares_in
from asyndgan.training.quorum import normalised

Recall = Callable[[str], Tensor]  # conditions kept of a site: (n, *space); n may be 0

Paint = Callable[[nn.Module, Tensor, Sequence[str], torch.Generator], Tensor]
"""Paints images (b, c, *space) of conditions with a generator, in the looks of these sites."""


@final
class Memory:
    """The generator as it was when each absent site left; `recall` returns conditions of a site."""

    def __init__(self, recipe: Recipe, recall: Recall) -> None:
        self.recipe = recipe
        self.recall = recall
        self.away: dict[str, float] = {}
        self.frozen: dict[str, nn.Module] = {}
        self._conditions: dict[str, Tensor] = {}

    def follow(self, away: Mapping[str, float], average: nn.Module) -> None:
        """Updates shares of absent sites that took part; keeps `average` for one just leaving."""
        left = [site for site in away if site not in self.away]
        if left:
            frozen = copy.deepcopy(average).requires_grad_(False).eval()
            self.frozen |= dict.fromkeys(left, frozen)  # one copy for all that left together
            self._conditions |= {site: self.recall(site) for site in left}
        self.away = dict(away)
        for site in set(self.frozen) - set(away):
            del self.frozen[site], self._conditions[site]

    def remind(
        self, generator: nn.Module, held: Mapping[str, Sequence[int]], step: int, paint: Paint
    ) -> Tensor | None:
        """Adds the gradient of the reminding term to the generator's gradients, site by site.

        The share of one site is bounded as in feedback (`shares.most`), so that a site that
        declares too much and leaves cannot outweigh the others. Of a site only the channels of
        modalities that it `held` count. Random draws follow from `step`.

        Returns the term before weighting, (); None if there is no site to remember.
        """
        known = {s: share for s, share in self.away.items() if len(self._conditions[s])}
        if not known:
            return None
        total = torch.zeros(())
        most = self.recipe.shares.most_of(len(held))
        for site, share in sorted(normalised(known, most).items()):
            gap = share * self._gap(site, generator, held[site], step, paint)
            torch.autograd.backward(self.recipe.reminding.weight * gap)
            total += gap.detach().cpu()
        return total

    def _gap(
        self, site: str, generator: nn.Module, held: Sequence[int], step: int, paint: Paint
    ) -> Tensor:
        training = self.recipe.training
        masks, noise, again = (
            torch.Generator().manual_seed(derived_seed(training.seed, name, site, step))
            for name in ("remembered masks", "reminding", "reminding")
        )
        # Those that were moved before they were kept are moved again, as they are when synthetic
        # sets are painted from them: few are kept, and more shall be remembered than these.
        conditions = drawn_from(
            self._conditions[site], training.batch, masks, flip=training.flip, move=training.move
        )
        sites = [site] * training.batch
        with torch.no_grad():
            before = paint(self.frozen[site], conditions, sites, noise)
        now = paint(generator, conditions, sites, again)
        channels = list(held)
        return (now[:, channels] - before[:, channels]).abs().mean()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and facts for a checkpoint; it holds no conditions."""
        different = list({id(one): one for one in self.frozen.values()}.values())
        tensors: dict[str, Tensor] = {}
        for number, network in enumerate(different):
            tensors |= network_state(f"remembered-{number}", network)
        by = {site: different.index(one) for site, one in self.frozen.items()}
        return tensors, {"away": self.away, "generators": by}

    def load(
        self, tensors: Mapping[str, Tensor], about: Mapping[str, Any], like: nn.Module
    ) -> None:
        """Restores what `state` returned."""
        self.away = shares_in(about["away"])
        self._conditions = {site: self.recall(site) for site in self.away}
        networks: dict[int, nn.Module] = {}
        for site in self.away:
            number = about["generators"][site]
            if number not in networks:
                networks[number] = copy.deepcopy(like).requires_grad_(False).eval()
                load_network(f"remembered-{number}", networks[number], tensors)
            self.frozen[site] = networks[number]
