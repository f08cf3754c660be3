"""Cases, cohorts and the folders they come from."""

from typing import TYPE_CHECKING

from asyndgan.data.case import Preparation, RawCase
from asyndgan.lazy import lazily

if TYPE_CHECKING:
    from asyndgan.data.cohort import Batch, Cohort, derived_seed, digest_of, drawn_from
    from asyndgan.data.prepared import Case
else:
    __getattr__ = lazily(
        __name__, {"cohort": "Batch Cohort derived_seed digest_of drawn_from", "prepared": "Case"}
    )
