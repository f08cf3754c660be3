"""Networks and losses: generators for the coordinator, discriminators for the sites."""

from typing import TYPE_CHECKING

from asyndgan.lazy import lazily
from asyndgan.models.installed import check_parts

if TYPE_CHECKING:
    from asyndgan.models.discriminators import Verdict
    from asyndgan.models.sizes import Sizes
else:
    __getattr__ = lazily(__name__, {"discriminators": "Verdict", "sizes": "Sizes"})
