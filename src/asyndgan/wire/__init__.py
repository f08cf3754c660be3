"""What travels: messages with a schema, arrays with a coding, and a limit on both."""

from asyndgan.wire.codec import Coding, label_coding, through
from asyndgan.wire.messages import (
    ANSWERS,
    REQUESTS,
    Card,
    Close,
    Closed,
    Judge,
    Judgement,
    Measure,
    Measured,
    Message,
    Open,
    Refusal,
    Save,
    Saved,
    pack,
    unpack,
)

__all__ = [
    "ANSWERS",
    "REQUESTS",
    "Card",
    "Close",
    "Closed",
    "Coding",
    "Judge",
    "Judgement",
    "Measure",
    "Measured",
    "Message",
    "Open",
    "Refusal",
    "Save",
    "Saved",
    "label_coding",
    "pack",
    "through",
    "unpack",
]
