"""Asks FLARE's server by its administrators' interface: KIT USER, a socket as standard input.

FLARE may wait for ever for a server that does not answer: the caller can kill this process, which
also ends by itself. A request is a list, the name of a session's method and its arguments; the
reply is a table with `answer`, or with `refused` or `failed` and a text. Both are JSON.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Any, Final

from nvflare.fuel.flare_api.api_spec import (
    AuthenticationError,
    AuthorizationError,
    InvalidJobDefinition,
)
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session

from asyndgan.engines.framing import Frames
from asyndgan.errors import AsyndganError

LONGEST_S: Final = 60  # Seconds after which this process ends by itself if FLARE does not answer
FAREWELL_S: Final = 5  # Seconds that the end of a session may take

REQUEST_BYTES: Final = 2**16


def serve(frames: Frames, kit: str, user: str) -> None:
    """Answers requests until the other end is closed; the first one opens the session."""
    session: Session | None = None
    while True:
        signal.alarm(0)
        try:
            number, request = frames.receive()
        except AsyndganError:
            break
        signal.alarm(LONGEST_S)  # the kernel ends us: nobody handles this signal
        command, *words = json.loads(request)
        reply: dict[str, Any]
        try:
            session = session or new_secure_session(user, kit, timeout=5.0)
            reply = {"answer": getattr(session, command)(*words)}
        except (AuthorizationError, AuthenticationError, InvalidJobDefinition) as error:
            reply = {"refused": str(error)}
        except Exception as error:  # FLARE raises many kinds, with its server's texts
            reply = {"failed": str(error) or type(error).__name__}
        frames.send(number, json.dumps(reply, default=vars).encode())
    signal.alarm(FAREWELL_S)
    if session:
        with suppress(Exception):  # the server may be gone before us, in one of many ways
            session.close()


if __name__ == "__main__":
    try:
        serve(Frames(socket.socket(fileno=0), limit=REQUEST_BYTES), sys.argv[1], sys.argv[2])
    finally:
        os._exit(0)  # threads of FLARE may wait for ever
