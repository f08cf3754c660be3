"""The messages and their byte format.

A message is `ADG`, a version byte, the header's length (4 bytes, little-endian), the header (JSON:
kind, fields, and for each array its shape, coding and compressed length) and the arrays' bytes one
after the other. Everything is checked against the schema below and the receiver's limit before
anything is allocated for an array. There is no pickle.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, final

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from asyndgan.errors import WireError
from asyndgan.recipe.fingerprint import Fingerprint
from asyndgan.store.case import MODALITIES_LIMIT
from asyndgan.tables.summary import Summary
from asyndgan.texts import LARGEST_NUMBER, Name
from asyndgan.wire.audited import AuditFigures, EvaluationFigures
from asyndgan.wire.codec import LABEL_CODINGS, Coding, decode, decoded_size, encode, label_coding

MAGIC: Final = b"ADG"
VERSION: Final = 9
HEADER_LIMIT: Final = 2**20  # a summary of a table of 256 numeric columns takes a quarter
PREFIX: Final = struct.Struct("<3sBI")

Run = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
LabelNumber = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,4})$")]
CASES_WITHHELD: Final = 1
"""A card's number of cases where the site's policy withholds it."""
MOST_MASKS: Final = 2**15
"""Most masks of a set that sites audit."""
WIDEST: Final = 64
"""Most filters of the first level of a network that sites evaluate."""
LEAST_SHARE: Final = 1e-6
"""Least share that a site declares, and least part of its cases; smaller ones vanish in sums."""
Part = Annotated[float, Field(ge=LEAST_SHARE, le=1)]
Number = Annotated[float, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER, allow_inf_nan=False)]


@final
@dataclass(frozen=True)
class ArraySchema:
    """The codings that an array of a message may have, and its least and most axes."""

    codings: tuple[Coding, ...]
    ranks: tuple[int, int]


IMAGES = ArraySchema(("float32", "float16", "uint8"), (3, 5))
FEEDBACK = ArraySchema(("float32", "float16", "int8", "int4"), (3, 5))
CONDITIONS = ArraySchema(LABEL_CODINGS, (1, 4))
FILE = ArraySchema(("bytes",), (1, 1))
NO_CONDITIONS: Final = torch.zeros(1, dtype=torch.int64)
"""Stands for conditions that the other party knows: no array of a message may be empty."""


class Message(BaseModel):
    """A message; `kind` is its name on the wire."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True
    )
    kind: ClassVar[str]
    run: Run


@final
class Open(Message):
    """Coordinator: take part in this run; `step` steps are done.

    `attempt` identifies one start of the coordinator. Only a new attempt may send a site back to an
    earlier step; an attempt that was followed by another one is refused.
    """

    kind = "open"
    recipe: Digest
    step: Count
    attempt: Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")] = ""


@final
class Card(Message):
    """Site: describes its cohort, and sends the conditions of its next batch."""

    kind = "card"
    step: Count
    cases: Annotated[int, Field(ge=1, lt=2**53)]
    share: Annotated[float, Field(ge=LEAST_SHARE, lt=2**53, allow_inf_nan=False)]
    modalities: Annotated[list[Name], Field(min_length=1, max_length=MODALITIES_LIMIT)]
    parts: Annotated[list[Part], Field(min_length=1, max_length=MODALITIES_LIMIT)]
    labels: Annotated[dict[LabelNumber, Name], Field(min_length=1, max_length=1024)]
    space: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1, max_length=3)]
    batch: Count
    conditions: Annotated[Tensor, CONDITIONS]
    keep: bool
    """Whether the coordinator may keep the site's masks."""
    few: bool = False
    """Whether it has too few patients to teach masks; others' masks serve it better."""


@final
class Judge(Message):
    """Coordinator: judge these synthetic images, painted from the conditions of `batch`.

    It sends these conditions along if they are of its choice (`masks.source` "given").
    """

    kind = "judge"
    step: Count
    batch: Count
    images: Annotated[Tensor, IMAGES]
    conditions: Annotated[Tensor, CONDITIONS] = NO_CONDITIONS


