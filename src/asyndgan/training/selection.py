"""Measures how far a generator's images lie from real ones, without any image of a site.

Each site sends the moments of its images' features once (`Measured`); weighted by shares they add
up to those of all real images. In the steps before each checkpoint the averaged generator paints
the sites' conditions too, and the moments of its images are compared with the real ones. The run
can end with the generator that was nearest.
"""

import functools
import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from asyndgan.arrays import Images
from asyndgan.errors import (
    AsyndganError,
    CohortError,
    SiteSilentError,
    SiteUnreachableError,
    WireError,
)
from asyndgan.models.features import Features, Moments, distance, features_in_parts
from asyndgan.recipe import Recipe
from asyndgan.training.checkpoint import load_network, network_state
from asyndgan.training.roster import Roster
from asyndgan.wire import Measure, Measured, Message


@final
@dataclass(frozen=True)
class Distances:
    """Of the averaged generator's images from real ones.

    Attributes:
        together: of all images from all real ones, both weighted by the sites' shares.
        by_site: for each site, of the images painted for it from its own real ones.
    """

    together: float
    by_site: dict[str, float]


@final
class Selection:
    """Compares what is painted for sites with their real images; can keep the nearest generator.

    Args:
        recipe: gives the steps before a checkpoint that are compared, and the clip of features.

    Attributes:
        real: moments of each site's real images; of other sites nothing is compared.
        refused: sites that sent no valid ones in this attempt.
        silent: sites that have not answered since the last checkpoint.
        best_step: number of steps after which the nearest generator was found; 0: none kept.
        best_distance: its distance from the real images.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.real: dict[str, Moments] = {}
        self.refused: set[str] = set()
        self.silent: set[str] = set()
        self.best_step = 0
        self.best_distance = math.inf
        self._best: dict[str, Tensor] = {}
        self._seen: dict[str, Moments] = {}
        self._kept: dict[str, Tensor] = {}  # conditions of sites that are away

    def ask(self, roster: Roster, sites: Iterable[str]) -> dict[str, AsyndganError]:
        """Asks those of these members for their moments that have not been asked yet.

        One that does not answer is asked again after the next checkpoint: a site may need longer
        for its moments than for a judgement, and all others wait for it.

        Returns:
            Why there are none of a site, by site.
        """
        unknown = set(sites) - set(self.real) - self.refused - self.silent
        if not unknown:
            return {}
        found, missed = real_moments(roster, unknown)
        self.real |= found
        gone = (SiteSilentError, SiteUnreachableError)
        self.silent |= {site for site, error in missed.items() if isinstance(error, gone)}
        self.refused |= missed.keys() - self.silent
        return missed

    def kept_of(
        self, members: Collection[str], recall: Callable[[str], Tensor]
    ) -> dict[str, Tensor]:
        """Conditions that were kept of each site whose moments are known and that is no member.

        They are read again after each checkpoint, since more may be kept by then.
        """
        away = sorted(self.real.keys() - set(members))
        self._kept = {s: self._kept[s] if s in self._kept else recall(s) for s in away}
        return self._kept

    def wants(self, step: int) -> bool:
        """Whether a step is among the last `selection.window` before a checkpoint or the end."""
        training = self.recipe.training
        left = min(-(step + 1) % training.checkpoint_every, training.steps - step - 1)
        return left < self.recipe.selection.window

    def see(self, images: Mapping[str, Images]) -> None:
        """Adds images that the averaged generator painted to those to be compared.

        Args:
            images: painted from each site's conditions, by site; of those in `real` alone.
        """
        for site, own in images.items():
            moments = Moments.of(features_in_parts(own), clip=self.recipe.selection.clip or None)
            self._seen[site] = self._seen[site] + moments if site in self._seen else moments

    def decide(
        self, step: int, average: nn.Module, shares: Mapping[str, float]
    ) -> Distances | None:
        """Compares the images seen, if `step` steps complete a checkpoint or the run.

        Args:
            step: number of steps done.
            average: the generator that painted the images.
            shares: of these sites at least; a site's synthetic images weigh as much as its real
                ones.

        Returns:
            None if there is nothing to compare now.
        """
        training, seen = self.recipe.training, self._seen
        if step % training.checkpoint_every and step != training.steps:
            return None
        self._seen, self._kept, self.silent = {}, {}, set()
        if not seen:
            return None
        nearest = self.recipe.selection.kind == "nearest"
        real = {s: own for s, own in self.real.items() if nearest or s in seen}
        together = distance(_mixed(seen, shares), _mixed(real, shares))
        if nearest and together < self.best_distance:
            self.best_step, self.best_distance = step, together
            weights = network_state("best", average)
            self._best = {name: value.clone() for name, value in weights.items()}
        return Distances(together, {s: distance(own, self.real[s]) for s, own in seen.items()})

    def put_best_into(self, network: nn.Module) -> None:
        """Gives a network the weights of the nearest generator, if one was kept."""
        if self._best:
            load_network("best", network, self._best)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and facts for a checkpoint."""
        tensors = dict(self._best)
        for kind, moments in (("real", self.real), ("seen", self._seen)):
            for site, own in moments.items():
                tensors |= _stored(f"{kind}/{site}", own)
        return tensors, {
            "real": sorted(self.real),
            "seen": sorted(self._seen),
            "best_step": self.best_step,
            "best_distance": self.best_distance if self.best_step else None,
        }

    @classmethod
    def load(
        cls, recipe: Recipe, tensors: Mapping[str, Tensor], about: Mapping[str, Any], channels: int
    ) -> "Selection":
        """Restores what `state` returned for images of so many channels.

        Raises:
            ValueError: if the moments are not those of such images' features.
        """
        selection = cls(recipe)
        selection.real, selection._seen = (
            {str(site): _read(f"{kind}/{site}", tensors, channels) for site in about[kind]}
            for kind in ("real", "seen")
        )
        if not set(selection._seen) <= set(selection.real):
            raise ValueError("images are compared with those of a site that sent no moments")
        if about["best_step"]:
            selection.best_step = int(about["best_step"])
            selection.best_distance = float(about["best_distance"])
            selection._best = {k: v for k, v in tensors.items() if k.startswith("best/")}
        return selection


