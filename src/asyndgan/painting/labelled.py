"""Has sites label a synthetic set, each by a segmentation network of its own patients.

A generator rarely shows a mask as exactly as patients do. Networks that learned from patients say
what a painted image shows; their labels in place of the masks make a better training set, and
reveal more of those patients (see docs/labels.md).
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from asyndgan.arrays import Images
from asyndgan.data.copying import write_relabelled
from asyndgan.data.dataset import DataSet
from asyndgan.data.folds import read_folds
from asyndgan.data.writing import written_whole
from asyndgan.errors import RunError, SiteSilentError
from asyndgan.models.segmenters import check_size
from asyndgan.painting.card import model_card
from asyndgan.painting.provenance import LABELLED_BY, provenance_of
from asyndgan.painting.sets import OnPainted, check_provenance
from asyndgan.protocol import Exchange, Transport, message_limit
from asyndgan.received import link_in
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.training.labelling import MOST_IMAGES
from asyndgan.wire import Label, Labelled

PATIENCE_S: Final = 7200.0
"""Longest time in seconds that a site may take to train its network."""

RUN_SUFFIX: Final = "-labels"
"""Ends the name under which sites of a federation keep their state of it: a process of its own,
which is not taken for one that has answered and hangs."""

Sent = dict[str, tuple[int, int]]
"""By site, the bytes that went to it and those that left it."""


def check_labelling(run: RunFolder, synthetic: DataSet, sites: Sequence[str]) -> dict[str, Any]:
    """Refuses what cannot be labelled, before a site is set up; returns the set's provenance.

    Raises:
        DataError: the set is no data set, its folds are not of its cases, or its images are too
            small for the networks.
        RunError: the set holds a link, the run did not paint it from masks or has no such site, or
            it is labelled.
    """
    facts, recipe = run.facts(), run.recipe()
    if link := link_in(synthetic.folder):
        raise RunError(
            f"{link} is a link, and a set to be labelled may hold none: its copy would hold what "
            "only you can read. If you made it, put there what it leads to."
        )
    if recipe.condition.kind != "mask":
        raise RunError(f"the run in {run.path} paints no images of masks; there is none to label.")
    check_size(recipe.space, f"images of the run in {run.path}")
    provenance = check_provenance(run, synthetic)
    read_folds(synthetic.folder, [case.name for case in synthetic.files])
    if strange := sorted({*sites} - {*facts.teachers}):
        raise RunError(
            f"the generator learned from {', '.join(sorted(facts.teachers))}, and not from "
            f"{', '.join(strange)}. Name sites of the run."
        )
    if not sites:
        raise RunError("no site is named that could label. Name one with --site.")
    return provenance


def label_set(
    run: RunFolder,
    synthetic: DataSet,
    out: Path,
    transport: Transport,
    sites: Sequence[str],
    *,
    watch: OnPainted | None = None,
) -> Sent:
    """Copies a synthetic set, with the labels of sites in place of the masks it was painted from.

    Each site tells the probability of each label at each pixel. Their mean, weighted by the sites'
    shares in the run, decides: a pixel gets its most probable label. Every image goes to every
    site, once.

    Args:
        run: the finished run that painted the set.
        synthetic: the set, with the masks that it was painted from.
        out: folder of the new set; must not exist.
        transport: to the sites, each of which was set up for the run's recipe.
        sites: sites of the run that are to label; all must answer.
        watch: called after each part with the number of labelled images.

    Returns:
        The bytes that moved, by site.

    Raises:
        DataError: the set cannot be read, or `out` cannot be written.
        RunError: as `check_labelling`; or a site refuses, is away, or answers what is no label.
    """
    provenance = check_labelling(run, synthetic, sites) | provenance_of(run)
    facts, recipe = run.facts(), run.recipe()
    shares = {site: float(facts.teachers[site]["share"]) for site in sorted(sites)}
    total = sum(shares.values())
    weights = {site: share / total for site, share in shares.items()}
    part = images_at_once(recipe, facts)
    with written_whole(out) as half, closing(Exchange(transport, recipe)) as exchange:
        cases = synthetic.cases(recipe.image, facts.modalities, unmasked=False, synthetic=True)
        asking = _Asking(exchange, facts, recipe, secrets.token_hex(16))
        masks: dict[str, np.ndarray] = {}
        for start in range(0, len(cases), part):
            own = cases[start : start + part]
            told = asking.mean_of(torch.stack([case.image for case in own]), weights)
            masks |= {
                case.name: mask.numpy() for case, mask in zip(own, told.argmax(1), strict=True)
            }
            if watch:
                watch("label images", len(masks), len(cases))
        provenance[LABELLED_BY] = weights
        write_relabelled(
            synthetic, half, masks, axis=recipe.image.axis, about={"provenance": provenance}
        )
        card = model_card(facts, provenance, len(cases), recipe)
        (half / "MODEL_CARD.md").write_text(card, "utf-8")
    return {
        site: (
            sum(size for (name, _), size in exchange.to_sites.items() if name == site),
            sum(size for (name, _), size in exchange.from_sites.items() if name == site),
        )
        for site in weights
    }


def images_at_once(recipe: Recipe, facts: RunFacts) -> int:
    """Images in one request: as many as the limits of messages and of sites let.

    Raises:
        RunError: not even one image's probabilities fit into a message.
    """
    classes = 1 + max(map(int, facts.labels))
    one = 4 * max(classes, len(facts.modalities)) * int(np.prod(recipe.space))
    most = min(MOST_IMAGES, message_limit(recipe) // one)
    if not most:
        raise RunError(
            f"{classes} labels are more than one message holds for an image of this size, so sites "
            "cannot label these images."
        )
    return most


class _Asking:
    """Asks sites to label images, as often as one is silent while its network learns."""

    def __init__(self, exchange: Exchange, facts: RunFacts, recipe: Recipe, run: str) -> None:
        self.exchange = exchange
        self.facts = facts
        self.recipe = recipe
        self.run = run

    def mean_of(self, images: Images, weights: Mapping[str, float]) -> Tensor:
        """Weighted mean of the sites' probabilities of each label, (b, labels, *space)."""
        waiting = {site: self._request(site, images) for site in weights}
        classes = 1 + max(map(int, self.facts.labels))
        total = torch.zeros(len(images), classes, *self.recipe.space)
        end = time.monotonic() + PATIENCE_S
        while waiting:
            answers = self.exchange.ask(waiting)
            for site, answer in answers.answers.items():
                del waiting[site]
                if not isinstance(answer, Labelled) or not _fits(answer.probabilities, total):
                    raise RunError(f"site {site} answered what are no labels of these images.")
                own = answer.probabilities
                total[:, : own.shape[1]] += weights[site] * (own + 1) / 2
            for error in answers.missed.values():
                if not isinstance(error, SiteSilentError) or time.monotonic() > end:
                    raise RunError(
                        f"the set is not labelled: {error} A site labels if leaves.labels of its "
                        "policy is true. Name the sites that do with --site."
                    ) from error
        return total

    def _request(self, site: str, images: Images) -> Label:
        held = self.facts.sites[site]["modalities"]
        places = [self.facts.modalities.index(name) for name in held]
        return Label(run=self.run, recipe=self.recipe.digest(), images=images[:, places])


def _fits(own: Tensor, total: Tensor) -> bool:
    """Whether these are probabilities of the images, of the run's labels or the first of them."""
    same = own.shape[:1] == total.shape[:1] and own.shape[2:] == total.shape[2:]
    return same and own.shape[1] <= total.shape[1]
