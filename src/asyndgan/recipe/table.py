"""The table of a recipe: its columns, and how each is turned into numbers."""

from importlib.resources import files
from itertools import pairwise
from typing import Annotated, ClassVar, Final, Literal, Self, final

from pydantic import AfterValidator, Field, model_validator

from asyndgan.recipe.sections import Section
from asyndgan.texts import Name, parsed_toml

MOST_COLUMNS: Final = 256
MOST_CATEGORIES: Final = 255  # As many as scikit-learn's gradient boosting takes of a column
MOST_KNOTS: Final = 256
WIDEST: Final = 4096  # Most numbers of an encoded record: the longest side that a message has

Kind = Literal["numeric", "integer", "categorical"]
RUN_BY_SPREADSHEETS: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Beginnings of a text that a spreadsheet takes for a formula (OWASP, CSV injection)."""


def _no_formula(text: str) -> str:
    """The text; raises `ValueError` if a spreadsheet that opens it would run it."""
    if text.startswith(RUN_BY_SPREADSHEETS):
        raise ValueError(
            f"'{text}' begins with =, +, - or @, or a wide form, which a spreadsheet takes for "
            "a formula; rename it"
        )
    if text != text.strip():
        raise ValueError(f"'{text}' begins or ends with a space; remove it")
    return text


Cell = Annotated[Name, AfterValidator(_no_formula)]  # named in tables that spreadsheets open

Finite = Annotated[float, Field(ge=-1e15, le=1e15)]


def base_text() -> str:
    """What every planned recipe of a table begins with, as TOML."""
    return (files("asyndgan") / "tables" / "recipe.toml").read_text("utf-8")


def base_steps() -> int:
    """Steps of every planned recipe of a table, unless an override says otherwise."""
    return int(parsed_toml(base_text())["training"]["steps"])


def _rising(knots: tuple[float, ...]) -> tuple[float, ...]:
    if any(one > other for one, other in pairwise(knots)):
        raise ValueError("knots must rise")
    return knots


def _of_one(parts: dict[str, float]) -> dict[str, float]:
    if parts and not 0.999 < sum(parts.values()) < 1.001:
        raise ValueError("the parts of the classes must sum to 1")
    return parts


Knots = Annotated[tuple[Finite, ...], Field(max_length=MOST_KNOTS), AfterValidator(_rising)]
Shares = Annotated[dict[Cell, Annotated[float, Field(gt=0, le=1)]], AfterValidator(_of_one)]


@final
class TableColumn(Section):
    """A column of every site's table, in the order of the encoded record."""

    name: Cell = Field(description="of the column, as in the header line")
    kind: Kind = Field(description="numeric, integer or categorical")
    missing: bool = Field(False, description="whether its values may be missing")
    categories: tuple[Cell, ...] = Field(
        (), max_length=MOST_CATEGORIES, description="categorical: all its values"
    )
    knots: Knots = Field(
        (),
        description="numeric and integer: values that split the records of all sites evenly, in "
        "rising order; 'asyndgan plan' takes them from the sites' fingerprints or schema.json",
    )

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        if self.kind == "categorical":
            if not self.categories or len(set(self.categories)) < len(self.categories):
                raise ValueError(f"column '{self.name}' needs categories, each named once")
            if self.knots:
                raise ValueError(f"column '{self.name}' is categorical and has no knots")
        elif self.categories or len(self.knots) < 2:
            raise ValueError(f"column '{self.name}' is {self.kind}: it needs two knots or more")
        return self

    @property
    def choices(self) -> int:
        """Numbers of its one-hot part: categories and, if values may be missing, one for that."""
        if self.kind == "categorical":
            return len(self.categories) + self.missing
        return 2 * self.missing

    @property
    def measured(self) -> bool:
        """Whether it has a number of its own beside the one-hot part."""
        return self.kind != "categorical"

    @property
    def width(self) -> int:
        """Numbers of the encoded column."""
        return self.measured + self.choices


@final
class TableSection(Section):
    """The sites' tables; with this section a run is trained on records, not on images."""

    case: ClassVar = "record"
    patients: ClassVar = "records"
    unit: ClassVar = "numbers"
    augmented: ClassVar = ("dropout",)
    cases: ClassVar = "records"

    source: Literal["fingerprints", "declared"] = Field(
        "fingerprints",
        description="where knots and classes come from: fingerprints of the sites' records, which "
        "no differential privacy covers; or declared by every site's schema.json, which tells "
        "nothing of any record",
    )
    target: Cell = Field(description="name of the column whose value a record is made for")
    classes: Shares = Field(
        min_length=2, max_length=MOST_CATEGORIES,
        description="values of the target, and the part of all sites' records that has each",
    )  # fmt: skip
    columns: tuple[TableColumn, ...] = Field(
        min_length=1, max_length=MOST_COLUMNS, description="all other columns"
    )

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        names = [self.target, *(column.name for column in self.columns)]
        if len(set(names)) < len(names):
            raise ValueError("two columns, or a column and the target, have one name")
        if self.width > WIDEST:
            raise ValueError(f"a record takes {self.width} numbers; it may take {WIDEST}")
        return self

    @property
    def width(self) -> int:
        """Numbers of an encoded record."""
        return sum(column.width for column in self.columns)
