"""What may leave a site, the door that it leaves by, and the book in which it stands."""

from asyndgan.privacy.ledger import Ledger
from asyndgan.privacy.policy import SIMULATION, Policy
from asyndgan.privacy.release import Release, Released

__all__ = ["SIMULATION", "Ledger", "Policy", "Release", "Released"]
