"""Suites of comparisons, read from a file: what to train, on which sets, with which seeds."""

from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, final
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from asyndgan.errors import RecipeError
from asyndgan.intake.variants import is_inside
from asyndgan.models.budgets import SegmentationBudget, TranslationBudget
from asyndgan.painting.fading import CONTRASTS
from asyndgan.painting.sets import MOVED
from asyndgan.painting.synthesise import PAINTING_VERSION
from asyndgan.recipe import Recipe, Section, explained, shown
from asyndgan.recipe.planning import Plan
from asyndgan.runs import load_recipe
from asyndgan.runs.planned import planned
from asyndgan.store.splits import MOST_FOLDS
from asyndgan.texts import parsed_toml
from lab.fedgan import check_fedgan
from lab.local import check_local

VALIDATION_PART = 0.2
"""Fraction of each site's patients that suites judged on validation hold out of all trainings."""

MOST_SETS: Final = 16
MOST_MODELS: Final = 32
"""Most sets, and models, of a suite: each model is checked on each set."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


def _inside(path: str) -> str:
    if not is_inside(path):
        raise ValueError("a path leads out of the data folder; write one below it, without '..'")
    return path


Below = Annotated[str, AfterValidator(_inside)]
"""Path of a folder below another one; a suite may come from another party."""


@final
class CompletionSection(Section):
    """Cases to complete, of patients that no site holds, and the acquired images for comparison."""

    folder: Below = Field(description="folder of these cases in the set's")
    modality: Name = Field(description="what they lack, as the sites call it")
    truth: Below = Field("truth", description="folder in it of the real images, CASE_0002.png")
    steps: int = Field(TranslationBudget().steps, ge=1, description="updates of the translator")


@final
class SetSection(Section):
    """A data set and its sites."""

    name: Name
    folder: Below = Field(description="below the data folder")
    sites: tuple[Name, ...] = Field(min_length=1, description="folders of the sites in it")
    test: Below = Field("test", description="folder of the test patients in it")
    label: str = Field(description="what to judge by")
    further_labels: tuple[str, ...] = Field((), description="labels that are judged beside it")
    faded: tuple[str, ...] = Field(
        (), description="labels that its synthetic images show more or less clearly"
    )
    by_site: bool = Field(False, description="report validation patients of each site apart")
    apart: dict[str, str] = Field(
        {}, description="test patients to report apart: heading to a pattern of their names"
    )
    planned: bool = Field(
        False,
        description="take the values that 'asyndgan plan' chooses for the sites; overrides win",
    )
    overrides: tuple[str, ...] = Field(
        (), description="KEY=VALUE of the recipes on this set; a model's own go before them"
    )
    completion: CompletionSection | None = Field(
        None, description="cases to complete, by models that say so"
    )
    segmentation_steps: int | None = Field(
        None, ge=1, description="of the networks on this set; leave out: as the suite says"
    )

    def unseen(self, judged_on: str) -> dict[str, tuple[str, ...]]:
        """Folders in it of patients of no site, by whom models are judged, with truths in them."""
        tested: dict[str, tuple[str, ...]] = {self.test: ()} if judged_on == "test" else {}
        own = self.completion
        return tested | ({own.folder: (own.truth,)} if own else {})


@final
class PaintingSection(Section):
    """How a synthetic set is painted; the defaults are those of `asyndgan evaluate`."""

    images: int = Field(
        1 + MOVED, ge=1, le=1000, description="of each mask: one of itself, the others of it moved"
    )
    contrasts: tuple[float, float] = Field(
        CONTRASTS, description="least and highest contrast of the set's faded labels; 1: as painted"
    )

    @model_validator(mode="after")
    def _rises(self) -> Self:
        low, high = self.contrasts
        if not 0 <= low <= high <= 2:
            raise ValueError("contrasts are two numbers from 0 to 2, the lower one first")
        return self

    def faded(self, part: SetSection) -> tuple[str, ...]:
        """The labels that the set's images show more or less clearly."""
        return part.faded if self.contrasts != (1, 1) else ()

    def folder(self, part: SetSection) -> str:
        """Name of the set's folder in a run's folder."""
        low, high = self.contrasts
        # A label's name may hold a '/', and leads nowhere here.
        labels = "-".join(quote(label, safe=" ") for label in self.faded(part))
        faded = f"-faded-{labels}-{low:g}-{high:g}" if labels else ""
        return f"synthetic-x{self.images}{faded}-v{PAINTING_VERSION}"

    def name(self, part: SetSection) -> str:
        """Name of the set among those of a recipe; empty for the default one."""
        if self == PaintingSection():
            return ""
        return self.folder(part).removeprefix("synthetic-")

    def about(self, part: SetSection) -> dict[str, Any]:
        """How the set is painted, as keys of a row."""
        faded = self.faded(part)
        contrasts = self.contrasts if faded else ()
        return {"images": self.images, "faded": faded, "contrasts": contrasts}


