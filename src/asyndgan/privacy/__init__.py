"""What may leave a site (policy), the only way out (release), and its books (ledger, openings)."""

from typing import TYPE_CHECKING

from asyndgan.lazy import lazily
from asyndgan.privacy.policy import SIMULATION, Policy

if TYPE_CHECKING:
    from asyndgan.privacy.door import Release, Released
    from asyndgan.privacy.openings import Openings
else:
    __getattr__ = lazily(__name__, {"openings": "Openings", "door": "Release Released"})
