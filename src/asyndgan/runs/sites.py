"""A run's sites: the cases that they trained with, and the patients whom they held out."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self, final

from asyndgan.engines.setup import SiteSetup, chooser_at, load_cohort
from asyndgan.errors import RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.store import Case
from asyndgan.store.splits import OPEN, Chooser, held_out_by
from asyndgan.tables.schema import is_table
from asyndgan.training.checkpoint import place_holding
from asyndgan.wire.messages import CASES_WITHHELD


@final
@dataclass(frozen=True)
class Participation:
    """How sites took part in a run, which determines their held-out patients."""

    # all cases of a site, held-out ones among them, where others are loaded
    trained: Mapping[str, Sequence[Case]] = field(default_factory=dict)
    choosers: Mapping[str, Chooser] = field(default_factory=dict)  # of a site's held-out patients
    # number of these cases, of each site whose policy does not hide it
    had: Mapping[str, int] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class RunSites:
    """Sites whose data are at hand, and a run that they took part in, or could have."""

    run: RunFolder
    data: Mapping[str, DataSet]  # of each site, by its name
    # folder in which a site keeps its states of the run, by the site's name; not named: a simulated
    # site, which keeps them in the run's folder
    states: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def opened(
        cls,
        run: RunFolder,
        folders: Mapping[str, Path],
        *,
        states: Mapping[str, Path] | None = None,
    ) -> Self:
        """Opens the sites' folders; raises `RunError` if one is a table."""
        if tables := [folder for folder in folders.values() if is_table(folder)]:
            raise RunError(f"{tables[0]} is a table, and this run paints images. Name images.")
        data = {site: DataSet(folder) for site, folder in folders.items()}
        return cls(run, data, states or {})

    def check_patterns(self) -> None:
        """As `RunFacts.check_patterns`, of these data."""
        patterns = {site: data.info.patient_pattern for site, data in self.data.items()}
        self.run.facts().check_patterns(patterns)

    def as_trained(self, sites: Collection[str] | None = None) -> dict[str, list[Case]]:
        """All cases with which these sites (None: all) took part, or would have; also held-out."""
        facts, image = self.run.facts(), self.run.recipe().image
        found = {}
        for site, data in self.data.items():
            if sites is not None and site not in sites:
                continue
            held = tuple(name for name in facts.modalities if name in data.info.modalities)
            if site in facts.sites:
                held = tuple(facts.sites[site]["modalities"])
            found[site] = data.cases(image, held, unmasked=False, incomplete=True)
        return found

    def kept(self) -> dict[str, list[Case]]:
        """The cases that each site trained on, of all that it has."""
        recipe, choosers = self.run.recipe(), choosers_of(self.run, self.data, self.states)
        return {
            site: held_out_by(recipe, own, choosers.get(site, OPEN))[0]
            for site, own in self.as_trained().items()
        }

    def as_in_run(self, site: str) -> SiteSetup:
        """A site without the modalities of its folder that it did not use in the run."""
        data = self.data[site]
        held = self.run.facts().sites[site]["modalities"]
        unused = tuple(name for name in data.info.modalities if name not in held)
        state = self.states.get(site, self.run.site_state(site))
        return SiteSetup(site, data.folder, state, without=unused)

    def changed(self) -> list[str]:
        """Sites whose cases here are not those that they trained on, as far as their states tell.

        Raises:
            RunError: the cases of one site are given as those of another.
            DataError, CohortError: as `load_cohort`.
        """
        facts, recipe = self.run.facts(), self.run.recipe()
        whole = recipe.image.model_copy(update={"slices": "all"})

        @cache
        def members(site: str) -> str:
            data = self.data[site]
            held = [m for m in facts.sites[site]["modalities"] if m in data.info.modalities]
            data.cases(whole, held, unmasked=False, incomplete=True)  # later requests need no file
            return load_cohort(self.as_in_run(site), recipe, data=data).members

        folders = {site: data.folder for site, data in self.data.items()}
        return changed_sites(self.run, folders, self.states, lambda site, _: members(site))

    def participation(self, *, trained: Collection[str] = ()) -> Participation:
        """How these sites took part, with the cases of those that are named in `trained`."""
        sites = self.run.facts().sites
        return Participation(
            self.as_trained(trained),
            choosers_of(self.run, self.data, self.states),
            {site: own["cases"] for site, own in sites.items() if own["cases"] != CASES_WITHHELD},
        )


def changed_sites(
    run: RunFolder,
    data: Mapping[str, Path],
    states: Mapping[str, Path],
    members: Callable[[str, str], str],
) -> list[str]:
    """Sites whose members are not those that they trained on; see `RunSites.changed`.

    `data` may name others than the run's sites; `members` is called for the digest of the data of a
    site as the site that is named next would have it.
    """
    digest, trained = run.recipe().digest(), {}
    for site in (own for own in data if own in run.facts().sites):
        held = place_holding(states.get(site, run.site_state(site)), run.facts().run)
        if held and held[1].get("recipe") == digest:
            trained[site] = held[1].get("members")
    changed = []
    for site, known in trained.items():
        if members(site, site) == known:
            continue
        if others := [other for other, its in trained.items() if members(site, other) == its]:
            raise RunError(
                f"the data of {site}, {data[site]}, are those that {others[0]} was trained on. "
                "Name with --site the data that each site had."
            )
        changed.append(site)
    return changed


def told_of_sites(facts: RunFacts, sites: Collection[str], changed: Sequence[str]) -> str:
    """What a reader of an evaluation must know of its sites, and of those that have `changed`."""
    told = []
    if set(sites) != set(facts.sites):
        told.append(
            f"'All real' and 'all sites' mean {', '.join(sorted(sites))} alone; the generator was "
            f"taught by {', '.join(sorted(facts.sites))}."
        )
    if changed:
        told.append(
            f"The data of {', '.join(changed)} are not those that the run was trained on: they "
            "have changed since, or are other data."
        )
    return " ".join(told)


def choosers_of(
    run: RunFolder, sites: Collection[str], states: Mapping[str, Path] | None = None
) -> dict[str, Chooser]:
    """How those sites that took part in a run chose whom they held out; `states` as `RunSites`.

    Raises `RunError` if the run held patients out and a site's states are not there, or if states
    are of a site that is not named.
    """
    if stray := set(states or {}) - set(sites):
        raise RunError(f"--state names {', '.join(sorted(stray))}, which --site does not.")
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
