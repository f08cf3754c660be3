"""Networks and losses: generators for the coordinator, discriminators for the sites."""

from typing import TYPE_CHECKING

from asyndgan.lazy import lazily
from asyndgan.models.installed import check_parts

if TYPE_CHECKING:
    from asyndgan.models.discriminators import Verdict
    from asyndgan.models.losses import AdversarialLoss
    from asyndgan.models.parts import (
        arithmetic,
        build_adversarial_loss,
        build_discriminator,
        build_generator,
        condition_channels,
        condition_maps,
        draw_noise,
        native_bfloat16,
        site_noise,
        usable_device,
    )
    from asyndgan.models.sizes import Sizes
else:
    __getattr__ = lazily(
        __name__,
        {
            "discriminators": "Verdict",
            "losses": "AdversarialLoss",
            "parts": "arithmetic build_adversarial_loss build_discriminator build_generator "
            "condition_channels condition_maps draw_noise native_bfloat16 site_noise usable_device",
            "sizes": "Sizes",
        },
    )