@final
class Judgement(Message):
    """Site: its loss's gradient with respect to those images, and its next batch's conditions."""

    kind = "judgement"
    step: Count
    losses: Annotated[dict[Name, Number], Field(max_length=32)]
    feedback: Annotated[Tensor, FEEDBACK]
    batch: Count
    conditions: Annotated[Tensor, CONDITIONS]


@final
class Describe(Message):
    """Coordinator: send the fingerprint of your data, from which a recipe is planned."""

    kind = "describe"


@final
class Described(Message):
    """Site: the fingerprint that its steward has seen, of images or of a table."""

    kind = "described"
    fingerprint: Fingerprint | Summary


class Answered(Message):
    """Site: what it found of a finished run, in figures over all of its patients."""

    what: ClassVar[str]
    asked: Digest
    found: AuditFigures | EvaluationFigures


@final
class Audited(Answered):
    """Site: what the attacks found."""

    kind = "audited"
    what = "audit"
    found: AuditFigures


@final
class Evaluated(Answered):
    """Site: how well the model did."""

    kind = "evaluated"
    what = "evaluation"
    found: EvaluationFigures


class Asked(Message):
    """Coordinator: find out something of this finished run, with your patients."""

    answer: ClassVar[type[Answered]]
    recipe: Annotated[str, Field(max_length=2**18)]
    facts: Annotated[str, Field(max_length=2**18)]


@final
class Audit(Asked):
    """Coordinator: attack what this generator paints from these masks."""

    kind = "audit"
    answer = Audited
    painting: Count
    faded: Annotated[list[Name], Field(max_length=64)]
    names: Annotated[
        list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,80}$")]], Field(max_length=MOST_MASKS)
    ]
    generator: Annotated[Tensor, FILE]
    masks: Annotated[Tensor, CONDITIONS]


@final
class Evaluate(Asked):
    """Coordinator: judge this model, trained on the synthetic set alone, on held-out patients."""

    kind = "evaluate"
    answer = Evaluated
    network: Name
    width: Annotated[int, Field(ge=1, le=WIDEST)]
    weights: Annotated[Tensor, FILE]


@final
class Save(Message):
    """Coordinator: keep your state of this step."""

    kind = "save"
    step: Count


@final
class Saved(Message):
    """Site: the state is kept."""

    kind = "saved"
    step: Count


@final
class Close(Message):
    """Coordinator: the run is over."""

    kind = "close"


@final
class Closed(Message):
    """Site: has left the run."""

    kind = "closed"


@final
class Refusal(Message):
    """Site: refuses a request, for a reason that reveals nothing of its data."""

    kind = "refusal"
    code: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]
    reason: Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


REQUESTS: Final[dict[str, type[Message]]] = {
    m.kind: m for m in (Open, Judge, Describe, Audit, Evaluate, Save, Close)
}
ANSWERS: Final[dict[str, type[Message]]] = {
    m.kind: m for m in (Card, Judgement, Described, Audited, Evaluated, Saved, Closed, Refusal)
}


@final
class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    kind: str = Field(max_length=32)
    fields: dict[str, Any]
    arrays: dict[str, "_ArrayHeader"] = Field(max_length=8)


