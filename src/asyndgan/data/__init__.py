"""Cases, cohorts and the folders they come from."""

from asyndgan.data.case import Case, Preparation, RawCase
from asyndgan.data.cohort import Batch, Cohort, derived_seed, digest_of, drawn_from

__all__ = [
    "Batch",
    "Case",
    "Cohort",
    "Preparation",
    "RawCase",
    "derived_seed",
    "digest_of",
    "drawn_from",
]
