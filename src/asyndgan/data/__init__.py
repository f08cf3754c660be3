"""Cases, cohorts and the folders they come from."""

from asyndgan.data.case import Case, Preparation, RawCase
from asyndgan.data.cohort import Batch, Cohort, derived_seed

__all__ = ["Batch", "Case", "Cohort", "Preparation", "RawCase", "derived_seed"]
