"""One request and one answer at a time, over any transport, counted and bounded."""

from asyndgan.protocol.endpoint import Endpoint, Handler
from asyndgan.protocol.exchange import Answers, Exchange, message_limit
from asyndgan.protocol.transport import Transport
