"""What was asked of a site, kept in its folder for its steward: who, for which run, which recipe.

Only the newest request of a run is kept, and of at most `KEPT` runs.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, final

from pydantic import BaseModel, ConfigDict, Field

from asyndgan.engines.federation import RUN_NAME
from asyndgan.texts import LONGEST_TOML, bounded_text, replace_text, storing

FOLDER: Final = "requests"
KEPT: Final = 100
MOST: Final = 8 * LONGEST_TOML  # bytes of a file


@final
class Request(BaseModel):
    """A request that the coordinator's letter has certified."""

    model_config = ConfigDict(extra="forbid", strict=True)

    run: Annotated[str, Field(pattern=f"^{RUN_NAME.pattern}$")]
    recipe: str  # TOML; empty: `run` is a question of `QUESTIONS`, or asks for a fingerprint
    submitter: str  # who asks, by the certificate
    refused: str  # why the site takes no part, if that is not a key of its policy
    number: int = 0  # of the site's requests, from 1
    time: float = Field(default_factory=time.time)  # when it was made, in seconds since 1970


def keep(kit: Path, request: Request) -> int:
    """Writes a request, in place of an earlier one of its run; raises `StorageError`.

    Returns its number if it is new, or 0 if the run had asked for this recipe before.
    """
    folder, known = kit / FOLDER, kept(kit)
    asked = request.run, request.recipe
    same = [each.number for each in known if (each.run, each.recipe) == asked]
    number = same[0] if same else 1 + max((each.number for each in known), default=0)
    request = request.model_copy(update={"number": number})
    with storing(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        for old in _files(folder)[KEPT - 1 :]:
            if old.stem != request.run:
                old.unlink(missing_ok=True)
    replace_text(folder / f"{request.run}.json", request.model_dump_json(), mode=0o600)
    return 0 if same else number


def kept(kit: Path) -> list[Request]:
    """The requests that are kept, the newest first; unreadable ones are left out."""
    found = filter(None, map(_read, _files(kit / FOLDER)))
    return sorted(found, key=lambda each: -each.time)


def unreadable(kit: Path) -> list[Path]:
    """Files of requests that cannot be read."""
    return [path for path in _files(kit / FOLDER) if not _read(path)]


def _read(path: Path) -> Request | None:
    with suppress(OSError, ValueError):
        return Request.model_validate_json(bounded_text(path, MOST))
    return None


def _files(folder: Path) -> list[Path]:
    """Files of a folder, the newest first; one may be replaced meanwhile."""
    times = {}
    for path in folder.glob("[!.]*.json"):
        with suppress(OSError):
            times[path] = path.stat().st_mtime
    return sorted(times, key=lambda path: -times[path])
