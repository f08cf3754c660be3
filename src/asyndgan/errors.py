"""Exceptions that users may see.

Each message states who failed, what happened, what was expected and the remedy.

Messages may be shown to people at other sites, so they never contain a pixel, a path or a
patient's name. `DataError` and `StorageError` are the exceptions to that rule: they name files, are
raised only on the machine that holds them, and never cross the wire (`Endpoint` sends a fixed
sentence instead).
"""

import errno
from typing import Self


class AsyndganError(Exception):
    """Base class of all exceptions that this package raises on purpose."""


class MissingPackageError(AsyndganError):
    """A package is not installed, which an extra of this package installs."""

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


class PolicyRefusedError(RefusedError):
    """A site's policy refuses the run, and no answer of its steward is waited for."""


class UndecidedError(RefusedError):
    """A site's steward has not approved the run's recipe, and may do so at any time."""


class PolicyError(AsyndganError):
    """A site's policy cannot be read or forbids the request. Addressed to the site's own staff.

    The coordinator may be told only the `keys` of the policy that refuse.
    """

    def __init__(self, text: str, keys: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.keys = keys


class WithheldError(PolicyError):
    """An answer may not leave a site. The coordinator may be told the text: it names no file."""


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


def message_of(error: "AsyndganError | OSError") -> str:
    """What went wrong, for a person; of an error of the system also the remedy."""
    if isinstance(error, AsyndganError):
        return str(error)
    return not_written(error.filename2 or error.filename or "the output", error)


def is_full(error: OSError) -> bool:
    """Whether a disk, or what somebody may store on it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def not_written(path: object, error: OSError) -> str:
    """What is wrong with a file or folder that cannot be written, and the remedy."""
    if is_full(error):
        return f"{path}: no space left on its disk. Free space."
    if error.errno == errno.EFBIG:
        return (
            f"{path}: larger than its disk, or your account, allows for a file (ulimit -f). Name a "
            "folder on another disk, or raise the limit."
        )
    reason = error.strerror or error
    return f"{path}: {reason}. Name another folder, or make it writable."
