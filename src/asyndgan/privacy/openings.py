"""A site's record of all opened runs: its secret, their recipes, their attempts.

Before any answer, a coordinator learns whether a site begins and how many cases it has. With any
number of recipes it could measure the data. A site therefore counts the recipes, and draws its
held-out patients by a secret of its own.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Final, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from asyndgan.errors import LedgerError, PolicyError
from asyndgan.privacy.chance import secret
from asyndgan.privacy.ledger import head_file
from asyndgan.texts import bounded_text, replace_text, storing

FILE: Final = "openings.json"

KEPT_ATTEMPTS: Final = 256  # at runs, to recognise late requests of earlier ones
MOST_RECIPES: Final = 4096  # with which a site begins, under any policy

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Attempt = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]


class _Kept(BaseModel):
    """The file's content."""

    model_config = ConfigDict(extra="forbid", strict=True)

    secret: Digest
    recipes: list[Digest] = Field(max_length=MOST_RECIPES)
    attempts: list[Attempt] = Field(max_length=KEPT_ATTEMPTS)
    closed: bool = False  # the newest attempt


@final
class Openings:
    """A site's secret and what it was opened with, kept beside its ledger; None: in memory only.

    Raises `LedgerError` if the file cannot be read, or was taken away from its ledger.
    """

    def __init__(self, records: Path | None) -> None:
        self.path = records / FILE if records else None
        self._kept = _Kept(secret=secret(), recipes=[], attempts=[])
        if self.path is None:
            return
        if self.path.exists():
            self._kept = _read(self.path)
        elif head_file(self.path.with_name("ledger.jsonl")).exists():
            raise LedgerError(
                f"{FILE} was taken away from its ledger. Put it back, or begin new books in "
                "another folder."
            )

    @property
    def secret(self) -> str:
        """64 hexadecimal digits that no other party knows."""
        return self._kept.secret

    @property
    def recipes(self) -> int:
        """Number of different recipes that the site was opened with."""
        return len(self._kept.recipes)

    def admit(self, recipe: str, most: int | None) -> None:
        """Counts a recipe, by its digest, before the site's data are looked at for it.

        Raises `PolicyError` if the policy allows no further one than `most`, or `StorageError`.
        """
        if recipe in self._kept.recipes:
            return
        if self.recipes >= min(most or MOST_RECIPES, MOST_RECIPES):
            raise PolicyError(
                f"this site was opened with {self.recipes} different recipes already, and "
                "allows.most_recipes is no more. Raise it in the policy for a further one."
            )
        self._kept.recipes.append(recipe)
        self.keep()

    def check_against(self, recipes: Collection[str]) -> None:
        """Raises `LedgerError` if messages left under recipes that are not in the file."""
        if self.path and not set(recipes) <= set(self._kept.recipes):
            raise LedgerError(
                f"{FILE} lacks recipes under which messages left by the ledger: it was changed, "
                "or taken from elsewhere. Put it back, or begin new books in another folder."
            )

    def knows(self, attempt: str) -> bool:
        """Whether an attempt at a run has begun here, the newest one or an earlier one."""
        return attempt in self._kept.attempts

    @property
    def newest(self) -> str:
        """The newest attempt; empty if none has begun."""
        return self._kept.attempts[-1] if self._kept.attempts else ""

    def is_over(self, attempt: str) -> bool:
        """Whether this attempt was closed, or another one has begun since."""
        return self.knows(attempt) and (attempt != self.newest or self._kept.closed)

    def begin(self, attempt: str) -> None:
        """Remembers an attempt as the newest; raises `StorageError` if it cannot be written."""
        if attempt and not self.knows(attempt):
            self._kept.attempts = [*self._kept.attempts, attempt][-KEPT_ATTEMPTS:]
            self._kept.closed = False
            self.keep()

    def close(self) -> None:
        """Ends the newest attempt; raises `StorageError` if this cannot be written."""
        self._kept.closed = True
        self.keep()

    def keep(self) -> None:
        """Writes the file; raises `StorageError` if it cannot be written."""
        if self.path is None:
            return
        with storing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self.path, self._kept.model_dump_json(), mode=0o600)


def _read(path: Path) -> _Kept:
    try:
        return _Kept.model_validate_json(bounded_text(path))
    except (OSError, ValueError, ValidationError) as error:
        raise LedgerError(
            f"{path.name} is not as this site wrote it. Put it back, or begin new books in another "
            "folder."
        ) from error
