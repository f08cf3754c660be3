"""What `schema.json` says of the records beside it. It may come from a stranger."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from asyndgan.errors import CohortError, DataError, RunError
from asyndgan.recipe import explained
from asyndgan.recipe.table import MOST_CATEGORIES, MOST_COLUMNS, Cell, Kind, Knots, Shares
from asyndgan.texts import bounded_text, parsed_json

SCHEMA_FILE: Final = "schema.json"
OTHERS: Final = (".parquet", ".xlsx", ".csv.gz", ".csv.zip", ".csv.xz", ".csv.bz2")
SIMILAR: Final = 0.83
"""Likeness (difflib) to a key that is read from which on another key is taken for a slip."""


class _Noted(BaseModel):
    """Has keys for people beside those that are read, but none that may be a slip of these."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _no_slip(cls, value: Any) -> Any:
        known = list(cls.model_fields)
        for key in value if isinstance(value, dict) else ():
            meant = difflib.get_close_matches(str(key).casefold(), known, 1, cutoff=SIMILAR)
            if meant and key not in known:
                raise ValueError(f"'{key}' is no key here. Did you mean '{meant[0]}'? Rename it")
        return value


@final
class SchemaColumn(_Noted):
    """A column of `schema.json`; other keys, such as `about`, are for people."""

    kind: Kind
    categories: tuple[Cell, ...] = Field((), max_length=MOST_CATEGORIES)
    missing: bool = False
    knots: Knots = ()

    @model_validator(mode="after")
    def _categories_of_categorical(self) -> Self:
        if (self.kind == "categorical") != bool(self.categories):
            raise ValueError("categories are listed exactly if the kind is categorical")
        if len(set(self.categories)) < len(self.categories):
            raise ValueError("a category is listed twice")
        if self.knots and (self.kind == "categorical" or len(self.knots) < 2):
            raise ValueError("knots are two numbers or more, of a numeric or integer column")
        return self


@final
class Schema(_Noted):
    """What `schema.json` says of a table; other keys are for people."""

    name: str = Field("", max_length=1000)
    target: Cell  # that a model is to predict; categorical, never missing
    # of the target, whose probability is judged; empty: the last
    positive: str = Field("", max_length=1000)
    synthetic: bool = False
    # of synthetic records; `generator_sha256` names the generator
    provenance: dict[str, Any] = Field(default_factory=dict)
    # part of each class, from public knowledge; with `knots` of all numbers a recipe is planned
    # without looking at a record. Empty: from the sites' summaries
    shares: Shares = Field(default_factory=dict)
    # all, the target among them, in the order of the header line
    columns: Annotated[dict[Cell, SchemaColumn], Field(min_length=2, max_length=MOST_COLUMNS)]

    @model_validator(mode="after")
    def _target_is_a_class(self) -> Self:
        target = self.columns.get(self.target)
        if target is None or target.missing or len(target.categories) < 2:
            raise ValueError(
                f"the target '{self.target}' must be a categorical column of two categories or "
                "more that is never missing"
            )
        if self.positive and self.positive not in target.categories:
            raise ValueError(f"positive '{self.positive}' is no category of '{self.target}'")
        if self.shares and set(self.shares) != set(target.categories):
            raise ValueError(f"shares must name all categories of '{self.target}', and no other")
        told = {bool(c.knots) for c in self.columns.values() if c.kind != "categorical"}
        if told and told != {self.declared}:
            raise ValueError(
                "knots stand at every numeric and integer column, and shares beside the target; or "
                "none of them, and a recipe is planned from summaries of the records"
            )
        return self

    @property
    def declared(self) -> bool:
        """Whether knots and shares are declared, so that a plan needs no summary of records."""
        return bool(self.shares)

    @property
    def classes(self) -> tuple[str, ...]:
        """Categories of the target, by number."""
        return self.columns[self.target].categories

    @property
    def positive_class(self) -> str:
        """The category of the target whose probability is judged."""
        return self.positive or self.classes[-1]


def check_positive(schemas: Mapping[str, Schema]) -> None:
    """Checks that the same class of the target is judged everywhere; raises `CohortError`."""
    first, *_ = schemas
    for who, schema in schemas.items():
        if schema.positive_class != schemas[first].positive_class:
            raise CohortError(
                f"{who} judges the class '{schema.positive_class}', and {first} judges "
                f"'{schemas[first].positive_class}'. Write the same 'positive' in both schema.json."
            )


def refuse_for_images(given: Mapping[str, object]) -> None:
    """Raises `RunError` if options were given that have no effect on a table."""
    if strange := [f"--{name.replace('_', '-')}" for name, value in given.items() if value]:
        raise RunError(
            f"{', '.join(strange)}: this is for images, and these are tables. Leave it out."
        )


def is_table(data: Path) -> bool:
    """Whether a site's data are records: a CSV file, or a folder with a schema."""
    return _is_csv(data) or (data / SCHEMA_FILE).is_file() or _is_other(data)


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _is_other(path: Path) -> bool:
    return path.name.lower().endswith(OTHERS) and path.is_file()


def tables_in(folder: Path) -> list[Path]:
    """The files of records in a folder, in the order of their names."""
    return sorted(p for p in folder.glob("*") if _is_csv(p)) if folder.is_dir() else []


def place_of(data: Path) -> Path:
    """The folder of a data set, or the file of a table, however it is named."""
    only = tables_in(data) if is_table(data) and data.is_dir() else []
    return (only[0] if len(only) == 1 else data).resolve()


def check_own_data(owners: Mapping[str, Path]) -> None:
    """Raises `RunError` if two owners, such as sites, have one data set."""
    known: dict[Path, str] = {}
    for owner, data in owners.items():
        other = known.setdefault(place_of(data), owner)
        if other != owner:
            raise RunError(
                f"{other} and {owner} have one data set, {data}, which would count twice. Give "
                "each its own."
            )


def file_of(data: Path) -> Path:
    """The file of records that a path names, itself or as the only one of a folder."""
    if _is_csv(data) and not data.is_dir():
        if not data.exists():
            raise DataError(f"{data} does not exist. Name a file of records that does.")
        return data
    for other in filter(_is_other, [data] if data.is_file() else sorted(data.glob("*"))):
        raise DataError(f"{other} is no plain CSV file. Unpack it, or save it as CSV.")
    found = tables_in(data)
    if len(found) != 1:
        raise DataError(
            f"{data} holds {len(found)} files of records (CSV), and one is wanted. "
            "Name the file itself, with schema.json beside it."
        )
    return found[0]


def schema_of(data: Path) -> Schema:
    """The schema of a table, or of its `schema.json`; raises `DataError` if it is none."""
    path = data if data.name == SCHEMA_FILE else file_of(data).parent / SCHEMA_FILE
    try:
        found = parsed_json(bounded_text(path, links=True))
        if not isinstance(found, dict):
            raise ValueError("holds no {...}, with keys such as target and columns")
        return Schema.model_validate(found)
    except ValidationError as error:
        raise DataError(f"{path} is no schema of a table:\n{explained(error, [])}") from error
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        if isinstance(error, FileNotFoundError):
            what = "this file does not exist; 'asyndgan check' drafts one for a CSV file"
        raise DataError(
            f"{path}: {what}. A table has a schema.json beside it: target, and columns with "
            "kind (numeric, integer, categorical), categories and missing."
        ) from error
