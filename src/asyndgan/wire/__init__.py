"""The wire format: messages with a schema, arrays with a coding, and size limits on both."""

from asyndgan.wire.audited import (
    AttackFigures,
    AuditFigures,
    CopyFigures,
    EvaluationFigures,
    GroupFigures,
    ScoreFigures,
)
from asyndgan.wire.codec import Coding, label_coding, through
from asyndgan.wire.messages import (
    ANSWERS,
    CASES_WITHHELD,
    LEAST_SHARE,
    MOST_MASKS,
    NO_CONDITIONS,
    REQUESTS,
    Answered,
    Asked,
    Audit,
    Audited,
    Card,
    Close,
    Closed,
    Describe,
    Described,
    Evaluate,
    Evaluated,
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
