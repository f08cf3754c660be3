"""Regular expressions that a file or an option gives; one may take longer than anybody waits."""

import json
import subprocess
from functools import lru_cache
from typing import Final

from asyndgan import children
from asyndgan.errors import DataError
from asyndgan.texts import counted

PATIENCE_S: Final = 5.0
"""How long a pattern may take for all names of a data set, in seconds."""
MOST_SHOWN: Final = 200  # letters

_MATCHER: Final = """
import json, re, sys
pattern, names, way = json.load(sys.stdin)
try:
    match = getattr(re.compile(pattern), way)
except Exception as error:
    json.dump(f"{error}", sys.stdout)
else:
    found = [match(name) for name in names]
    json.dump([m and ((m[1] if m.re.groups else m[0]) or "") for m in found], sys.stdout)
"""


@lru_cache(8)
def found_in(pattern: str, names: tuple[str, ...], *, whole: bool = False) -> list[str | None]:
    """What a pattern finds in names: its first group, or all that it matches if it has no group.

    Python's matcher takes exponential time for some patterns, and cannot be stopped. So it runs in
    a process of its own.

    Args:
        pattern: a regular expression.
        names: of cases or patients.
        whole: match the whole name, not its start.

    Returns:
        A text for each name; None where the pattern does not match.

    Raises:
        DataError: `pattern` is not a regular expression, or takes longer than `PATIENCE_S`.
    """
    if not names:
        return []
    asked = json.dumps([pattern, names, "fullmatch" if whole else "match"]).encode()
    try:
        answer = children.evaluate(_MATCHER, asked, PATIENCE_S)
    except subprocess.SubprocessError as error:
        raise DataError(
            f"the pattern '{pattern[:MOST_SHOWN]}' takes more than {PATIENCE_S:g} s for "
            f"{counted(len(names), 'name')}. Repeat nothing that itself repeats or has "
            r"alternatives: write for example '(.+)_s\d+$', and not '((a|b)+)*$'."
        ) from error
    found = json.loads(answer)
    if isinstance(found, str):
        raise DataError(
            f"the pattern '{pattern[:MOST_SHOWN]}' is not a regular expression "
            f"({found[:MOST_SHOWN]}). "
            r"Write for example '(.+)_s\d+$'."
        )
    return found
