"""A site before there is a recipe: it describes its data by a fingerprint."""

from pathlib import Path
from typing import final

from asyndgan.errors import ProtocolError
from asyndgan.privacy import Release, Released
from asyndgan.protocol import Handler
from asyndgan.tables.planning import fingerprint_in
from asyndgan.wire import Describe, Described, Message


@final
class Describing(Handler):
    """Answers `Describe` with the fingerprint that the site's steward has seen, and nothing else.

    Args:
        file: what `asyndgan fingerprint` wrote.
        release: the door out of the site.
    """

    def __init__(self, file: Path, release: Release) -> None:
        self.file = file
        self.release = release

    def handle(self, request: Message) -> Released:
        """Answers one request.

        Raises:
            DataError: the file is no fingerprint.
            ProtocolError: it is another request.
        """
        if not isinstance(request, Describe):
            raise ProtocolError(f"there is no recipe yet, so '{request.kind}' is not answered.")
        return self.release.let_out(
            Described(run=request.run, fingerprint=fingerprint_in(self.file))
        )
