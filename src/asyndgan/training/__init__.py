"""The coordinator's step, the site's step, and the state that both keep."""

from typing import TYPE_CHECKING

from asyndgan.lazy import lazily

if TYPE_CHECKING:
    from asyndgan.training.coordinator import Coordinator, StepReport
    from asyndgan.training.scope import (
        SHARED_LOOK,
        Scope,
        generator_inputs,
        new_generator,
        scope_maps,
    )
    from asyndgan.training.site import Site
else:
    __getattr__ = lazily(
        __name__,
        {
            "coordinator": "Coordinator StepReport",
            "scope": "SHARED_LOOK Scope generator_inputs new_generator scope_maps",
            "site": "Site",
        },
    )

GENERATOR_VERSION = 6  # raised if a recipe trains otherwise: older runs are no evidence
