"""The page of recipe keys lists every key with the description in the recipe's code.

After a change of a key: `python tests/unit/test_recipe_keys.py`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from asyndgan.recipe import Recipe, Section, known_keys

DOCUMENT = Path(__file__).parents[2] / "docs" / "recipe-keys.md"
BEGIN, END = "<!-- recipe keys -->", "<!-- end of recipe keys -->"


def section_in(annotation: Any) -> type[Section] | None:
    """The section that a type is, or holds by name or in a row."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(section_in, get_args(annotation))), None)


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default in (None, (), {}):
        return "none"
    return "0 to 255" if isinstance(field.default, dict) else f"`{json.dumps(field.default)}`"


def meaning_of(field: FieldInfo) -> str:
    text = field.description or "the site's name"
    choices = [each for each in get_args(field.annotation) if isinstance(each, str)]
    unsaid = any(choice not in text for choice in choices)
    return f"{text} ({', '.join(choices)})" if unsaid else text


def rows(section: type[Section], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of everything in a section, then in the sections below it."""
    below = []
    for name, field in section.model_fields.items():
        found = section_in(field.annotation)
        if found is not field.annotation:
            yield f"`{prefix}{name}`", default_of(field), meaning_of(field)
        if found:
            named = "NAME." if isinstance(field.default, dict) else ""
            below.append((found, f"{prefix}{name}.{named}"))
    for found, start in below:
        yield from rows(found, start)


def with_table(text: str) -> str:
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end
    lines = ["| key | default | meaning |", "|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(Recipe)]
    return f"{before}{begin}\n\n" + "\n".join(lines) + f"\n\n{end}{after}"


def test_the_page_has_the_keys_as_they_are():
    text = DOCUMENT.read_text("utf-8")
    assert text == with_table(text)


def test_no_key_is_left_out():
    listed = {key.strip("`") for key, _, _ in rows(Recipe)}
    assert listed >= {*known_keys(), "timeline.last", "image.intensity.NAME.kind"}


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text("utf-8")), "utf-8")
