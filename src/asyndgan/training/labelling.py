"""A site's own labels of images: by a segmentation network of its patients, beside the GAN."""

from functools import cached_property
from typing import Final, final

import torch
from torch import Tensor, nn

from asyndgan.arrays import Images
from asyndgan.data import Cohort, derived_seed
from asyndgan.data.prepared import Case
from asyndgan.errors import CohortError, ProtocolError
from asyndgan.models.budget import SegmentationBudget
from asyndgan.recipe import Recipe
from asyndgan.training.arrivals import check_range
from asyndgan.training.segmentation import budget_for, train_segmenter

BUDGET: Final = SegmentationBudget()
"""How the network is trained, unless a site says otherwise."""

MOST_IMAGES: Final = 64
"""Most images that one request may have labelled; a policy counts requests."""

BATCH: Final = 16


@final
class Labeller:
    """Labels images by a network that is trained when it is first asked, and then kept.

    It learns from the cases of the cohort that have all of the site's modalities. A label that none
    of them has gets a probability near 0.

    Args:
        name: of the site.
        cohort: its cases; held-out patients are not among them.
        recipe: of the run whose images are labelled.
        device: where the network computes.
        budget: how the network is trained.
    """

    def __init__(
        self,
        name: str,
        cohort: Cohort,
        recipe: Recipe,
        device: torch.device,
        budget: SegmentationBudget,
    ) -> None:
        self.name = name
        self.cohort = cohort
        self.recipe = recipe
        self.device = device
        self.budget = budget_for(recipe, budget)

    @cached_property
    def network(self) -> nn.Module:
        """The site's segmentation network.

        Raises:
            CohortError: no case that has all of the site's modalities shows a label.
        """
        cohort = self.cohort
        whole = list(range(len(cohort)))
        if cohort.present is not None:
            whole = cohort.present.all(1).nonzero().flatten().tolist()
        cases = [
            Case.drawn(f"case {n}", cohort.images[n], cohort.conditions[n], cohort.modalities)
            for n in whole
        ]
        if not any(bool(case.mask.any()) for case in cases):
            raise CohortError(
                f"site {self.name}: no case with all of its modalities shows a label, so no "
                "network learns to find one."
            )
        return train_segmenter(
            cases,
            classes=max(cohort.labels) + 1,
            budget=self.budget,
            seed=derived_seed(cohort.seed, "labels"),
            device=str(self.device),
        )

    def check(self, images: Images) -> None:
        """Refuses images that cannot be labelled, before a network is trained for them.

        Raises:
            NotFiniteError, ProtocolError: they are not as the recipe's and the site's own, or too
                many; or the recipe's images show no masks.
        """
        if self.recipe.condition.kind != "mask":
            raise ProtocolError("this recipe's images show no masks, so nothing has labels.")
        one = (len(self.cohort.modalities), *self.cohort.space)
        if len(images) > MOST_IMAGES or tuple(images.shape[1:]) != one:
            raise ProtocolError(
                f"images of shape {tuple(images.shape)} came to be labelled; wanted at most "
                f"{MOST_IMAGES} of shape {one}."
            )
        check_range(images, "the images to be labelled")

    def probabilities(self, images: Images) -> Tensor:
        """Probability of each label at each pixel, (b, labels, *space).

        Args:
            images: (b, c, *space) in [-1, 1], in the site's own modalities.
        """
        network = self.network
        with torch.no_grad():
            told = [network(part.to(self.device)).softmax(1).cpu() for part in images.split(BATCH)]
        return torch.cat(told)
