"""The threat model speaks of every field of every message, and of no other."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from pydantic import TypeAdapter
from torch import Tensor

from asyndgan.recipe.fingerprint import (
    Fingerprint,
    LabelFigures,
    Levels,
    ModalityFigures,
    Side,
    Spread,
)
from asyndgan.wire.messages import ANSWERS, REQUESTS

TEXT = (Path(__file__).parents[2] / "docs" / "threat-model.md").read_text("utf-8")
TITLES = {"What leaves a site": ANSWERS, "What comes to a site": REQUESTS}


def section(title: str) -> str:
    return TEXT.partition(f"### {title}")[2].partition("\n### ")[0]


def sizes(title: str) -> dict[tuple[str, str], str]:
    """What a table says of the size of each field, by message and field."""
    rows = re.findall(r"^\| (.+) \|$", section(title), re.MULTILINE)
    found: dict[tuple[str, str], str] = {}
    for messages, field, *cells in (row.split(" | ") for row in rows[1:]):
        assert len(cells) == 4 and all(cells), (messages, field)
        for message in messages.split(", "):
            assert (message, field) not in found
            found[message, field] = cells[1]
    return found


@pytest.mark.parametrize("title", TITLES)
def test_every_field_that_crosses_the_wire_is_in_the_threat_model_and_no_other(title):
    fields = {(kind, name) for kind, one in TITLES[title].items() for name in one.model_fields}
    assert sizes(title).keys() == fields


def most(schema: Any) -> Iterator[int]:
    """The lengths that a JSON schema allows at most."""
    for key, value in schema.items() if isinstance(schema, dict) else ():
        if key in ("maxLength", "maxItems", "maxProperties"):
            yield value
        elif key == "pattern":
            yield from map(int, re.findall(r"(\d+)\}", value))
        else:
            yield from most(value)
    for value in schema if isinstance(schema, list) else ():
        yield from most(value)


def test_the_sizes_in_the_threat_model_are_those_that_the_messages_allow():
    checked = 0
    for title, schemas in TITLES.items():
        for (kind, name), size in sizes(title).items():
            field = schemas[kind].model_fields[name]
            if field.annotation is Tensor or Tensor in get_args(field.annotation):
                continue  # as large as the recipe says
            whole = Annotated[(field.annotation, *field.metadata)] if field.metadata else None
            for number in most(TypeAdapter(whole or field.annotation).json_schema()):
                assert re.search(rf"(?<![\d,]){number:,}(?![\d,])", size), (kind, name, number)
                checked += 1
    assert checked > 20


def test_every_figure_of_a_fingerprint_is_in_the_threat_model():
    parts = (Fingerprint, Side, ModalityFigures, LabelFigures, Levels, Spread)
    fields = {field for part in parts for field in part.model_fields}
    told = set(re.findall(r"`(\w+)`", section("What a fingerprint tells")))
    assert told == fields | {"described"}
