"""A study: its sites, test set, recipe and run folder, named once in a file for all commands."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os.path import expanduser
from pathlib import Path
from typing import Annotated, Any, Final, Self, final

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from asyndgan.errors import DataError, RecipeError, RunError
from asyndgan.intake.description import json_table
from asyndgan.intake.listing import part_of
from asyndgan.recipe.faults import explained
from asyndgan.recipe.recipe import Recipe
from asyndgan.recipe.sections import Section
from asyndgan.recipe.table import base_steps
from asyndgan.recipe.toml import key_of, value_of
from asyndgan.tables.schema import (
    SCHEMA_FILE,
    check_own_data,
    file_of,
    is_table,
    place_of,
    schema_of,
    tables_in,
)
from asyndgan.texts import BACKSLASH, NAME_LENGTH, bounded_text, check_site_names, parsed_toml

STUDY_FILE: Final = "study.toml"
MOST_SITES: Final = 1024
LONGEST_PATH: Final = 4096
TEST_NAMES: Final = frozenset({"test", "tests", "testing"})
"""Names of folders that hold a test set, in any letters."""

HELD_OUT: Final = 0.2
"""Share of the patients that a study without a test set holds out."""


def _located(path: Path, info: ValidationInfo) -> Path:
    text = str(path)
    if not text.isprintable():
        raise ValueError(f"a path is of printable characters; {BACKSLASH}")
    if len(text) > LONGEST_PATH:
        raise ValueError(f"a path has at most {LONGEST_PATH} characters")
    # Of nobody `~` stays, and is reported as no folder.
    return Path((info.context or {}).get("folder", ""), expanduser(text))  # noqa: PTH111


def _recipe_located(recipe: str | None, info: ValidationInfo) -> str | None:
    return str(_located(Path(recipe), info)) if recipe and recipe.endswith(".toml") else recipe


Located = Annotated[Path, AfterValidator(_located)]
"""A path; a relative one is relative to the study's file, `~` is the user's folder."""


@final
class Study(Section):
    """What all commands of one study have in common. `load` reads it from its file.

    Attributes:
        sites: folder of each site's data, by the site's name.
        test: data set of patients of no site.
        recipe: name of a recipe, or path of its TOML file; None: one is planned from the data.
        changes: keys of the recipe and their values, as nested tables; `set` in the file.
        out: the run folder. Other results are written beside it (`beside`).
    """

    sites: dict[str, Located] = Field({}, max_length=MOST_SITES)
    test: Located | None = None
    recipe: Annotated[str | None, AfterValidator(_recipe_located)] = None
    changes: dict[str, JsonValue] = Field({}, alias="set")
    out: Located = Field(Path("run"), validate_default=True)

    @model_validator(mode="after")
    def _folders_differ(self) -> Self:
        check_site_names(self.sites)
        owners = {f"site {name}": folder for name, folder in self.sites.items()}
        check_own_data(owners | ({"the test set": self.test} if self.test else {}))
        return self

    @classmethod
    def load(cls, file: str | Path = STUDY_FILE) -> "Study":
        """Reads a study; raises `RunError` if it is not valid. Its folders need not exist."""
        file = Path(expanduser(file))  # noqa: PTH111  # as in `_located`
        try:
            text = bounded_text(file, links=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RunError(
                f"{file} cannot be read: {reason}. 'asyndgan init' writes one."
            ) from error
        return cls.parsed(text, file)

    @classmethod
    def parsed(cls, text: str, file: Path) -> "Study":
        """Reads the text of a study's file; errors are those of `load`."""
        try:
            return cls.model_validate(parsed_toml(text), context={"folder": file.parent})
        except ValidationError as error:
            known = [field.alias or name for name, field in cls.model_fields.items()]
            known += [f"set.{name}" for name in Recipe.model_fields]
            faults = explained(error, known)
            raise RunError(f"{file} cannot be used; correct it:\n{faults}") from error
        except (ValueError, RecipeError, RunError) as error:
            raise RunError(f"{file} cannot be used: {error} Correct it.") from error

    @property
    def overrides(self) -> list[str]:
        """The changes of the recipe, each as `key=value`."""
        return list(_dotted(self.changes))

    def beside(self, name: str) -> Path:
        """The folder of this name beside the run folder."""
        return self.out.parent / name


def existing(data: Path) -> Path:
    """The same folder, or table, of a study; raises `RunError` if there is none."""
    if not data.is_dir() and not (data.is_file() and is_table(data)):
        raise RunError(
            f"{data} does not exist, or is no folder. Correct it in the study's file; a relative "
            "path there is relative to that file."
        )
    return data


