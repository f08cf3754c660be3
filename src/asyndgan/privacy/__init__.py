"""What may leave a site (policy), the only way out (release), and its books (ledger, openings)."""

from asyndgan.privacy.ledger import Ledger
from asyndgan.privacy.openings import Openings
from asyndgan.privacy.policy import SIMULATION, Policy
from asyndgan.privacy.release import Release, Released

__all__ = ["SIMULATION", "Ledger", "Openings", "Policy", "Release", "Released"]
