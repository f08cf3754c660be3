"""A site that is killed at any moment has sent nothing that its ledger does not show."""

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable

import torch

from asyndgan.engines import SiteSetup
from asyndgan.engines.processes import Processes
from asyndgan.errors import AsyndganError
from asyndgan.privacy.accounting import Account
from asyndgan.privacy.ledger import read
from asyndgan.protocol import message_limit
from asyndgan.recipe import Recipe
from asyndgan.wire.messages import ANSWERS, Card, Judge, Judgement, Message, Open, pack, unpack

CRASHES = int(os.environ.get("ASYNDGAN_CRASHES", "2"))
"""How often the site is killed: 200 take a quarter of an hour."""


def talk(send: Callable[[Message], Message], recipe: Recipe) -> None:
    """Steps without end; only what is sent counts, not what is learned."""
    answer = send(Open(run="1f", recipe=recipe.digest(), step=0))
    while isinstance(answer, (Card, Judgement)):
        images = torch.zeros(recipe.training.batch, 3, *recipe.image.size)
        step = answer.step + isinstance(answer, Judgement)
        answer = send(Judge(run="1f", step=step, batch=answer.batch, images=images))


PRIVATE = (
    "privacy.kind=discriminator", "privacy.conditions=unprotected", "privacy.updates=2",
    "masks.release=false",
)  # fmt: skip


def test_whatever_left_a_site_that_was_killed_stands_in_its_ledger_and_its_account(
    tiny, phantoms, tmp_path
):
    recipe = tiny("image.size=32", "training.steps=1000000", *PRIVATE)
    setup = SiteSetup("north", phantoms["north"], tmp_path)
    transport = Processes([setup], recipe, restart_after_s=float("inf"))
    draw, left = random.Random(0), []

    def send(request):
        payload = pack(request, {"images": recipe.wire.images})
        begun = time.monotonic()
        left.append(transport.send("north", payload, 60.0))
        if len(left) == last:  # at any moment of the next answer, or soon after it
            pid = transport.pid("north")
            assert pid
            wait = draw.uniform(0, 1.5 * (time.monotonic() - begun))
            threading.Timer(wait, os.kill, (pid, signal.SIGKILL)).start()
        return unpack(left[-1], ANSWERS, limit=message_limit(recipe))

    try:
        for crash in range(CRASHES):
            last = len(left) + draw.randint(2, 5)
            if crash:
                transport.start("north")
            try:
                talk(send, recipe)
            except AsyndganError:
                continue  # it is gone
    finally:
        transport.close()
    shown = {entry.payload for entry in read(tmp_path / "ledger.jsonl")}
    assert {hashlib.sha256(payload).hexdigest() for payload in left} <= shown
    kinds = [type(unpack(one, ANSWERS, limit=message_limit(recipe))) for one in left]
    assert kinds.count(Judgement) >= CRASHES
    account = Account(tmp_path / "privacy.json", None, epsilon=None, delta=1e-5)
    assert sum(account.spent.values()) >= 2 * kinds.count(Judgement)  # two updates an answer
