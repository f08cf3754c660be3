"""How many sites must answer for a step to update the generator, and how their answers weigh."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil
from typing import final

from asyndgan.recipe import QuorumSection


@final
@dataclass(frozen=True)
class Quorum:
    """Decides whether enough sites answered."""

    section: QuorumSection  # the recipe's quorum section
    # sites that count: due in this step, not gone for good, and here at least once before
    known: Collection[str]

    @property
    def least(self) -> int:
        """Number of sites that must answer; at least one."""
        return max(1, ceil(self.section.least * len(self.known) - 1e-9))

    def met_by(self, answered: Collection[str]) -> bool:
        """Whether these sites are enough."""
        return len(answered) >= self.least


def normalised(shares: Mapping[str, float], most: float = 1.0) -> dict[str, float]:
    """Shares of the sites that answered, so that they sum to one.

    No part is above `most`: the rest goes to the others in proportion to their shares. Where sites
    are too few for this limit, all count equally.
    """
    total = sum(shares.values())
    parts = {site: share / total for site, share in shares.items()}
    if most * len(parts) <= 1:
        return {site: 1 / len(parts) for site in parts}  # empty if no site answered
    capped: set[str] = set()
    while over := {site for site, part in parts.items() if part > most * (1 + 1e-12)}:
        capped |= over
        free = sum(share for site, share in shares.items() if site not in capped)
        room = (1 - most * len(capped)) / free
        parts = {site: most if site in capped else shares[site] * room for site in parts}
    return parts
