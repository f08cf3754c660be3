"""Creates, trains, resumes and reads runs, each of which is a folder."""

from typing import TYPE_CHECKING

from asyndgan.errors import Interrupted
from asyndgan.lazy import lazily
from asyndgan.runs.recipes import load_recipe, recipe_names

if TYPE_CHECKING:
    from asyndgan.runs.facts import RunFacts
    from asyndgan.runs.folder import RunFolder
    from asyndgan.runs.recorder import Progress
else:
    __getattr__ = lazily(
        __name__, {"facts": "RunFacts", "folder": "RunFolder", "recorder": "Progress"}
    )
