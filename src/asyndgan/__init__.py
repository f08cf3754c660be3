"""asyndgan: train one image generator across sites whose images never leave them.

The protocol is that of Chang et al., "Synthetic Learning: Learn From Distributed Asynchronized
Discriminator GAN Without Sharing Medical Image Data", CVPR 2020.

For notebooks and scripts there are the names of `__all__` (see docs/python.md). They are imported
when they are first used, since torch takes seconds.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from asyndgan.lazy import lazily

__version__ = version("asyndgan")

__all__ = [
    "Recipe",
    "Run",
    "Study",
    "audit",
    "evaluate",
    "from_arrays",
    "generate",
    "plan",
    "register",
    "report",
    "train",
]

if TYPE_CHECKING:
    from asyndgan.api import Run, audit, evaluate, generate, plan, release, report, train
    from asyndgan.export.arrays import from_arrays
    from asyndgan.models.installed import register
    from asyndgan.recipe import Recipe
    from asyndgan.runs.study import Study
else:
    __getattr__ = lazily(
        __name__,
        {
            "api": "Run audit evaluate generate plan release report train",
            "export.arrays": "from_arrays",
            "models.installed": "register",
            "recipe": "Recipe",
            "runs.study": "Study",
        },
    )


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
