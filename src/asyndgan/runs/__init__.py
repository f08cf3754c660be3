"""Creates, trains, resumes and reads runs, each of which is a folder."""

from asyndgan.errors import Interrupted
from asyndgan.runs.facts import RunFacts
from asyndgan.runs.folder import RunFolder
from asyndgan.runs.recipes import load_recipe, recipe_names
from asyndgan.runs.recorder import Progress
from asyndgan.runs.train import train

__all__ = [
    "Interrupted",
    "Progress",
    "RunFacts",
    "RunFolder",
    "load_recipe",
    "recipe_names",
    "train",
]
