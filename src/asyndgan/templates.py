"""Templates of Jinja that lie beside the modules which fill them in."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape


@cache  # with its compiled templates, which take a second
def templates(folder: Path, *filters: Callable[..., object]) -> Environment:
    """A folder's templates; what is put in is untrusted, and all but Markdown escapes it."""
    environment = Environment(
        loader=FileSystemLoader(folder), undefined=StrictUndefined, trim_blocks=True,
        autoescape=select_autoescape(disabled_extensions=("md.jinja",), default=True),
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {filter.__name__: filter for filter in filters}
    return environment
