"""Finished generators that come with the package, each with its card."""

from importlib.resources import files
from pathlib import Path


def shipped_names() -> list[str]:
    """Names of the generators that come with the package."""
    return sorted(folder.name for folder in (files("asyndgan") / "generators").iterdir())


def is_shipped(run: Path) -> bool:
    """Whether a run comes with the package, in which nothing may be written."""
    return run.parent == Path(str(files("asyndgan"))) / "generators"


def licence_of(run: Path, *, masks: bool = True) -> str:
    """The licence of a run's generator and of what it paints from its own `masks`, or others."""
    if is_shipped(run):
        return "CC0-1.0" if masks else "images: CC0-1.0; masks: as their owner says"
    return "not stated: ask the sites whose images the generator learned from"


def run_of(name: str | Path) -> Path:
    """The folder of a run, or of a generator that comes with the package if there is none."""
    path = Path(name)
    shipped = not path.exists() and str(path) in shipped_names()
    return Path(str(files("asyndgan") / "generators" / str(path))) if shipped else path
