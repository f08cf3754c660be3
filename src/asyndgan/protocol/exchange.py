"""The coordinator's half of the protocol: asks every site at once, and counts every byte."""

import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import final

import torch

from asyndgan.errors import (
    AsyndganError,
    NotFiniteError,
    PolicyRefusedError,
    RefusedError,
    SiteUnreachableError,
    WireError,
)
from asyndgan.protocol.limits import message_limit
from asyndgan.protocol.transport import Transport
from asyndgan.recipe import Recipe
from asyndgan.wire.codec import Coding
from asyndgan.wire.messages import ANSWERS, Judge, Message, Refusal, pack, unpack


@final
@dataclass(frozen=True)
class Answers:
    """The sites' answers to one call of `Exchange.ask`."""

    answers: dict[str, Message] = field(default_factory=dict)  # in the order of the requests
    missed: dict[str, AsyndganError] = field(default_factory=dict)  # why others are missing


@final
class Exchange:
    """Asks sites, decodes what they answer, and counts bytes by (site, kind)."""

    def __init__(self, transport: Transport, recipe: Recipe) -> None:
        self.transport = transport
        self.recipe = recipe
        self.limit = message_limit(recipe)
        self.to_sites: Counter[tuple[str, str]] = Counter()
        self.from_sites: Counter[tuple[str, str]] = Counter()
        self.round_trip: dict[str, float] = {}  # seconds of each site's last answer
        self._threads = ThreadPoolExecutor(
            max_workers=64, thread_name_prefix="exchange", initializer=_one_thread
        )

    def ask(self, requests: Mapping[str, Message]) -> Answers:
        """Sends each site its request, all at once; a site that refuses counts as missed."""
        asked = {
            site: self._threads.submit(self._ask_one, site, request)
            for site, request in requests.items()
        }
        result = Answers()
        for site, future in asked.items():
            try:
                result.answers[site] = future.result()
            except AsyndganError as error:
                result.missed[site] = error
        return result

    def close(self) -> None:
        """Ends the threads; the transport is its maker's."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask_one(self, site: str, request: Message) -> Message:
        codings: dict[str, Coding] = {"images": self.recipe.wire.images}
        payload = pack(request, codings)
        if site not in self.transport.sites():
            raise SiteUnreachableError(f"site {site} is not connected.")
        self.to_sites[site, request.kind] += len(payload)
        asked = time.monotonic()
        reply = self.transport.send(site, payload, self.recipe.quorum.wait_s)
        self.round_trip[site] = time.monotonic() - asked
        try:
            answer = unpack(reply, ANSWERS, limit=self.limit)
        except WireError as error:
            self.from_sites[site, "malformed"] += len(reply)
            raise WireError(f"site {site}: {error}") from error
        self.from_sites[site, answer.kind] += len(reply)
        if isinstance(answer, Refusal):
            if answer.code == "not_finite" and isinstance(request, Judge):
                raise NotFiniteError(f"site {site}, step {request.step}: {answer.reason}")
            kind = PolicyRefusedError if answer.code == "policy" else RefusedError
            raise kind(f"site {site} refused '{request.kind}': {answer.reason}")
        if answer.run != request.run:
            raise WireError(f"site {site} answered for another run.")
        return answer


def _one_thread() -> None:
    # Sites in this process compute in these threads, so each gets one core (see traps in
    # docs/architecture.md). The setting applies to the calling thread only.
    torch.set_num_threads(1)
