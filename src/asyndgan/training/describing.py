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
    """Answers `Describe` with the fingerprint (a file) that the site's steward has seen alone."""

    def __init__(self, file: Path, release: Release) -> None:
        self.file = file
        self.release = release

    def handle(self, request: Message) -> Released:
        """Answers one request; raises `ProtocolError`, or `DataError` without a fingerprint."""
        if not isinstance(request, Describe):
            raise ProtocolError(f"there is no recipe yet, so '{request.kind}' is not answered.")
        return self.release.let_out(
            Described(run=request.run, fingerprint=fingerprint_in(self.file))
        )
