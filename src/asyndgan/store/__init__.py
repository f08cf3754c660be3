"""Cases as arrays, and cohorts of them; nothing here knows files of data sets."""

from typing import TYPE_CHECKING

from asyndgan.lazy import lazily
from asyndgan.store.case import Preparation, RawCase

if TYPE_CHECKING:
    from asyndgan.store.cohort import Batch, Cohort, Declared, derived_seed, digest_of, drawn_from
    from asyndgan.store.prepared import Case
else:
    __getattr__ = lazily(
        __name__,
        {"cohort": "Batch Cohort Declared derived_seed digest_of drawn_from", "prepared": "Case"},
    )
