"""The coordinator's step, the site's step, and the state that both keep."""

from typing import TYPE_CHECKING

from asyndgan.lazy import lazily

if TYPE_CHECKING:
    from asyndgan.training.coordinator import Coordinator
    from asyndgan.training.site import Site
else:
    __getattr__ = lazily(__name__, {"coordinator": "Coordinator", "site": "Site"})

GENERATOR_VERSION = 6  # raised if a recipe trains otherwise: older runs are no evidence
