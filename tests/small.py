"""What makes recipes and audits of tests as small as they may be."""

import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from asyndgan.auditing import reconstruction
from asyndgan.auditing.pixel_attacks import bisected, followed

SMALL = [
    "image.size=16",
    "generator.width=4",
    "generator.blocks=1",
    "discriminator.width=4",
    "discriminator.layers=1",
]
"""Overrides of a recipe that ships, whose networks allow no smaller ones."""


def declare(folder: Path, **about: object) -> Path:
    """Writes into the description of a data set what else it says of itself; the folder."""
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | about))
    return folder


def copied(folder: Path, to: Path, **about: object) -> Path:
    """A copy of a data set that says this of itself."""
    return declare(Path(shutil.copytree(folder, to)), **about)


def named(sites: Mapping[str, Path]) -> list[str]:
    """Sites as options of a command."""
    return [word for name, data in sites.items() for word in ("--site", f"{name}={data}")]


def ask_little(patch: pytest.MonkeyPatch) -> None:
    """An audit asks each site few questions about real pixels: all of them are half of its time."""
    patch.setattr(reconstruction, "bisected", partial(bisected, parts=2, rounds=1))
    patch.setattr(reconstruction, "followed", partial(followed, questions=2))
    patch.setattr(reconstruction, "QUESTIONS", 3 + 2)
