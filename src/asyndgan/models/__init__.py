"""Networks and losses: generators for the coordinator, discriminators for the sites."""

from asyndgan.models.discriminators import Verdict
from asyndgan.models.losses import AdversarialLoss
from asyndgan.models.parts import (
    arithmetic,
    build_adversarial_loss,
    build_discriminator,
    build_generator,
    check_parts,
    condition_channels,
    condition_maps,
    draw_noise,
    generator_from,
    native_bfloat16,
    site_noise,
    usable_device,
)

__all__ = [
    "AdversarialLoss",
    "Verdict",
    "arithmetic",
    "build_adversarial_loss",
    "build_discriminator",
    "build_generator",
    "check_parts",
    "condition_channels",
    "condition_maps",
    "draw_noise",
    "generator_from",
    "native_bfloat16",
    "site_noise",
    "usable_device",
]
