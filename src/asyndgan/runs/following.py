"""What the commands that judge a finished run have to be given."""

from typing import Final

from asyndgan.recipe import Recipe

SIMULATED: Final = ("inprocess", "processes")
"""Engines that keep the sites' states in the run's folder."""


def judging_options(recipe: Recipe, engine: str, sites: str, others: str) -> dict[str, str]:
    """Options of `evaluate` and of `audit`, by command; `sites` are the sites' options.

    `others`: folder of patients whom the run has not seen, if it held none out.
    """
    held = bool(recipe.training.hold_out)
    states = "" if engine in SIMULATED else " --state NAME=FOLDER ..."  # they tell who was held out
    return {
        "evaluate": sites + (states if held else f" --test {others}"),
        "audit": sites + (states if held else f" --holdout {others}{states}"),
    }
