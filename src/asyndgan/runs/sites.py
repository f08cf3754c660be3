"""A run's sites: the cases that they trained with, and the patients whom they held out."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from asyndgan.data import Case
from asyndgan.data.description import describe
from asyndgan.data.prepare import load_cases
from asyndgan.data.splits import OPEN, Chooser, held_out_by
from asyndgan.engines.setup import chooser_at
from asyndgan.errors import RunError
from asyndgan.runs import RunFacts, RunFolder


def choosers_of(
    run: RunFolder, sites: Iterable[str], states: Mapping[str, Path] | None = None
) -> dict[str, Chooser]:
    """How the sites of a run chose the patients whom they held out.

    Args:
        run: a run.
        sites: names of the sites; those that took no part are left out.
        states: folder in which a site keeps its states of the run, by the site's name; a site that
            is not named is taken for a simulated one, which keeps them in the run's folder.

    Raises:
        RunError: the run held patients out, and a site's states are not there.
    """
    if not run.recipe().training.hold_out:
        return {}
    found = {}
    for site in set(sites) & set(run.facts().sites):
        state = (states or {}).get(site, run.site_state(site))
        chooser = chooser_at(state)
        if chooser is None:
            raise RunError(
                f"{state} holds no states of {site}, without which nobody can tell whom it held "
                f"out. Say where they are with --state (KIT/runs/RUN in a federation)."
            )
        found[site] = chooser
    return found


def kept(
    run: RunFolder, cases: Mapping[str, Sequence[Case]], choosers: Mapping[str, Chooser]
) -> dict[str, list[Case]]:
    """The cases that each site trained on, of all that it has."""
    recipe = run.recipe()
    return {
        site: held_out_by(recipe, own, choosers.get(site, OPEN))[0] for site, own in cases.items()
    }


def held_in(run: RunFolder, sites: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    """The modalities with which each of these sites took part in a run, or would have."""
    facts = run.facts()
    return {
        site: tuple(facts.sites[site]["modalities"])
        if site in facts.sites
        else tuple(name for name in facts.modalities if name in describe(data).modalities)
        for site, data in sites.items()
    }


def as_trained(
    run: RunFolder, sites: Mapping[str, Path], patient_pattern: str
) -> dict[str, list[Case]]:
    """All cases with which these sites took part in a run, or would have, held-out ones too."""
    held = held_in(run, sites)
    return {
        site: load_cases(
            data, run.recipe().image, held[site], patient_pattern=patient_pattern, unmasked=False,
            incomplete=True,
        )
        for site, data in sites.items()
    }  # fmt: skip


def had_in(facts: RunFacts) -> dict[str, int]:
    """How many cases each site of a run had; without a site whose policy hides that and says 1."""
    return {site: about["cases"] for site, about in facts.sites.items() if about["cases"] != 1}