@final
class ModelSection(Section):
    """A recipe and the comparisons to make with it."""

    name: Name
    recipe: str = Field(description="name or file of a recipe")
    overrides: tuple[str, ...] = Field((), description="KEY=VALUE of the recipe")
    on: dict[str, tuple[str, ...]] = Field(
        {}, description="further KEY=VALUE on one set, by the set's name"
    )
    without: dict[Name, tuple[str, ...]] = Field(
        {},
        description="modalities that a site has and that take no part, by the site's name; a "
        "FedAvg beside it sees nothing of them either",
    )
    against: Name | None = Field(
        None, description="a model to compare with, beside the suite's first one"
    )
    fedgan: bool = Field(False, description="also by averaging weights, with the same networks")
    local: bool = Field(False, description="also a generator for each site alone, sets pooled")
    completion: bool = Field(False, description="also complete the set's cases that lack some")
    augmented: bool = Field(False, description="also each site's real cases with synthetic ones")
    pooled: bool = Field(False, description="also the synthetic cases of all seeds together")
    paintings: tuple[PaintingSection, ...] = Field((), description="further synthetic sets")


@final
class Suite(Section):
    """A suite: the data sets, the models and how they are compared."""

    name: Name
    judged_on: Literal["test", "validation"] = "test"
    folds: int = Field(
        1, ge=1, le=MOST_FOLDS,
        description="on validation: parts of each site's patients that are held out in turn, so "
        "that each is judged once; each part costs the trainings of a suite without folds",
    )  # fmt: skip
    seeds: int = Field(1, ge=1, le=100, description="trainings of every generator")
    segmentation_seeds: int = Field(
        1, ge=1, le=100, description="segmentation networks a training set of each seed"
    )
    segmentation_steps: int = Field(SegmentationBudget().steps, ge=1)
    check_budget: bool = Field(
        False, description="also whether half as many segmentation steps again change anything"
    )
    single_sites: bool = Field(True, description="also each site's real cases alone")
    networks: tuple[str, ...] = Field(
        (), description="further segmentation networks for all real and synthetic cases"
    )
    fedavg: bool = Field(
        False,
        description="also one network that all sites train together; for one seed of the "
        "generators only, since it costs as many trainings as there are sites",
    )
    random_contrast: bool = Field(
        False, description="also images of random contrasts from the masks, without a generator"
    )
    diagnosis: bool = Field(
        False, description="also what the synthetic images lack beside real ones"
    )
    consistency: bool = Field(
        False, description="also how modalities go together, against the cases that are judged on"
    )
    sets: tuple[SetSection, ...] = Field(min_length=1, max_length=MOST_SETS)
    models: tuple[ModelSection, ...] = Field(min_length=1, max_length=MOST_MODELS)
    _plans: dict[str, Plan] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for kind, parts in (("sets", self.sets), ("models", self.models)):
            (name, count), *_ = Counter(part.name for part in parts).most_common(1)
            if count > 1:
                raise ValueError(f"two of {kind} are called '{name}'; rename one")
        listed: dict[str, Sequence[Hashable]] = {"networks": ("unet", *self.networks)}
        for part in self.sets:
            listed[f"set {part.name}: label and further_labels"] = (
                part.label, *part.further_labels,
            )  # fmt: skip
            listed[f"set {part.name}: sites"] = part.sites
        for model in self.models:
            if model.pooled and self.seeds == 1:
                raise ValueError(f"model {model.name}: pooled needs several seeds; set seeds")
            listed[f"model {model.name}: paintings (the default one is always there)"] = (
                PaintingSection(), *model.paintings,
            )  # fmt: skip
        for where, every in listed.items():
            if len(set(every)) < len(every):
                raise ValueError(f"{where} name something twice; leave one out")
        names = [part.name for part in self.sets]
        alone = [model.name for model in self.models if model.augmented and not self.single_sites]
        if alone:
            raise ValueError(
                f"model {alone[0]} is augmented, which has nothing to be compared with while "
                "single_sites is false"
            )
        for model in self.models:
            if model.fedgan and model.without:
                raise ValueError(
                    f"model {model.name}: FedGAN averages discriminators, so all sites must hold "
                    "the same modalities; leave out fedgan, or without"
                )
            if model.against and model.against not in {other.name for other in self.models}:
                raise ValueError(f"model {model.name} is against '{model.against}', which is none")
            unknown = [name for name in model.on if name not in names]
            if unknown:
                raise ValueError(f"model {model.name} is set on '{unknown[0]}', which is no set")
        if any(model.completion for model in self.models) != any(p.completion for p in self.sets):
            raise ValueError(
                "completion is said of a model and of no set, or the other way round; it needs both"
            )
        if self.judged_on == "validation" and any(part.apart for part in self.sets):
            raise ValueError("apart names test patients, and this suite is judged on validation")
        if self.judged_on == "test" and any(part.by_site for part in self.sets):
            raise ValueError("by_site is of validation patients, and this suite is judged on test")
        if self.judged_on == "test" and self.folds > 1:
            raise ValueError("folds are of validation patients, and this suite is judged on test")
        given = [
            *(override for part in self.sets for override in part.overrides),
            *(override for model in self.models for override in model.overrides),
            *(own for model in self.models for on in model.on.values() for own in on),
        ]
        own = ["training.seed", "training.hold_out"]
        for key in [*own, "training.hold_out_seed"] if self.folds > 1 else own:
            if any(override.partition("=")[0].strip() == key for override in given):
                raise ValueError(
                    f"{key} is the suite's own (seeds, judged_on, folds); leave it out"
                )
        return self

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Reads a suite.

        Raises:
            RecipeError: a key or value of the suite, or of a recipe that it names and does not
                plan, is unknown, missing, out of range or contradictory.
            DataError: a segmentation network is unknown.
        """
        try:
            tables = parsed_toml(text)
        except ValueError as error:
            raise RecipeError(f"the suite is not valid TOML: {error}") from error
        try:
            suite = cls.model_validate(tables)
        except ValidationError as error:
            known = [*cls.model_fields, *SetSection.model_fields, *ModelSection.model_fields]
            name = shown(tables.get("name", "unnamed"))
            raise RecipeError(f"suite {name}:\n{explained(error, known)}") from error
        for network in suite.networks:
            SegmentationBudget(network=network)
        for part in suite.sets:
            if not part.planned:  # `plan` checks those: overrides may rest on what it chooses
                suite._check_set(part)
        return suite

    def plan(self, data: Path) -> None:
        """Plans the recipes of the sets that ask for it, by all cases of their sites.

        Args:
            data: folder that contains the data sets.

        Raises:
            DataError: a folder cannot be read, or labels of sites contradict.
            RecipeError: as `from_toml`, of the planned recipes.
        """
        for part in self.sets:
            if part.planned:
                sites = {site: data / part.folder / site for site in part.sites}
                if plan := planned(sites).plan:
                    self._plans[part.name] = plan
                self._check_set(part)

    def _check_set(self, part: SetSection) -> None:
        self._check_grids(part)
        for model in self.models:
            self._check_model(part, model)

    def _check_grids(self, part: SetSection) -> None:
        """Raises `RecipeError` if models of a set cannot be compared in one table."""
        recipes = {model.name: self.recipe(part, model, 0) for model in self.models}
        grids = {
            name: (
                recipe.image,
                recipe.training.hold_out_seed,
                recipe.training.flip,  # whether segmentation networks see mirrored images
                recipe.privacy.kind == "none",  # privacy changes how patients are held out
            )
            for name, recipe in recipes.items()
        }
        first, *others = grids
        for other in others:
            if grids[other] != grids[first]:
                raise RecipeError(
                    f"suite '{self.name}', set {part.name}: models {first} and {other} "
                    "prepare or mirror images or hold patients out in different ways, so "
                    "their tables cannot be one. Give them the same image section, "
                    "training.flip and hold_out_seed, and privacy to all or none, or make two "
                    "suites."
                )

    def _check_model(self, part: SetSection, model: ModelSection) -> None:
        """Raises `RecipeError` if a model cannot be trained and judged on a set."""
        recipe = self.recipe(part, model, 0)
        if recipe.condition.kind != "mask":
            raise RecipeError(
                f"suite '{self.name}', set {part.name}: model {model.name} paints without "
                "masks, so there is nothing to be segmented in its images. Leave it out."
            )
        stray = [name for name in model.without if name not in part.sites]
        if stray:
            raise RecipeError(
                f"suite '{self.name}', model {model.name}: without names '{stray[0]}', "
                f"which is no site of {part.name}."
            )
        if model.fedgan:
            check_fedgan(recipe)
        if model.local:
            check_local(recipe)

    def recipe(self, part: SetSection, model: ModelSection, seed: int, fold: int = 0) -> Recipe:
        """The resolved recipe of one training."""
        held_out = VALIDATION_PART if self.judged_on == "validation" else 0.0
        held = [f"training.hold_out={held_out}"]
        if self.folds > 1:
            held = [f"training.hold_out={1 / self.folds}", f"training.hold_out_seed={fold}"]
        given = [*part.overrides, *model.overrides, *model.on.get(part.name, ())]
        chosen = self._plans[part.name].overrides(given) if part.name in self._plans else ()
        return load_recipe(
            model.recipe,
            [*chosen, *given, f"training.seed={seed}", *held],
        )
