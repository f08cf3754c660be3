"""The threat model speaks of every field of every message, and of no other.

After a change of messages or of their exposure: `python tests/unit/test_threat_model.py`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import TypeAdapter
from torch import Tensor

from asyndgan.privacy.exposure import COMING, LEAVING, fields, table
from asyndgan.wire import ANSWERS, REQUESTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "threat-model.md"
BEGIN, END = "<!-- fields -->", "<!-- end of fields -->"


def with_tables(text: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n" + "\n".join(table()) + f"\n{END}{after}"


def test_every_field_that_crosses_the_wire_is_in_the_threat_model() -> None:
    assert list(LEAVING) == fields(dict(ANSWERS))
    assert list(COMING) == fields(dict(REQUESTS))


def most(schema: Any) -> Iterator[int]:
    """The lengths that a JSON schema allows at most."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("maxLength", "maxItems", "maxProperties"):
                yield value
            elif key == "pattern":
                yield from map(int, re.findall(r"(\d+)\}", value))
            else:
                yield from most(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from most(value)


def test_the_sizes_in_the_threat_model_are_those_that_the_messages_allow() -> None:
    checked = 0
    for schemas, told in ((ANSWERS, LEAVING), (REQUESTS, COMING)):
        for (kind, name), exposure in told.items():
            field = schemas[kind].model_fields[name]
            if field.annotation is Tensor or Tensor in get_args(field.annotation):
                continue  # as large as the recipe says
            whole = Annotated[(field.annotation, *field.metadata)] if field.metadata else None
            schema = TypeAdapter(whole or field.annotation).json_schema()
            for number in most(schema):
                found = re.search(rf"(?<![\d,]){number:,}(?![\d,])", exposure.size)
                assert found, (kind, name, number, exposure.size)
                checked += 1
    assert checked > 20


def test_the_document_is_what_the_messages_are() -> None:
    text = DOCUMENT.read_text("utf-8")
    assert text == with_tables(text)


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text("utf-8")), "utf-8")
