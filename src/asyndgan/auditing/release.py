"""Whether audits permit a release: what images and records have in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from asyndgan.errors import RunError
from asyndgan.runs.facts import RunFacts

THIS: Final = "this audit"
"""What a page calls the audit that it tells of."""


def began_elsewhere(facts: RunFacts) -> str:
    """That no audit covers sites of the run that this one started from; empty if all are here."""
    if not facts.start or not (gone := set(facts.start["sites"]) - set(facts.sites)):
        return ""
    return (
        f"its generator began with that of {facts.start['run']}, which learned from "
        f"{', '.join(sorted(gone))}, and no audit of this run covers them. Start from a run of the "
        "same sites, or train anew"
    )


class OfSites(Protocol):
    """An audit of members of some sites."""

    @property
    def confirmed(self) -> Mapping[str, bool]:
        """By site of members, whether its own state confirms that they took part."""


A = TypeVar("A", bound=OfSites)


def first_refusal(refusal: Callable[[A, str], str], audit: A, beside: Sequence[A]) -> str:
    """Why these audits permit no release; empty if each permits one of what it covers.

    Args:
        refusal: tells this of one audit and its name.
        audit: the one that a page tells of.
        beside: others, of other sites.
    """
    others = ((one, f"the audit of {', '.join(sorted(one.confirmed))}") for one in beside)
    try:
        return next(filter(None, (refusal(*each) for each in ((audit, THIS), *others))), "")
    except RunError as error:  # such as of a run that was copied without its generator
        return str(error).rstrip(".")


def said_by(name: str, objection: str) -> str:
    """An audit's objection, if it has one, with the audit's name if a page tells of another."""
    return objection if name == THIS or not objection else f"{name} says {objection}"


def unconfirmed(confirmed: Mapping[str, bool], name: str) -> str:
    """That members in an audit of this name are not known to have taken part; empty if all are.

    Args:
        confirmed: by site of members, whether its own state confirms that they took part.
        name: of the audit.
    """
    if sites := [site for site, known in confirmed.items() if not known]:
        return (
            f"{name} compares members of {', '.join(sites)} without knowing whether they took "
            "part. Audit where these sites' states of the run are, with --state SITE=FOLDER"
        )
    return ""
