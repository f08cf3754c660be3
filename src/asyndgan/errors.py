"""Exceptions that users may see.

Each message states who failed, what happened, what was expected and the remedy.

Messages may be shown to people at other sites, so they never contain a pixel, a path or a
patient's name. `DataError` and `StorageError` are the exceptions to that rule: they name files, are
raised only on the machine that holds them, and never cross the wire (`Endpoint` sends a fixed
sentence instead).
"""

from typing import Self


class AsyndganError(Exception):
    """Base class of all exceptions that this package raises on purpose."""


class MissingPackageError(AsyndganError):
    """A package of an optional extra is not installed.

    Args:
        what: what takes it, in the plural.
        packages: its name, or several.
        extra: of this package, which installs it.
    """

    def __init__(self, what: str, packages: str, extra: str) -> None:
        self._told = what, packages, extra
        remedy = f"in the folder of asyndgan's source: python -m pip install '.[{extra}]'"
        super().__init__(f"{what} need {packages}, which is not installed; {remedy}")

    def __reduce__(self) -> tuple[type[Self], tuple[str, str, str]]:
        return type(self), self._told


class RecipeError(AsyndganError):
    """A recipe, or an override of one of its keys, is invalid."""


class DataError(AsyndganError):
    """A data set on this machine cannot be used. May name files, so it stays on this machine."""


class CohortError(AsyndganError):
    """A site's cases do not fit the recipe or the other sites."""


class WireError(AsyndganError):
    """A message is malformed, too large, of another version or of an unexpected kind."""


class ProtocolError(AsyndganError):
    """A well-formed message arrived at the wrong time or from the wrong party."""


class RefusedError(ProtocolError):
    """The other party refused the request; the message is the reason it gave."""


class PolicyError(AsyndganError):
    """A site's policy cannot be read or forbids the request. Addressed to the site's own staff."""


class LedgerError(AsyndganError):
    """A site's ledger cannot be written or was altered. Addressed to the site's own staff."""


class SiteUnreachableError(AsyndganError):
    """A site did not answer in time, or its connection was lost."""


class SiteSilentError(SiteUnreachableError):
    """A site is connected but did not answer in time."""


class QuorumError(AsyndganError):
    """Fewer sites answered than the recipe's quorum requires."""


class NotFiniteError(AsyndganError):
    """A loss or a gradient became infinite or NaN."""


class RunError(AsyndganError):
    """A run folder cannot be created, resumed or used as requested."""


class StorageError(RunError, OSError):
    """A file cannot be written; retrying can succeed once there is space."""

    def __str__(self) -> str:
        """The message, without what the system said in addition."""
        return Exception.__str__(self)


class Interrupted(RunError):  # noqa: N818  (nothing went wrong: somebody pressed Ctrl-C)
    """The run was asked to stop; its checkpoint has been written."""


class BusyError(RunError):
    """Another process is using a folder."""
