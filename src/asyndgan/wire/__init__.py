"""The wire format: messages with a schema, arrays with a coding, and size limits on both."""

from asyndgan.wire.codec import Coding, label_coding, through
from asyndgan.wire.messages import (
    ANSWERS,
    LEAST_SHARE,
    NO_CONDITIONS,
    REQUESTS,
    Card,
    Close,
    Closed,
    Describe,
    Described,
    Judge,
    Judgement,
    Message,
    Open,
    Refusal,
    Save,
    Saved,
    pack,
    unpack,
)
