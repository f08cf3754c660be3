"""What travelled between the sites and the coordinator, in bytes; the page says in words what."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from asyndgan.reports.words import DASH, size
from asyndgan.runs import RunFacts
from asyndgan.wire import Judge, Judgement

Counts = Mapping[str, Mapping[str, int]]
"""Bytes by site and kind of message."""


class Traffic(NamedTuple):
    """Content of the page's section on traffic.

    Attributes:
        left: bytes that sites sent, by site and kind.
        came: bytes that sites received, likewise.
        left_step: mean bytes of a site's answer per step, as text; a dash if no step was answered.
        came_step: mean bytes of a request to a site per step, likewise.
        steps: `left_step` of each site.
        losses: whether losses of any site arrived.
        silent: sites that answered without losses.
    """

    left: Counts
    came: Counts
    left_step: str
    came_step: str
    steps: dict[str, str]
    losses: bool
    silent: list[str]


def read_traffic(facts: RunFacts, records: Sequence[Mapping[str, Any]]) -> Traffic:
    """Summarises the traffic that a run counted.

    Args:
        facts: facts of the run.
        records: records of metrics.jsonl, which tell how many steps each site answered, and with
            which losses.
    """
    answered = {site: sum(site in record["losses"] for record in records) for site in facts.sites}
    reported = {site for record in records for site, own in record["losses"].items() if own}
    return Traffic(
        left=facts.left_sites,
        came=facts.came_to_sites,
        left_step=_a_step(facts.left_sites, Judgement.kind, answered),
        came_step=_a_step(facts.came_to_sites, Judge.kind, answered),
        steps={
            site: _a_step(facts.left_sites, Judgement.kind, {site: count})
            for site, count in answered.items()
        },
        losses=bool(reported),
        silent=[site for site, count in answered.items() if count and site not in reported],
    )


def total(counts: Counts) -> int:
    """Bytes of all sites and kinds."""
    return sum(sum(kinds.values()) for kinds in counts.values())


def _a_step(counts: Counts, kind: str, answered: Mapping[str, int]) -> str:
    steps = sum(answered.values())
    spent = sum(counts.get(site, {}).get(kind, 0) for site in answered)
    return size(spent / steps) if steps else DASH
