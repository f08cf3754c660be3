"""Writing of self-contained HTML pages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from asyndgan.texts import printable, replace_text

COLOURS: Final = 8
"""Number of site colours; a ninth site gets the first colour again, with another dash pattern."""


def write_page(template: str, page: Mapping[str, Any], out: Path) -> Path:
    """Renders a template of this folder and writes the page atomically.

    Args:
        template: file name of the template.
        page: variables of the template.
        out: the file to write.

    Returns:
        `out`.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names of sites, labels and modalities are untrusted
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(page)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, printable(text))
    return out
