"""The seam between a step and the strategy that makes one gradient of the sites' answers."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from asyndgan.arrays import Images
from asyndgan.data import Batch
from asyndgan.recipe import Recipe
from asyndgan.training.member import Members, Weights
from asyndgan.training.objective import Losses, Objective
from asyndgan.training.scope import Scope
from asyndgan.wire import Card, StepAnswer, StepRequest

Request = TypeVar("Request", bound=StepRequest)
Answer = TypeVar("Answer", bound=StepAnswer)


class Aggregation(ABC, Generic[Request, Answer]):
    """What a step asks of every site, and how the answers become one gradient.

    The coordinator calls one half of it, and every site the other. It keeps no state, so
    checkpoints need not know of it.

    Args:
        recipe: of the run.

    Attributes:
        request: message that asks a site in a step; another one is refused.
        answer: message that a site answers with.
    """

    request: ClassVar[type[StepRequest]]
    answer: ClassVar[type[StepAnswer]]

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    # The coordinator's half

    @abstractmethod
    def check_sites(self, count: int) -> None:
        """Checks that so many sites may take part in one step.

        Raises:
            RunError: they are too many.
        """

    @abstractmethod
    def check_card(self, site: str, card: Card, scope: Scope, members: Collection[str]) -> None:
        """Checks that a site can be asked.

        Args:
            site: the site.
            card: that it sent.
            scope: of the run.
            members: sites that take part now.

        Raises:
            CohortError: it cannot.
        """

    @abstractmethod
    def requests(
        self, run: str, step: int, members: Members, shares: Weights, images: Images
    ) -> Mapping[str, Request]:
        """The request of a step to each member.

        Args:
            run: identity of the run.
            step: number of the step.
            members: by site.
            shares: of the members; they sum to one.
            images: of all members, in their order, the same number for each.
        """

    @abstractmethod
    def batches(self, sites: int) -> int:
        """Of how many sites each of so many members judges the images."""

    @abstractmethod
    def check(self, site: str, answer: Answer) -> None:
        """Checks what is particular to the answers of this strategy.

        Args:
            site: the site.
            answer: its feedback has the wanted shape.

        Raises:
            WireError: the answer makes no sense.
        """

    @abstractmethod
    def pull(
        self, images: Images, members: Members, answers: Mapping[str, Answer], shares: Weights
    ) -> Images:
        """Gradient of the generator's loss with respect to the images of all members.

        Args:
            images: of all members, in their order, the same number for each.
            members: sites that the images were painted for.
            answers: of those that answered. A site that did not contributes nothing.
            shares: of those that answered; they sum to one.
        """

    # The site's half

    @abstractmethod
    def shown(self, request: StepRequest, offered: Batch, labels: int) -> Batch:
        """The images of a request, with the conditions that they were painted from.

        Args:
            request: to be checked; only what follows from the wire is known of it.
            offered: conditions that this site offered, and real images of the wanted shape.
            labels: number of labels that this site knows.

        Raises:
            ProtocolError: the request is of another strategy, or not about what was offered.
        """

    @abstractmethod
    def learn(
        self, objective: Objective, real: Batch, synthetic: Batch, request: Request
    ) -> Losses:
        """One update of the site's discriminator.

        Args:
            objective: the site's networks.
            real: its cases.
            synthetic: what `shown` returned.
            request: that `shown` accepted.
        """

    @abstractmethod
    def ask(
        self, objective: Objective, synthetic: Batch, real: Batch | None
    ) -> tuple[Losses, dict[str, Tensor]]:
        """What the site's discriminator wants of the synthetic images.

        Args:
            objective: the site's networks.
            synthetic: what `shown` returned.
            real: as for `Objective.ask`.

        Returns:
            Terms of the loss, by name; and the arrays of the answer, by field, on the CPU. One is
            `feedback`, of the images' shape.
        """
