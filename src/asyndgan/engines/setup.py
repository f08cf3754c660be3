"""What it takes to set a site up on this machine, in the same way for every engine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

from asyndgan.data import Cohort, derived_seed
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN, describe
from asyndgan.data.prepare import load_cases
from asyndgan.data.splits import hold_out_of
from asyndgan.protocol import Endpoint, message_limit
from asyndgan.recipe import Recipe
from asyndgan.training import Site


@final
@dataclass(frozen=True)
class SiteSetup:
    """Where a site's things are.

    Attributes:
        name: of the site.
        data: folder of its images and masks.
        state: folder of its own checkpoints.
        share: its weight among the sites; None: its number of cases.
        patients: pattern that finds the patient in a case's name.
    """

    name: str
    data: Path
    state: Path
    share: float | None = None
    patients: str = DEFAULT_PATIENT_PATTERN

    def to_plain(self) -> dict[str, str | float | None]:
        """For another process."""
        return {**vars(self), "data": str(self.data), "state": str(self.state)}

    @classmethod
    def from_plain(cls, plain: dict[str, str | float | None]) -> Self:
        """What `to_plain` gave."""
        paths = {key: Path(str(plain[key])) for key in ("data", "state")}
        return cls(**{**plain, **paths})  # type: ignore[arg-type]  # JSON of to_plain


def load_cohort(setup: SiteSetup, recipe: Recipe) -> Cohort:
    """A site's cases, prepared as the recipe says, without the patients that it holds out.

    Raises:
        DataError: if the folder cannot be read.
        CohortError: if its cases do not fit the recipe.
    """
    cases = load_cases(
        setup.data,
        recipe.image,
        patient_pattern=setup.patients,
        unmasked=recipe.condition.kind != "mask",
    )
    cases, _ = hold_out_of(cases, part=recipe.training.hold_out)
    return Cohort.from_cases(
        cases,
        labels=describe(setup.data).labels,
        condition=recipe.condition.kind,
        seed=derived_seed(recipe.training.seed, "cohort", setup.name),
        flip=recipe.training.flip,
        rare_first=recipe.training.rare_first,
    )


def set_up(setup: SiteSetup, recipe: Recipe) -> Endpoint:
    """Loads a site's cases and puts the site behind its endpoint; raises as `load_cohort`."""
    cohort = load_cohort(setup, recipe)
    site = Site(setup.name, cohort, recipe, folder=setup.state, share=setup.share)
    return Endpoint(site, limit=message_limit(recipe))
