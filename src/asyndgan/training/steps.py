"""Files of checkpoints, by step; without torch, for commands that only look at a run."""

import re
from pathlib import Path
from typing import Final

MOST_STATE: Final = 2**36  # bytes: ten times the networks and optimisers of the largest recipe


def step_file(folder: Path, step: int) -> Path:
    """The file that holds a party's state after `step` steps."""
    return folder / f"step-{step:08d}.safetensors"


def stored_steps(folder: Path) -> list[int]:
    """Steps for which a folder holds a state, oldest first."""
    names = (re.fullmatch(r"step-(\d{8,})\.safetensors", path.name) for path in folder.glob("*"))
    return sorted(int(name[1]) for name in names if name)
