"""Whether results that lie about are of the generator that a page is about."""

from pathlib import Path
from typing import Final

from asyndgan.texts import bounded_text, parsed_json

MOST_RESULTS: Final = 2**26
"""Largest JSON file of results in bytes: values of each patient by each model."""


def is_of_generator(path: Path, generator_sha256: str, *within: str) -> bool:
    """Whether a JSON file of results is of this generator.

    True also if it does not say or cannot be read: whoever reads the rest reports what is wrong.

    Args:
        path: the file.
        generator_sha256: hash of the generator.
        within: keys of the tables around `generator_sha256`, from the outermost.
    """
    try:
        table = parsed_json(bounded_text(path, MOST_RESULTS))
        for key in within:
            table = table.get(key) or {}
        return table.get("generator_sha256") in (None, generator_sha256)
    except (OSError, ValueError, AttributeError):
        return True
