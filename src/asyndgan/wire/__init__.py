"""The wire format: messages with a schema, arrays with a coding, and size limits on both."""

from asyndgan.wire.audited import AttackFigures, AuditFigures, CopyFigures, GroupFigures
from asyndgan.wire.codec import Coding, label_coding, through
from asyndgan.wire.messages import (
    ANSWERS,
    CASES_WITHHELD,
    LEAST_SHARE,
    MOST_MASKS,
    NO_CONDITIONS,
    REQUESTS,
    Audit,
    Audited,
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
