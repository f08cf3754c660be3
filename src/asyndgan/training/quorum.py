"""How many sites must answer for a step to count, and how their answers weigh."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil
from typing import final

from asyndgan.recipe import QuorumSection


@final
@dataclass(frozen=True)
class Quorum:
    """Decides whether enough sites are there.

    Attributes:
        section: the recipe's.
        known: sites that belong to the run, present or not.
    """

    section: QuorumSection
    known: Collection[str]

    @property
    def least(self) -> int:
        """Sites that must answer; at least one."""
        return max(1, ceil(self.section.least * len(self.known) - 1e-9))

    def met_by(self, answered: Collection[str]) -> bool:
        """Whether these are enough."""
        return len(answered) >= self.least


def normalised(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares that sum to one over the sites that answered.

    A site that is away takes its share along, and brings it back.
    """
    total = sum(shares.values())
    return {site: share / total for site, share in shares.items()}
