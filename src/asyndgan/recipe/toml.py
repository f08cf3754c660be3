"""Recipes as TOML: written with a comment on each key, and read with overrides."""

import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from asyndgan.errors import RecipeError
from asyndgan.texts import parsed_toml

A_LINE: Final = 16  # Most values of a list in one line: a reader bounds the dots in a line


def tables_of(text: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Parses a recipe; arguments and errors are those of `Recipe.from_toml`."""
    try:
        tables = parsed_toml(text)
    except ValueError as error:
        raise RecipeError(f"the recipe is not valid TOML: {error}") from error
    for each in overrides:
        override(tables, each)
    return tables


def override(tables: dict[str, Any], text: str) -> None:
    """Sets one key, written `key=value`; errors are those of `Recipe.from_toml`."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise RecipeError(f"'{text}' is not KEY=VALUE; write for example image.size=128.")
    for written in (value, json.dumps(value)):  # a bare word is taken as a string
        try:
            _merge(tables, parsed_toml(f"{key} = {written}"), key)
        except ValueError:
            continue
        return
    raise RecipeError(f"'{key}' is not a key; write for example image.size=128.")


def _merge(tables: dict[str, Any], extra: dict[str, Any], key: str) -> None:
    for name, value in extra.items():
        if isinstance(value, dict) and name in tables:
            if not isinstance(tables[name], dict):
                raise RecipeError(f"'{key}' goes below '{name}', which is a single value.")
            _merge(tables[name], value, key)
        else:
            tables[name] = value


def lines_of(
    section: BaseModel,
    comments: bool,
    prefix: str = "",
    reasons: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[str]:
    """Lines of a TOML document that parses back to an equal value; see `Section.to_toml`.

    Of a list of tables the first has comments: 1,024 of a timeline would else be too long to read.
    """
    tables: list[tuple[str, str, BaseModel]] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if value is None and _is_section(field):
            continue
        if isinstance(value, BaseModel):
            tables.append((name, f"[{prefix}{name}]", value))
        elif isinstance(value, dict) and any(isinstance(v, BaseModel) for v in value.values()):
            keys = {f"{name}.{key_of(key)}": item for key, item in value.items()}
            tables.extend((key, f"[{prefix}{key}]", item) for key, item in keys.items())
        elif isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
            tables.extend((name, f"[[{prefix}{name}]]", item) for item in value)
        else:
            shown = "" if value is None else value_of(value)
            line = f"{name} = {shown}" if value is not None else f"# {name} ="
            note = _comment(field) if comments else ""
            note = reasons.get(f"{prefix}{name}", note)
            yield f"{line}  # {note}" if note else line
    before = ""
    for name, heading, table in tables:
        yield ""
        commented, before = comments and heading != before, heading
        about = str(type(table).__doc__ or "").splitlines()[:1] if commented else []
        for line in [reasons[f"{prefix}{name}"]] if f"{prefix}{name}" in reasons else about:
            yield f"# {line}"
        yield heading
        yield from lines_of(table, commented, f"{prefix}{name}.", reasons)


def _is_section(field: FieldInfo) -> bool:
    kinds = get_args(field.annotation)
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)


def _comment(field: FieldInfo) -> str:
    choices = [repr(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]
    note = field.description or ""
    unsaid = [choice for choice in choices if choice.strip("'") not in note]
    return note + (f" ({' | '.join(choices)})" if unsaid else "")


def key_of(key: str) -> str:
    """A part of a dotted key, in quotes if TOML wants them."""
    plain = key.replace("_", "").replace("-", "")
    return key if plain.isalnum() and plain.isascii() else _string(key)


def _string(text: str) -> str:
    # TOML does not allow surrogate pairs; what a terminal would act on is escaped, since people
    # have recipes of others printed.
    whole = json.dumps(text, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in whole)


def value_of(value: object) -> str:
    """A plain value as TOML."""
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (list, tuple)):
        texts = list(map(value_of, value))
        rows = [", ".join(texts[n : n + A_LINE]) for n in range(0, len(texts), A_LINE)]
        return "[" + ",\n  ".join(rows) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key_of(k)} = {value_of(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)
