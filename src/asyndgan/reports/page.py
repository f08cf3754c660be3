"""Writing of self-contained HTML pages."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from asyndgan.reports.words import (
    amount,
    between,
    counted,
    decimal,
    signed,
    size,
    together,
)
from asyndgan.templates import templates
from asyndgan.texts import printable, replace_text, sentence

COLOURS: Final = 8
"""Number of site colours; a ninth site gets the first colour again, with another dash pattern."""


def write_page(template: str, page: Mapping[str, Any], out: Path) -> Path:
    """Renders a template of this folder and writes the page atomically; returns `out`."""
    text = rendered(template, page)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, text)
    return out


def rendered(template: str, page: Mapping[str, Any]) -> str:
    """The text of a template of this folder with its variables."""
    filters = (amount, between, counted, decimal, place, sentence, signed, size, together)
    found = templates(Path(__file__).parent, *filters)
    found.globals["colours"] = COLOURS
    return printable(found.get_template(template).render(page))


def place(value: float, least: float = 0.0) -> float:
    """Percentage of the way from `least` to 1, at most 0 to 100."""
    return round(100 * min(max((value - least) / (1 - least), 0), 1), 2)


def data_uri(content: bytes, kind: str) -> str:
    """Content as a data URI; `kind` is its MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
