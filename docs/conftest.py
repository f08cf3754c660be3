"""Runs the Python samples of the documentation."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.sybil import SybilCollection


def _enter_new_folder(samples: dict[str, Any]) -> None:
    samples["_before"] = Path.cwd()
    os.chdir(tempfile.mkdtemp())


def _leave_it(samples: dict[str, Any]) -> None:
    folder = Path.cwd()
    os.chdir(samples["_before"])
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
