"""The exceptions a user may meet. Each message says who, what, what was wanted and the remedy.

Texts may be shown to people at other places, so they never hold a pixel, a path or a patient's
name. `DataError` is the exception to that rule: it names files, is raised only on the machine that
holds them, and never crosses the wire (`Endpoint` sends a fixed sentence instead).
"""


class AsyndganError(Exception):
    """Anything that this package raises on purpose."""


class RecipeError(AsyndganError):
    """A recipe, or a key set on top of it, cannot be used."""


class DataError(AsyndganError):
    """A data set on this machine cannot be used. May name files: it stays on this machine."""


class CohortError(AsyndganError):
    """A site's cases do not fit the recipe or the other sites."""


class WireError(AsyndganError):
    """A message is malformed, too large, of another version or not what was expected."""


class ProtocolError(AsyndganError):
    """A well-formed message came at the wrong time or from the wrong party."""


class RefusedError(ProtocolError):
    """The other party refused the request; its reason is the text."""


class PolicyError(AsyndganError):
    """A site's policy cannot be read, or does not allow what is asked. For the site's people."""


class LedgerError(AsyndganError):
    """A site's ledger cannot be written, or is not what was written. For the site's people."""


class SiteUnreachableError(AsyndganError):
    """A site did not answer in time, or its connection is gone."""


class SiteSilentError(SiteUnreachableError):
    """A site is connected but did not answer in time."""


class QuorumError(AsyndganError):
    """Fewer sites answered than the recipe's quorum wants."""


class NotFiniteError(AsyndganError):
    """A loss or a gradient became infinite or not a number."""


class RunError(AsyndganError):
    """A run folder cannot be created, resumed or used for what was asked."""


class StorageError(RunError):
    """What has to be kept cannot be written; once there is room, it can."""


class Interrupted(RunError):  # noqa: N818  (nothing went wrong: somebody pressed Ctrl-C)
    """The run was asked to stop; its checkpoint is written."""


class BusyError(RunError):
    """Another process is at work in a folder."""
