"""The finished run that another run starts from: its generator's weights are where it begins."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

from torch import nn

from asyndgan.errors import RunError
from asyndgan.recipe import Recipe
from asyndgan.recipe.table import TableSection
from asyndgan.runs.facts import RunFacts, StartFacts
from asyndgan.runs.folder import RunFolder
from asyndgan.texts import NAME_LENGTH
from asyndgan.training import Coordinator
from asyndgan.training.inheriting import inherit
from asyndgan.training.steps import stored_steps


@final
@dataclass(frozen=True)
class Start:
    """A finished run to start from: the name of its folder, and its averaged generator."""

    name: str
    recipe: Recipe
    facts: RunFacts
    generator: nn.Module

    @classmethod
    def of(cls, folder: RunFolder, recipe: Recipe, sites: Collection[str]) -> Self:
        """Opens a run for a new one; raises `RunError` if that cannot begin with its generator."""
        source, where = folder.recipe(), f"the run to start from, {folder.path},"
        ours, theirs = recipe.generator.kind, source.generator.kind
        if ours != theirs:
            raise RunError(
                f"{where} has a generator of kind '{theirs}', and recipe '{recipe.name}' one of "
                f"kind '{ours}'. Set generator.kind to '{theirs}', or start from another run."
            )
        if recipe.table and source.table and _columns(recipe.table) != _columns(source.table):
            raise RunError(
                f"{where} makes records of other columns or categories than recipe "
                f"'{recipe.name}'. Start from a run of the same table, or without one."
            )
        if recipe.privacy.kind != "none" and source.privacy.kind == "none":
            raise RunError(
                f"{where} was trained without differential privacy, so epsilon of recipe "
                f"'{recipe.name}' would not cover what its generator learned of patients. Start "
                "from a run with privacy, or without one."
            )
        parts = [_held_out(one) for one in (source, recipe)]
        if recipe.training.hold_out and parts[0] != parts[1] and {*folder.facts().sites} & {*sites}:
            raise RunError(
                f"{where} trained on patients that recipe '{recipe.name}' would hold out, to judge "
                f"on later. Set training.hold_out to {source.training.hold_out:g} and "
                f"training.hold_out_seed to {source.training.hold_out_seed}, as there, and judge "
                "on patients that neither run trained on."
            )
        generator = folder.generator()
        name = "".join(filter(str.isprintable, folder.path.resolve().name))
        return cls(name[:NAME_LENGTH] or "a run", source, folder.facts(), generator)

    @property
    def sites(self) -> list[str]:
        """Sites that its generator learned from, over all runs that it started from."""
        start = self.facts.start
        return sorted({*self.facts.sites, *(start["sites"] if start else ())})

    def begin(self, coordinator: Coordinator) -> StartFacts:
        """Puts the weights into the generator of a new run; returns what `run.json` says of it.

        Raises `RunError` if no layer fits.
        """
        scope = coordinator.scope
        found = inherit(coordinator.generator, scope, self.generator, self.facts.scope)
        if not found.whole + found.part:
            changed = [c for c in self.recipe.changes(coordinator.recipe) if "generator." in c]
            raise RunError(
                f"no layer of {self.name}, the run to start from, fits: {'; '.join(changed)}. Set "
                "these keys as there, or start without it."
            )
        coordinator.average.load_state_dict(coordinator.generator.state_dict())
        took = found.told(self.name)
        if coordinator.recipe.privacy.kind != "none":
            took += f"; the epsilon of {self.name} adds to that of this run"
        coordinator.events.append(took)
        return {
            "run": self.name,
            "generator_sha256": self.facts.generator_sha256,
            "steps": self.facts.all_steps,
            "sites": self.sites,
            "took": took,
        }


def _held_out(recipe: Recipe) -> tuple[float, int, bool]:
    """What fixes the patients that a recipe holds out (`data.splits.held_out_by`)."""
    training = recipe.training
    return training.hold_out, training.hold_out_seed, recipe.privacy.kind != "none"


def _columns(table: TableSection) -> object:
    """What fixes the numbers of a record; knots only scale them."""
    return table.target, [column.model_copy(update={"knots": ()}) for column in table.columns]


def start_of(
    run: Path | None, folder: RunFolder, recipe: Recipe, sites: Collection[str]
) -> Start | None:
    """The run that the run in `folder` starts from; None: it has a checkpoint, or begins anew.

    Raises `RunError` as `Start.of`, or if the run goes on and began without another one.
    """
    if not run or not stored_steps(folder.checkpoints):
        return Start.of(RunFolder(run), recipe, sites) if run else None
    if not folder.facts().start:
        raise RunError(
            f"the run in {folder.path} did not start from another one, and goes on from its own "
            f"checkpoint: leave {run} out."
        )
    return None