def _dotted(tables: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tables.items():
        key = prefix + (key_of(name) if prefix else name)  # "image.size" means image.size, too
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{key}.")
        else:
            yield f"{key}={value_of(value)}"


def begun(
    folders: Sequence[Path], test: Path | None
) -> tuple[dict[str, Path], Path | None, list[Path]]:
    """The sites of a new study, by their names, its test set, and other test sets, left out.

    `folders` are data sets, or hold such; one of them may be the `test` set (None: one that is
    named so, or none). Raises `DataError` or `RunError` if one holds no data set, or these are no
    study.
    """
    found = data_sets(folders)
    if test:
        _check_data_set(test)
        if place_of(test) in [place_of(one) for one in folders if not is_test_set(one)]:
            raise RunError(f"{test} is named as a site and as the test set. Name it once.")
    named_so = [folder for folder in found if is_test_set(folder)]
    tests = [test] if test else named_so
    places = [place_of(one) for one in (*tests, *named_so)]
    sites = [folder for folder in found if place_of(folder) not in places]
    if len(tests) > 1 or not sites:
        names = ", ".join(map(str, tests)) or "no data set"
        remedy = "Name one with --test" if sites else "Name the data set of a site as well"
        raise RunError(f"{names}: a study has sites, and one test set at most. {remedy}.")
    if len({is_table(one) for one in (*sites, *tests)}) > 1:
        raise RunError("some of these are tables and others hold images: a study has one kind.")
    named = dict(zip(site_names(sites), sites, strict=True))
    left_out = [one for one in named_so if place_of(one) != place_of(tests[0])]
    return named, tests[0] if tests else None, left_out


def data_sets(folders: Sequence[Path]) -> list[Path]:
    """The data sets that these folders are, or that lie in them; not those that were painted."""
    found: list[Path] = []
    for folder in folders:
        inside = [] if _is_data_set(folder) or not folder.is_dir() else sorted(folder.iterdir())
        for path in inside:
            if path.is_dir() and is_table(path):
                file_of(path)  # raises if there are several, so that no site is left out unsaid
        sets = [path for path in inside if _is_data_set(path) and not _painted(path)]
        if not sets:
            _check_data_set(folder)
        found += sets or [folder]
    return found


def _check_data_set(data: Path) -> None:
    """Raises `DataError`, which says what is wrong with it, if this is no data set."""
    if data.is_file() or tables_in(data):
        schema_of(data)
    elif is_table(data):  # a file that is not there, or a schema alone
        raise DataError(f"{data} does not exist, or holds no table.")
    else:
        json_table(data / "dataset.json")


def _is_data_set(data: Path) -> bool:
    """Whether a folder has images, or a path is a table: a folder may hold those of all sites."""
    if data.is_file():
        return is_table(data) and (data.parent / SCHEMA_FILE).is_file()
    return (data / "dataset.json").is_file() or (is_table(data) and len(tables_in(data)) == 1)


def _painted(data: Path) -> bool:
    if is_table(data):
        return schema_of(data).synthetic
    table = json_table(data / "dataset.json")
    return any(table.get(key) for key in ("synthetic", "masks_only", "synthetic_cases"))


def is_test_set(folder: Path) -> bool:
    """Whether a data set's folder is named as a test set is, or has images of one only."""
    return part_of(folder) == "Ts" or _name_of(folder).casefold() in TEST_NAMES


def _name_of(data: Path) -> str:
    """A folder's name; of a table's file, without its ending."""
    return data.resolve().stem if data.is_file() else data.resolve().name


def site_names(folders: Sequence[Path], taken: Iterable[str] = ()) -> list[str]:
    """A valid name for each site: that of its folder or file; none is one of `taken`."""
    plain = [_valid(_name_of(folder)) for folder in folders]
    names: list[str] = []
    for name, folder in zip(plain, folders, strict=True):
        if sum(name.casefold() == other.casefold() for other in plain) > 1:
            name = _valid(f"{folder.resolve().parent.name}-{_name_of(folder)}")
        known, number, first = {other.casefold() for other in (*names, *taken)}, 1, name
        while name.casefold() in known:
            number += 1
            name = f"{first[: NAME_LENGTH - 5]}-{number}"
        names.append(name)
    return names


def _valid(name: str) -> str:
    plain = re.sub(r"^Dataset\d+_", "", name)  # as nnU-Net numbers them
    return re.sub(r"[^\w-]+", "-", plain).strip("-_")[:NAME_LENGTH] or "site"


def study_text(
    sites: Mapping[str, Path], test: Path | None, file: Path, recipe: str, steps: int | None = None
) -> str:
    """The text of a study's file, to be edited; what lies below its folder is relative to it."""

    def shown(folder: Path) -> str:
        whole, base = folder.absolute(), file.absolute().parent
        return value_of(str(whole.relative_to(base) if whole.is_relative_to(base) else whole))

    who, folder, usual = "patients", "folder of its data", "default"
    source = "a name ('asyndgan recipe list') or a file"
    listed, usual_steps = "'asyndgan recipe show default' lists them all", 2000
    if any(map(is_table, sites.values())):
        who, folder, usual, source = "records", "its table", "recipe.toml", "a file"
        listed, usual_steps = "recipe.toml holds them", base_steps()
    named_recipe = f"{'' if recipe else '# '}recipe = {value_of(recipe or usual)}"
    tested = f"test = {shown(test)}" if test else '# test = "data/test"'
    held = f"training.hold_out = {HELD_OUT}  # {who} to judge on, since there is no test set\n"
    named = "\n".join(f"{key_of(name)} = {shown(folder)}" for name, folder in sites.items())
    return f"""\
# A study: commands of asyndgan that are called in this folder, or with --study, read it.
# Options of the command line win. Relative paths are relative to this file.

{named_recipe}  # {source}; without, it is planned at each training
out = "run"  # the run folder; 'synthetic', 'evaluation' and 'audit' are written beside it
{tested}  # {who} of no site, to evaluate and to audit on

[sites]  # name = {folder}
{named}

[set]  # keys of the recipe, each with its value; {listed}
{"" if test else held}# training.steps = {steps or usual_steps}
"""
