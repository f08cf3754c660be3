"""Fuzzes the wire format: mutated messages must parse or raise one of our errors.

    python benchmarks/fuzz.py --messages 1000000

Prints the count of each outcome, the time of the slowest message and the peak of Python's memory.
"""

import argparse
import json
import random
import time
import tracemalloc
from collections import Counter

import torch

from asyndgan.errors import AsyndganError
from asyndgan.wire import (
    ANSWERS,
    REQUESTS,
    Appraisal,
    Appraise,
    Card,
    Judge,
    Judgement,
    Measured,
    Message,
    Open,
    Refusal,
    Save,
    pack,
    unpack,
)
from asyndgan.wire.messages import PREFIX

LIMIT = 2**20
CODINGS = {
    "images": "uint8", "feedback": "int8", "conditions": "label8", "total": "float64",
    "squares": "float64", "odds": "float64",
}  # fmt: skip
WILD = (-1, 0, 1, 2**31, 2**63, 2**64, 1e308, None, True, "", "x" * 99, [], {}, [[[]]], "∞", "\x00")


def seeds() -> list[bytes]:
    """One real message of each kind."""
    masks = torch.zeros(2, 16, 16, dtype=torch.int64)
    images, moments = torch.zeros(2, 1, 16, 16), torch.ones(9, dtype=torch.float64)
    messages: list[Message] = [
        Open(run="1f", recipe="0" * 64, step=3),
        Judge(run="1f", step=3, batch=4, images=images),
        Save(run="1f", step=3),
        Card(
            run="1f", step=3, cases=9, share=1.5, modalities=["T1"], parts=[1.0],
            labels={"0": "background"},
            space=[16, 16], batch=4, conditions=masks, keep=True,
        ),
        Judgement(
            run="1f", step=3, losses={"adversarial": 0.5}, feedback=images, batch=5,
            conditions=masks,
        ),
        Appraise(
            run="1f", step=3, batch=4, place=0, shares=[1.0], images=images, conditions=masks
        ),
        Appraisal(
            run="1f", step=3, losses={}, odds=moments[:2], feedback=images, batch=5,
            conditions=masks,
        ),
        Measured(run="1f", count=9, total=moments, squares=moments),
        Refusal(run="1f", code="order", reason="no"),
    ]  # fmt: skip
    return [pack(message, {k: v for k, v in CODINGS.items() if hasattr(message, k)})  # type: ignore[misc]
            for message in messages]  # fmt: skip


def mutated(payload: bytes, draw: random.Random) -> bytes:
    """A mutation: bytes changed, cut off, repeated or inserted, or header values replaced."""
    kind = draw.randrange(6)
    if kind == 0:
        content = bytearray(payload)
        for _ in range(draw.randint(1, 8)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        return bytes(content)
    if kind == 1:
        return payload[: draw.randrange(len(payload))]
    if kind == 2:
        place = draw.randrange(len(payload))
        return payload[:place] + draw.randbytes(draw.randint(1, 64)) + payload[place:]
    if kind == 3:
        return payload + payload[draw.randrange(len(payload)) :]
    magic, version, length = PREFIX.unpack_from(payload)
    try:
        header = json.loads(payload[PREFIX.size : PREFIX.size + length])
    except ValueError:
        return payload  # an earlier mutation broke the header
    place = header
    while isinstance(place, dict) and place:
        key = draw.choice(list(place))
        if not isinstance(place[key], dict) or draw.random() < 0.3:
            place[key] = draw.choice(WILD)
            break
        place = place[key]
    text = json.dumps(header).encode()
    return PREFIX.pack(magic, version, len(text)) + text + payload[PREFIX.size + length :]


def main() -> None:
    """Unpacks the requested number of mutated messages and prints the outcomes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw, originals = random.Random(arguments.seed), seeds()
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    tracemalloc.start()
    for _ in range(arguments.messages):
        payload = draw.choice(originals)
        for _ in range(draw.randint(1, 3)):
            payload = mutated(payload, draw) if len(payload) > PREFIX.size + 8 else payload
        for schema in (REQUESTS, ANSWERS):
            begun = time.perf_counter()
            try:
                outcomes[unpack(payload, schema, limit=LIMIT).kind] += 1
            except AsyndganError as error:
                outcomes[type(error).__name__] += 1
            slowest = max(slowest, time.perf_counter() - begun)
    print(dict(outcomes.most_common()))
    print(
        f"slowest message {1000 * slowest:.1f} ms, peak {tracemalloc.get_traced_memory()[1]} bytes"
    )


if __name__ == "__main__":
    main()
