"""Pages that load nothing from anywhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from asyndgan.texts import replace_text

COLOURS: Final = 8
"""Colours of sites; a ninth site gets the first again, with another dash."""


def write_page(template: str, page: Mapping[str, Any], out: Path) -> Path:
    """Fills a template of this folder and writes it whole or not at all.

    Args:
        template: name of its file.
        page: everything that it shows.
        out: the file to write.

    Returns:
        `out`.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names of sites, labels and modalities come from others
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(page)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, text)
    return out