@final
class _ArrayHeader(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    shape: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(max_length=5)
    coding: str
    size: int = Field(ge=0, lt=2**40)


def array_schemas(message: type[Message]) -> dict[str, ArraySchema]:
    """Schemas of the arrays of a kind of message, by field, in the order in which they travel."""
    return {
        name: next(item for item in field.metadata if isinstance(item, ArraySchema))
        for name, field in message.model_fields.items()
        if field.annotation is Tensor
    }


def pack(message: Message, codings: Mapping[str, Coding]) -> bytes:
    """Turns a message into bytes.

    `codings` are of its arrays, by field; label maps take the narrowest by default, files need
    none. Raises `WireError` if the schema does not allow a coding or shape, or the header is long.
    """
    arrays: dict[str, dict[str, object]] = {}
    bodies: list[bytes] = []
    for name, schema in array_schemas(type(message)).items():
        array: Tensor = getattr(message, name)
        narrow = label_coding(array) if schema is CONDITIONS else None
        only = schema.codings[0] if len(schema.codings) == 1 else narrow
        coding = codings[name] if only is None else codings.get(name, only)
        _check_array(name, tuple(array.shape), coding, schema)
        bodies.append(encode(array, coding))
        shape = list(array.shape)
        arrays[name] = {"shape": shape, "coding": coding, "size": len(bodies[-1])}
    fields = message.model_dump(exclude=set(arrays))
    header = {"kind": message.kind, "fields": fields, "arrays": arrays}
    encoded = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    if len(encoded) > HEADER_LIMIT:
        raise WireError(
            f"the header of '{message.kind}' has {len(encoded)} bytes; {HEADER_LIMIT} are allowed. "
            "Name fewer labels, modalities, columns or categories."
        )
    return b"".join([PREFIX.pack(MAGIC, VERSION, len(encoded)), encoded, *bodies])


def unpack(payload: bytes, expected: Mapping[str, type[Message]], *, limit: int) -> Message:
    """Reads a message from bytes.

    Raises `WireError` if they are not exactly one message of an `expected` kind (`REQUESTS` or
    `ANSWERS`), whose arrays take at most `limit` bytes once decoded.
    """
    header, start = _header(payload)
    if header.kind not in expected:
        raise WireError(f"a message of kind {header.kind!r} came; wanted one of {list(expected)}.")
    kind = expected[header.kind]
    schemas = array_schemas(kind)
    if list(header.arrays) != list(schemas):
        raise WireError(f"'{kind.kind}' carries arrays {list(schemas)}, in this order.")
    announced = 0
    for name, array in header.arrays.items():
        announced += _check_array(name, tuple(array.shape), array.coding, schemas[name])
    if announced > limit:
        raise WireError(f"'{kind.kind}' announces {announced} bytes; the limit is {limit}.")
    if start + sum(array.size for array in header.arrays.values()) != len(payload):
        raise WireError(f"'{kind.kind}' is not as long as its header says.")
    fields = dict(header.fields)
    for name, array in header.arrays.items():
        body = payload[start : start + array.size]
        fields[name] = decode(body, tuple(array.shape), array.coding)  # type: ignore[arg-type]  # _check_array has seen the coding
        start += array.size
    try:
        return kind.model_validate(fields)
    except (ValidationError, ValueError) as error:
        raise WireError(f"'{kind.kind}' has fields that its schema does not allow.") from error


def _header(payload: bytes) -> tuple[_Header, int]:
    if len(payload) < PREFIX.size:
        raise WireError(f"{len(payload)} bytes are no message.")
    magic, version, size = PREFIX.unpack_from(payload)
    if magic != MAGIC:
        raise WireError("these bytes are no message of asyndgan.")
    if version != VERSION:
        raise WireError(
            f"the message has version {version}; this party speaks {VERSION}. "
            "Install the same asyndgan at both ends."
        )
    if size > HEADER_LIMIT or PREFIX.size + size > len(payload):
        raise WireError(f"a header of {size} bytes is announced; {HEADER_LIMIT} are allowed.")
    try:
        # RecursionError: a header of deeply nested brackets.
        fields = json.loads(payload[PREFIX.size : PREFIX.size + size])
        return _Header.model_validate(fields), PREFIX.size + size
    except (ValueError, RecursionError) as error:
        raise WireError("the message's header is not what the schema says.") from error


def _check_array(name: str, shape: tuple[int, ...], coding: str, schema: ArraySchema) -> int:
    """Checks an array against its schema; returns the bytes that it takes once decoded.

    No axis may be empty: no valid message has such an array, and beside an empty axis the others
    could have any length without taking a byte.
    """
    if coding not in schema.codings:
        raise WireError(f"array '{name}' comes in {coding!r}; allowed: {list(schema.codings)}.")
    if not schema.ranks[0] <= len(shape) <= schema.ranks[1]:
        raise WireError(f"array '{name}' has {len(shape)} axes; allowed: {schema.ranks}.")
    if 0 in shape:
        raise WireError(f"array '{name}' has the shape {shape}; no axis may be empty.")
    return decoded_size(shape, coding)