def _mixed(moments: Mapping[str, Moments], shares: Mapping[str, float]) -> Moments:
    return functools.reduce(
        operator.add, (own.weighing(shares[site]) for site, own in sorted(moments.items()))
    )


def _stored(name: str, moments: Moments) -> dict[str, Tensor]:
    return {
        f"{name}/count": torch.tensor(moments.count, dtype=torch.float64),
        f"{name}/total": moments.total,
        f"{name}/squares": moments.squares,
    }


def _read(name: str, tensors: Mapping[str, Tensor], channels: int) -> Moments:
    count, total, squares = (tensors[f"{name}/{key}"] for key in ("count", "total", "squares"))
    size = (Features(channels).size,)
    if {total.shape, squares.shape} != {size} or count.numel() != 1 or count.is_complex():
        raise ValueError(f"moments of {name} are not of {size[0]} features")
    return Moments(float(count), total.double(), squares.double())


def checked_moments(site: str, answer: Message, channels: int) -> Moments:
    """Checks the moments that a site sent.

    Raises:
        WireError: if there are none, or no images of so many channels can have them.
    """
    if not isinstance(answer, Measured):
        raise WireError(f"site {site} did not send its moments.")
    for values in (answer.total, answer.squares):
        if len(values) != Features(channels).size or not torch.isfinite(values).all():
            raise WireError(f"site {site}: moments of {len(values)} features, or not finite.")
    # Sums of squares cannot be smaller than this (Cauchy and Schwarz).
    least = answer.total.square() / answer.count
    if not (answer.squares >= least * (1 - 1e-6) - 1e-6).all():
        raise WireError(f"site {site}: moments that no images have.")
    return Moments(float(answer.count), answer.total, answer.squares)


def real_moments(
    roster: Roster, sites: Collection[str]
) -> tuple[dict[str, Moments], dict[str, AsyndganError]]:
    """Asks members of a run for the moments of their images' features.

    Returns:
        The moments by site, and why there are none of a site: it does not answer, what it sent is
        not valid, or it lacks a modality, so that its features mean something else.
    """
    modalities = len(roster.scope.modalities)
    found: dict[str, Moments] = {}
    missed: dict[str, AsyndganError] = {
        site: CohortError(
            f"site {site} lacks a modality, so its moments cannot be compared with those of the "
            "others."
        )
        for site in sites
        if len(roster.members[site].channels) < modalities
    }
    asked = sorted(set(sites) - set(missed))
    answers = roster.exchange.ask(dict.fromkeys(asked, Measure(run=roster.run)))
    missed |= answers.missed
    for site, answer in answers.answers.items():
        try:
            found[site] = checked_moments(site, answer, modalities)
        except WireError as error:
            missed[site] = error
    return found, missed
