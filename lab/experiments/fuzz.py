"""Fuzzes the wire: mutated messages must be read or refused by one of our errors.

    python -m lab.experiments.fuzz --messages 1000000

Each message is read as a coordinator reads an answer, and given to a site at work, which answers it
or refuses it. Prints the count of each outcome, the time of the slowest message and the memory that
they took; exits with 1 if the site met a fault that it had not foreseen.
"""

import argparse
import json
import logging
import random
import resource
import sys
import time
import warnings
from collections import Counter
from typing import Any, Final

import torch

from asyndgan.errors import AsyndganError
from asyndgan.protocol import Endpoint
from asyndgan.recipe.fingerprint import Fingerprint, ModalityFigures
from asyndgan.runs import load_recipe
from asyndgan.store import Cohort
from asyndgan.training import Site
from asyndgan.wire.codec import Coding
from asyndgan.wire.messages import (
    ANSWERS,
    PREFIX,
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

LIMIT = 2**20
CODINGS: Final[dict[str, Coding]] = {"images": "uint8", "feedback": "int8", "conditions": "label8"}
WILD: Final[tuple[Any, ...]] = (
    -1, 0, 1, 2**31, 2**63, 2**64, 1e308, None, True, "", "x" * 99, [], {}, [[[]]], "∞", "\x00",
)  # fmt: skip


NUMBERS = (-1, 0, 1, 2, 3, 4, 5, 255, 2**31 - 1, 2**31, 2**53, 2**63 - 1)
FLOATS = (0.0, -1.0, 0.5, 1.0, 1e-30, 1e30, float("inf"), float("nan"))
SHAPES = ((2, 1, 16, 16), (1, 1, 16, 16), (2, 2, 16, 16), (2, 1, 16, 15), (2, 16, 16), (0,), (2,))


def seeds() -> list[Message]:
    """One real message of each kind."""
    masks = torch.zeros(2, 16, 16, dtype=torch.int64)
    images = torch.zeros(2, 1, 16, 16)
    return [
        Open(run="1f", recipe="0" * 64, step=3),
        Judge(run="1f", step=3, batch=4, images=images),
        Save(run="1f", step=3),
        Saved(run="1f", step=3),
        Describe(run="1f"),
        Close(run="1f"),
        Closed(run="1f"),
        Card(
            run="1f", step=3, cases=9, share=1.5, modalities=["T1"], parts=[1.0],
            labels={"0": "background"},
            space=[16, 16], batch=4, conditions=masks, keep=True,
        ),
        Judgement(
            run="1f", step=3, losses={"adversarial": 0.5}, feedback=images, batch=5,
            conditions=masks,
        ),
        Described(
            run="1f", fingerprint=Fingerprint(modalities=(ModalityFigures(name="T1"),), spaced=True)
        ),
        Refusal(run="1f", code="order", reason="no"),
    ]  # fmt: skip


def packed(message: Message) -> bytes:
    """A message in a site's codings."""
    codings = {k: v for k, v in CODINGS.items() if hasattr(message, k)}
    return pack(message, codings)


def altered(message: Message, draw: random.Random) -> bytes:
    """A whole message, one of whose fields says something else of the same type."""
    name = draw.choice([name for name in type(message).model_fields if name != "kind"])
    value = getattr(message, name)
    if isinstance(value, torch.Tensor):
        shape = draw.choice([tuple(value.shape), *SHAPES])
        filling = draw.choice(FLOATS if value.is_floating_point() else NUMBERS[1:9])
        value = torch.full(shape, filling, dtype=value.dtype)
    elif isinstance(value, str):
        value = draw.choice(["", "1f", "2e", "0" * 64, "x" * 300, "é\n\x00"])
    elif isinstance(value, bool | int):
        value = draw.choice(NUMBERS)
    elif isinstance(value, float):
        value = draw.choice(FLOATS)
    elif isinstance(value, dict):
        value = draw.choice([{}, {"adversarial": float("nan")}, {"1": "a", "0": "b"}])
    else:
        value = draw.choice([[], [0.0], [float("nan")], [16, 16], ["T1", "T1"]])
    try:
        return packed(message.model_copy(update={name: value}))
    except (AsyndganError, ArithmeticError, TypeError, ValueError, RuntimeError):
        return packed(message)  # whoever packs messages as we do cannot even write this one


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


def site() -> tuple[Endpoint, list[Message]]:
    """A small site at work, and requests that it takes: to open a run and to judge a batch."""
    small = (
        "image.size=16", "generator.width=4", "generator.blocks=1", "discriminator.width=4",
        "discriminator.layers=1", "training.batch=2", 'wire.images="uint8"', "masks.source=own",
    )  # fmt: skip
    recipe = load_recipe("demo", small)
    masks = torch.randint(2, (12, 16, 16), generator=torch.Generator().manual_seed(0))
    cohort = Cohort(
        masks[:, None] - 0.5, masks, modalities=["T1"], labels={0: "background", 1: "lesion"},
        seed=0, flip=recipe.training.flip, move=recipe.training.move,
    )  # fmt: skip
    endpoint = Endpoint(Site("site", cohort, recipe), limit=LIMIT)
    opening = Open(run="1f", recipe=recipe.digest(), step=0)
    card = unpack(endpoint.answer(packed(opening)), ANSWERS, limit=LIMIT)
    assert isinstance(card, Card)
    judge = Judge(run="1f", step=0, batch=card.batch, images=torch.zeros(2, 1, 16, 16))
    return endpoint, [opening, judge]


def most_resident() -> int:
    """The most memory that this process has held so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Has the requested number of mutated messages read and answered; prints the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable()  # a site logs the reason of every refusal
    warnings.simplefilter("ignore")  # of fields that were altered on purpose
    draw, (endpoint, requests) = random.Random(arguments.seed), site()
    originals = [*seeds(), *requests]
    wires = [packed(message) for message in originals]
    endpoint.answer(wires[-1])  # what torch takes for its first step is no message's doing
    read, answered = Counter[str](), Counter[str]()
    slowest, before, half = 0.0, most_resident(), 0
    for number in range(arguments.messages):
        if number == arguments.messages // 2:
            half = most_resident()
        if number % 2000 == 0:  # so that the messages find a run that has begun
            endpoint.answer(wires[-2])
        if draw.random() < 0.3:
            payload = altered(draw.choice(originals), draw)
        else:
            payload = draw.choice(wires)
            for _ in range(draw.randint(1, 3)):
                payload = mutated(payload, draw) if len(payload) > PREFIX.size + 8 else payload
        begun = time.perf_counter()
        try:
            read[unpack(payload, ANSWERS, limit=LIMIT).kind] += 1
        except AsyndganError as error:
            read[type(error).__name__] += 1
        answer = unpack(endpoint.answer(payload), ANSWERS, limit=LIMIT)
        answered[f"refused: {answer.code}" if isinstance(answer, Refusal) else answer.kind] += 1
        slowest = max(slowest, time.perf_counter() - begun)
    print("as a coordinator:", dict(read.most_common()))
    print("as a site:", dict(answered.most_common()))
    print(
        f"slowest message {1000 * slowest:.1f} ms, process grown by "
        f"{most_resident() - before} KiB, {most_resident() - half} KiB of it in the second half"
    )
    # "internal" is a fault that no part of the site has foreseen.
    sys.exit(bool(answered["refused: internal"]))


if __name__ == "__main__":
    main()
