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
from asyndgan.privacy.policy import AllowsSection
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
        allows: section of the site's policy, which says from how few patients it may learn.
    """

    def __init__(
        self,
        name: str,
        cohort: Cohort,
        recipe: Recipe,
        device: torch.device,
        budget: SegmentationBudget,
        allows: AllowsSection,
    ) -> None:
        self.name = name
        self.cohort = cohort
        self.recipe = recipe
        self.device = device
        self.budget = budget_for(recipe, budget)
        self.allows = allows

    @cached_property
    def network(self) -> nn.Module:
        """The site's segmentation network.

        Raises:
            CohortError: too few patients have a case with all of the site's modalities, or one that
                shows a label.
        """
        cohort = self.cohort
        whole = torch.ones(len(cohort), dtype=torch.bool)
        if cohort.present is not None:
            whole = cohort.present.all(1)
        self._check_patients(whole)
        cases = [
            Case.drawn(f"case {n}", cohort.images[n], cohort.conditions[n], cohort.modalities)
            for n in whole.nonzero().flatten().tolist()
        ]
        return train_segmenter(
            cases,
            classes=max(cohort.labels) + 1,
            budget=self.budget,
            seed=derived_seed(cohort.seed, "labels"),
            device=str(self.device),
        )

    def _check_patients(self, whole: Tensor) -> None:
        """Refuses a network of few patients: its labels would tell who they are.

        The recipe chooses modalities, slices and grid, and so the cases.
        """
        cohort, fewest = self.cohort, max(1, self.allows.fewest_patients)
        learned = cohort.patients_with(whole)
        labelled = cohort.patients_with(whole & cohort.conditions.flatten(1).any(1))
        wanted = ""
        if labelled < fewest:
            wanted = f"{fewest} patients with a label (allows.fewest_patients); here {labelled}"
        # With a known start a coordinator finds patients by their names anyway.
        elif 5 * learned < 4 * cohort.eligible and not self.allows.known_start:
            wanted = f"four fifths of {cohort.eligible} patients not held out; here {learned}"
        if wanted:
            raise CohortError(
                f"site {self.name}: a network that labels images learns from cases with all of the "
                f"site's modalities, of at least {wanted}. Ask for labels of a run whose "
                "image.modalities and image.slices select more."
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
