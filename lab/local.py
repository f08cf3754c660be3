"""A generator for each site alone, as a baseline for a recipe: their synthetic sets are pooled.

No feedback leaves a site: each sends its synthetic set once.
"""

from collections.abc import Mapping, Sequence

from asyndgan.errors import RecipeError
from asyndgan.judging.metrics import mean
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder


def check_local(recipe: Recipe) -> None:
    """Checks that a recipe can be trained at each site alone.

    Raises:
        RecipeError: a setting is about other sites.
    """
    about_others = ["timeline", "integrity"]
    faults = [key for key in about_others if getattr(recipe, key) != getattr(Recipe(), key)]
    if faults:
        raise RecipeError(
            f"recipe '{recipe.name}': a generator of one site alone has no other sites, so "
            f"{faults[0]} would not be what it is beside it; leave it as it is by default, or "
            "leave out local."
        )


def cost(of_seeds: Sequence[Mapping[str, RunFolder]], folder: str) -> dict[str, float | None]:
    """What the generators of all sites cost, mean over seeds.

    Args:
        of_seeds: finished runs of each seed, by site.
        folder: name of the synthetic set's folder in a run's.

    Returns:
        `seconds` of all sites' trainings together, and `bytes` of a site's set, mean over sites.
    """
    seconds = [sum(run.facts().seconds for run in runs.values()) for runs in of_seeds]
    sent = [
        float(sum(file.stat().st_size for file in (run.path / folder).glob("*Tr/*")))
        for runs in of_seeds
        for run in runs.values()
    ]
    return {"seconds": mean(seconds), "bytes": mean(sent)}
