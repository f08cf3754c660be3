"""Runs the Python samples of the documentation."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.sybil import SybilCollection

from asyndgan.runs import mask_learning
from small import ask_little


def _enter_new_folder(samples: dict[str, Any]) -> None:
    patch = samples["_patch"] = pytest.MonkeyPatch()
    patch.chdir(tempfile.mkdtemp())
    # Each mask is painted, written, read and compared: the usual 500 would take minutes.
    patch.setattr(mask_learning, "FEWEST", 24)
    ask_little(patch)


def _leave_it(samples: dict[str, Any]) -> None:
    folder = Path.cwd()
    samples["_patch"].undo()
    shutil.rmtree(folder)


WRITES = "python.md"  # its samples write folders

pytest_collect_file = SybilCollection(
    (
        Sybil(parsers=[PythonCodeBlockParser()], pattern="*.md", excludes=[WRITES]),
        Sybil(
            parsers=[PythonCodeBlockParser()], pattern=WRITES, setup=_enter_new_folder,
            teardown=_leave_it,
        ),
    )
).pytest()  # fmt: skip
