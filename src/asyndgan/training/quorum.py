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


def normalised(shares: Mapping[str, float], most: float = 1.0) -> dict[str, float]:
    """Shares that sum to one over the sites that answered.

    A site that is away takes its share along, and brings it back.

    Args:
        shares: as the sites declare them.
        most: that one of them counts for; what it has more goes to the others by their shares. As
            near as so few sites come to it.
    """
    total = sum(shares.values())
    parts = {site: share / total for site, share in shares.items()}
    if most * len(parts) <= 1:
        return {site: 1 / len(parts) for site in parts}  # none, where nobody answered
    capped: set[str] = set()
    while over := {site for site, part in parts.items() if part > most * (1 + 1e-12)}:
        capped |= over
        free = sum(share for site, share in shares.items() if site not in capped)
        room = (1 - most * len(capped)) / free
        parts = {site: most if site in capped else shares[site] * room for site in parts}
    return parts
