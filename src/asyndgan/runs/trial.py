"""Whether a run is a trial: trained for fewer steps than its recipe is meant for."""

from typing import TYPE_CHECKING, Final

from asyndgan.recipe import Recipe
from asyndgan.recipe.planning import BASE, LEFT_OPEN, NAME
from asyndgan.recipe.table import base_steps
from asyndgan.runs.recipes import load_recipe, recipe_names

if TYPE_CHECKING:
    from asyndgan.runs.facts import RunFacts

NO_RESULT: Final = "It has not learned what its recipe is meant to teach, so no figure is a result."


def trial_of(facts: "RunFacts", recipe: Recipe) -> str:
    """That a run is a trial: "Trial run: 60 of 3,000 steps"; empty if it is none."""
    planned = steps_short_of(facts, recipe)
    return f"Trial run: {facts.all_steps:,} of {planned:,} steps" if planned else ""


def steps_short_of(facts: "RunFacts", recipe: Recipe) -> int:
    """Steps that this run should have trained for; 0 if it did.

    A finished run is compared with the shipped recipe of the same name, a planned one with what
    plans begin with, another also with its own recipe. The rule `left open` sets more steps: fewer
    of them are no trial (docs/plan.md), so they are only named as what is wanted. Steps of a run
    that this one started from count.
    """
    name = BASE if recipe.name == NAME else recipe.name
    if recipe.table:
        shipped = base_steps()
    else:
        shipped = load_recipe(name).training.steps if name in recipe_names() else 0
    own = recipe.training.steps + facts.all_steps - facts.steps
    least = max(shipped, 0 if facts.state == "finished" else own)
    if facts.all_steps >= least:
        return 0
    kind, steps = LEFT_OPEN[("discriminator", "kind")], LEFT_OPEN[("training", "steps")]
    left_open = recipe.name == NAME and recipe.discriminator.kind == kind
    return max(least, steps) if left_open else least
