"""The events of a run in words, as terminals, logs, `metrics.jsonl` and the report show them."""

from typing import assert_never

from asyndgan.texts import LONGEST_NEWS
from asyndgan.training import events
from asyndgan.training.events import Event, OfSite


def line_of(event: Event) -> str:
    """An event as one line of text, cut where names from a site's card make it too long."""
    line = event.took if isinstance(event, events.Started) else _line_of(event)
    return line[:LONGEST_NEWS]


def _line_of(event: OfSite) -> str:
    site = event.site
    match event:
        case events.Absent(reason=reason):
            return f"{site} is not there: {reason}"
        case events.Missed(reason=reason):
            return f"missed {site}: {reason.removeprefix(f'site {site}: ')}"
        case events.TurnedAway(reason=reason):
            return f"{site} is not back: {reason}"
        case events.Joined(steps=0):
            return f"{site} is there, with a new discriminator"
        case events.Joined(steps=steps):
            return f"{site} is back, with its discriminator of step {steps}"
        case events.Comes():
            return f"{site} comes, as the timeline says"
        case events.Leaves():
            return f"{site} leaves, as the timeline says"
        case events.StaysAway(reason=reason):
            return f"{site} does not come, as the timeline says: {reason}"
        case events.NotConnected():
            return f"{site} is due, as the timeline says, and is not connected"
        case events.FellBack(step=step, wanted=wanted):
            return (
                f"{site} resumes from its step {step}, not from {wanted}: "
                "its checkpoint of that step is gone"
            )
        case events.KeepsNoMasks():
            return (
                f"{site} lets no masks be kept: none of its masks is painted from after the run, "
                "and nothing reminds the generator of it once it has left"
            )
        case events.Outweighs(declared=declared, part=part):
            return f"{site} declares a share of {declared:g}, and counts for {part:.0%} from now on"
        case events.Loud(step=step, times=times):
            return (
                f"{site}: the feedback of step {step} is {times:.0f} times as strong as the median "
                "of all sites' (its norm; it was used as it is)"
            )
        case events.NoCheckpoint(reason=reason):
            return f"{site} kept no checkpoint: {reason}"
    assert_never(event)
