"""The recipe as a whole, made of its sections."""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Self, final

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from asyndgan.errors import RecipeError
from asyndgan.recipe.contradictions import violations
from asyndgan.recipe.faults import SHOWN_FAULTS, explained, shown
from asyndgan.recipe.image import ImageSection
from asyndgan.recipe.sections import (
    ConditionSection,
    DiscriminatorSection,
    GeneratorSection,
    IntegritySection,
    LossSection,
    MasksSection,
    OptimiserSection,
    PresenceSection,
    PrivacySection,
    QuorumSection,
    Section,
    SharesSection,
    TrainingSection,
    WireSection,
)
from asyndgan.recipe.table import TableSection
from asyndgan.recipe.toml import tables_of
from asyndgan.texts import Title, sha256_of


@final
class Recipe(Section):
    """Everything that shapes a run, as a validated TOML document."""

    name: Title = Field("unnamed", description="shown in logs and reports")
    image: ImageSection = ImageSection()
    table: TableSection | None = Field(
        None,
        description="the columns of the sites' tables, if a run is trained on records and not on "
        "images; 'asyndgan plan' writes it",
    )
    condition: ConditionSection = ConditionSection()
    generator: GeneratorSection = GeneratorSection()
    discriminator: DiscriminatorSection = DiscriminatorSection()
    loss: LossSection = LossSection()
    optimiser: OptimiserSection = OptimiserSection()
    training: TrainingSection = TrainingSection()
    wire: WireSection = WireSection()
    masks: MasksSection = MasksSection()
    privacy: PrivacySection = PrivacySection()
    integrity: IntegritySection = IntegritySection()
    shares: SharesSection = SharesSection()
    quorum: QuorumSection = QuorumSection()
    _agreed: str = PrivateAttr("")
    timeline: tuple[PresenceSection, ...] = Field(
        (),
        max_length=1024,
        description="steps in which sites take part. A site can have several entries; a site "
        "without an entry always takes part",
    )

    def __repr_args__(self) -> list[tuple[str, Any]]:
        """What a notebook shows of a recipe; `to_toml` has everything."""
        return [
            ("name", self.name),
            ("table.width", self.table.width) if self.table else ("image.size", self.image.size),
            ("generator.kind", self.generator.kind),
            ("training.steps", self.training.steps),
        ]

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        faults = [
            PydanticCustomError("value_error", text, {"remedy": remedy})
            for text, remedy in violations(self)
        ]
        if faults:
            raise ValidationError.from_exception_data(
                "Recipe", [InitErrorDetails(type=fault, input=None) for fault in faults]
            )
        return self

    def takes_part(self, site: str, step: int) -> bool:
        """Whether a site takes part in a step, according to the timeline."""
        named = [part for part in self.timeline if part.site == site]
        return not named or any(
            part.first <= step and (part.last is None or step <= part.last) for part in named
        )

    def presence_of(self, site: str | None) -> list[range]:
        """Ranges of steps in which a site takes part, in order; None: a site without a timeline."""
        end = self.training.steps
        named = [part for part in self.timeline if part.site == site]
        ranges: list[range] = [] if named else [range(end)]
        for part in sorted(named, key=lambda part: part.first):
            stop = end if part.last is None else min(part.last + 1, end)
            if ranges and part.first <= ranges[-1].stop:
                ranges[-1] = range(ranges[-1].start, max(ranges[-1].stop, stop))
            elif part.first < stop:
                ranges.append(range(part.first, stop))
        return ranges

    def first_empty_step(self, sites: Collection[str]) -> int | None:
        """First step in which none of these sites takes part; None if there is no such step."""
        leaving = (part.last + 1 for part in self.timeline if part.last is not None)
        turns = sorted({0, *(part.first for part in self.timeline), *leaving})
        empty = (
            step
            for step in turns
            if step < self.training.steps and not any(self.takes_part(one, step) for one in sites)
        )
        return next(empty, None)

    @property
    def pixels(self) -> int:
        """Pixels of the images of one message, in each modality."""
        return self.training.batch * math.prod(self.space)

    @property
    def kind(self) -> TableSection | ImageSection:
        """What sites train on. Both say what a case, patients and sizes are called."""
        return self.table or self.image

    @property
    def size(self) -> tuple[int, ...]:
        """Sides of what sets hold, rows and columns last; of a record, its numbers."""
        return (self.table.width,) if self.table else self.image.size

    @property
    def sides(self) -> str:
        """The size, as 48x64."""
        return "x".join(map(str, self.size))

    @property
    def space(self) -> tuple[int, ...]:
        """What networks see of `size`: half of masks, as the share of each label in each pixel."""
        return tuple(side // 2 if self.image.source == "masks" else side for side in self.size)

    @property
    def keeps_masks(self) -> bool:
        """Whether the coordinator keeps label maps that sites release."""
        return self.condition.kind == "mask" and self.masks.release

    @property
    def given_masks(self) -> bool:
        """Whether images are painted from masks of no patient of the sites."""
        return self.condition.kind == "mask" and self.masks.source == "given"

    @property
    def sends_own_masks(self) -> bool:
        """Whether patients' label maps leave the sites."""
        return self.condition.kind == "mask" and self.masks.source == "own"

    @property
    def sends_own_conditions(self) -> bool:
        """Whether patients' label maps or classes leave the sites."""
        return self.condition.kind != "none" and not self.draws_conditions

    @property
    def draws_conditions(self) -> bool:
        """Whether label maps or classes are drawn without looking at the patients."""
        public = self.privacy.kind != "none" and self.privacy.conditions == "public"
        return self.masks.source == "given" or public

    @classmethod
    def from_toml(cls, text: str, overrides: Sequence[str] = ()) -> Self:
        """Reads a recipe, a TOML document.

        Each override is `key.of.a.field=value`, with the value in TOML (bare words are strings).
        Raises `RecipeError` with the key, the value, what is allowed and the nearest known key.
        """
        return cls.from_tables(tables_of(text, overrides))

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any]) -> Self:
        """Reads a recipe from nested dictionaries; raises `RecipeError` like `from_toml`."""
        try:
            return cls.model_validate(tables)
        except ValidationError as error:
            rows = known_keys(PresenceSection, "timeline.")
            known = [*cls.model_fields, *known_keys(), *rows]
            name = shown(tables.get("name", "unnamed"))
            faults = explained(error, known, "asyndgan recipe show default")
            raise RecipeError(f"recipe {name}:\n{faults}") from error

    def to_tables(self) -> dict[str, Any]:
        """The recipe as nested dictionaries of plain values, without keys that are not set."""
        return self.model_dump(mode="json", exclude_none=True)

    def computed_in(self, precision: str) -> Self:
        """The recipe as one party computes it; its digest is that of what all parties agreed on."""
        training = self.training.model_copy(update={"precision": precision})
        computed = self.model_copy(update={"training": training})
        computed._agreed = self.digest()
        return computed

    def digest(self) -> str:
        """SHA-256 of the resolved recipe, in hexadecimal; equal recipes have equal digests."""
        if self._agreed:
            return self._agreed
        text = json.dumps(self.to_tables(), sort_keys=True, separators=(",", ":"))
        return sha256_of(text)

    def changes(self, other: "Recipe") -> list[str]:
        """Differences to another recipe: "training.steps is 60 and was 40"."""
        here, there = dict(dotted(self.to_tables())), dict(dotted(other.to_tables()))
        changed = [
            f"{key} is {shown(there.get(key))} and was {shown(here.get(key))}"
            for key in dict.fromkeys([*here, *there])
            if here.get(key) != there.get(key)
        ]
        return changed[:SHOWN_FAULTS]


def dotted(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables by their dotted keys."""
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def known_keys(section: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every key of a recipe, as a dotted path."""
    return (key for key, _ in _described(section, prefix))


def _described(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _described(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field
