"""Chooses the averaged generator that a run ends with, without any image of a site.

Each site sends the moments of its images' features once (`Measured`); weighted by shares they add
up to those of all real images. In the steps before each checkpoint the averaged generator paints
the sites' conditions too, and the moments of its images are compared with the real ones.
"""

import functools
import math
import operator
from collections.abc import Collection, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from asyndgan.arrays import Images
from asyndgan.errors import CohortError, QuorumError, WireError
from asyndgan.models.features import Features, Moments, distance, features_in_parts
from asyndgan.recipe import Recipe
from asyndgan.training.checkpoint import load_network, network_state
from asyndgan.training.roster import Roster
from asyndgan.wire import Measure, Measured, Message


@final
class Selection:
    """Keeps the generator whose images have been nearest to the real ones so far.

    Args:
        recipe: gives the steps before a checkpoint that are compared, and the clip of features.
        reference: moments of the real images, all sites together.
        sites: whose images these are; of other sites nothing is compared.

    Attributes:
        best_step: number of steps after which the nearest generator was found; 0: none yet.
        best_distance: its distance from the real images.
    """

    def __init__(self, recipe: Recipe, reference: Moments, sites: Collection[str]) -> None:
        self.recipe = recipe
        self.reference = reference
        self.sites = frozenset(sites)
        self.best_step = 0
        self.best_distance = math.inf
        self._best: dict[str, Tensor] = {}
        self._seen: Moments | None = None

    def wants(self, step: int) -> bool:
        """Whether a step is among the last `selection.window` before a checkpoint or the end."""
        training = self.recipe.training
        left = min(-(step + 1) % training.checkpoint_every, training.steps - step - 1)
        return left < self.recipe.selection.window

    def see(self, images: Mapping[str, Images], shares: Mapping[str, float]) -> None:
        """Adds images that the averaged generator painted to those to be compared.

        Args:
            images: painted from each site's conditions, by site; of `sites` alone.
            shares: of these sites; a site's synthetic images weigh as much as its real ones.
        """
        for site, own in images.items():
            moments = Moments.of(features_in_parts(own), clip=self.recipe.selection.clip or None)
            moments = moments.weighing(shares[site])
            self._seen = moments if self._seen is None else self._seen + moments

    def decide(self, step: int, average: nn.Module) -> float | None:
        """Compares the images seen, if `step` steps complete a checkpoint or the run.

        Returns:
            Their distance from the real images; None if there is nothing to compare now.
        """
        training = self.recipe.training
        if self._seen is None or (step % training.checkpoint_every and step != training.steps):
            return None
        found = distance(self._seen, self.reference)
        self._seen = None
        if found < self.best_distance:
            self.best_step, self.best_distance = step, found
            weights = network_state("best", average)
            self._best = {name: value.clone() for name, value in weights.items()}
        return found

    def put_best_into(self, network: nn.Module) -> None:
        """Gives a network the weights of the nearest generator, if there is one yet."""
        if self._best:
            load_network("best", network, self._best)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and facts for a checkpoint."""
        tensors = {**self._best, **_stored("reference", self.reference)}
        if self._seen is not None:
            tensors |= _stored("seen", self._seen)
        distance_ = self.best_distance if self.best_step else None
        return tensors, {
            "sites": sorted(self.sites),
            "best_step": self.best_step,
            "best_distance": distance_,
        }

    @classmethod
    def load(
        cls, recipe: Recipe, tensors: Mapping[str, Tensor], about: Mapping[str, Any], channels: int
    ) -> "Selection":
        """Restores what `state` returned for images of so many channels.

        Raises:
            ValueError: if the moments are not those of such images' features.
        """
        sites = [str(site) for site in about["sites"]]
        selection = cls(recipe, _read("reference", tensors, channels), sites)
        if "seen/total" in tensors:
            selection._seen = _read("seen", tensors, channels)
        if about["best_step"]:
            selection.best_step = int(about["best_step"])
            selection.best_distance = float(about["best_distance"])
            selection._best = {k: v for k, v in tensors.items() if k.startswith("best/")}
        return selection


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
    roster: Roster, only: Collection[str] | None = None
) -> tuple[Moments, Collection[str]]:
    """Asks the sites for the moments of their images' features and adds them up by shares.

    Args:
        roster: of the run.
        only: sites to ask; None: all members.

    Returns:
        The sum, and the sites whose moments it holds.

    Raises:
        CohortError: if a site lacks a modality, so that its features mean something else.
        QuorumError: if a site does not answer.
        WireError: if a site's moments are not valid.
    """
    members = {s: m for s, m in roster.members.items() if only is None or s in only}
    modalities = len(roster.scope.modalities)
    for site, member in members.items():
        if len(member.channels) < modalities:
            raise CohortError(
                f"site {site} lacks a modality, so its moments cannot be compared with those "
                "of the others. Set selection.kind to 'last'."
            )
    answers = roster.exchange.ask(dict.fromkeys(members, Measure(run=roster.run)))
    if answers.missed:
        reasons = "; ".join(str(error) for error in answers.missed.values())
        raise QuorumError(f"the run cannot begin: {reasons}")
    shares = roster.shares_of(members)
    parts = [
        checked_moments(site, answer, modalities).weighing(shares[site])
        for site, answer in answers.answers.items()
    ]
    return functools.reduce(operator.add, parts), list(members)
