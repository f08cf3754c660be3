"""One request and one answer at a time, over any transport, counted and bounded."""

from typing import TYPE_CHECKING

from asyndgan.lazy import lazily
from asyndgan.protocol.limits import ASKED_FRAME, ASKED_LIMIT, frame_limit, message_limit
from asyndgan.protocol.transport import Transport, away

if TYPE_CHECKING:
    from asyndgan.protocol.endpoint import Endpoint, Handler
    from asyndgan.protocol.exchange import Exchange
else:
    __getattr__ = lazily(__name__, {"endpoint": "Endpoint Handler", "exchange": "Exchange"})
