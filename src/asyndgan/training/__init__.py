"""The coordinator's step, the site's step, and what both keep."""

from asyndgan.training.coordinator import (
    Coordinator,
    Scope,
    StepReport,
    new_generator,
    scope_maps,
)
from asyndgan.training.site import Site

__all__ = ["Coordinator", "Scope", "Site", "StepReport", "new_generator", "scope_maps"]
