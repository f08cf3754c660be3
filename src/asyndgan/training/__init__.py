"""The coordinator's step, the site's step, and the state that both keep."""

from asyndgan.training.coordinator import Coordinator, StepReport
from asyndgan.training.scope import Scope, generator_inputs, new_generator, scope_maps
from asyndgan.training.site import Site

GENERATOR_VERSION = 5
"""Raise it when a change alters what a recipe trains: older runs are then no evidence for it."""

__all__ = [
    "GENERATOR_VERSION",
    "Coordinator",
    "Scope",
    "Site",
    "StepReport",
    "generator_inputs",
    "new_generator",
    "scope_maps",
]
