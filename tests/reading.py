"""Reads data sets from their files, and keeps nothing."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from asyndgan.intake.description import describe
from asyndgan.intake.listing import listed, raise_first
from asyndgan.intake.nnunet import read_arrays, slices_of
from asyndgan.intake.patients import patients_of
from asyndgan.store.case import RawCase
from asyndgan.store.geometry import AXES, Axis
from asyndgan.store.info import DatasetInfo

_MEASURED = """
import json, resource, sys
from pathlib import Path
import numpy as np
from asyndgan.errors import AsyndganError
from asyndgan.intake import reading
said = ""
try:
    exec(sys.argv[1])
except AsyndganError as error:
    said = str(error)
reading.close()
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss, said]))
"""


def used_by(code: str, *words: object) -> tuple[float, int, str]:
    """Seconds of processor and most kilobytes that the children of some code took (files' reader
    among them), and what it raised; `words` are its `sys.argv[2:]`.

    It runs in a small interpreter: a child counts with what its parent held when it was started,
    and of this process the children of all other tests count as well.
    """
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, code, *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.returncode and "Traceback" not in done.stderr, done.stderr
    seconds, kilobytes, said = json.loads(done.stdout.splitlines()[-1])
    return seconds, kilobytes, said


def told_by(folder: Path, pattern: object) -> None:
    """Writes into a data set by which pattern its patients are found."""
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"patient_pattern": pattern}))


def read_cases(
    folder: Path,
    *,
    axis: Axis = "axial",
    info: DatasetInfo | None = None,
) -> Iterator[RawCase]:
    """All cases as stored, slice by slice, sorted by name."""
    info = info or describe(folder)
    found = listed(folder, info)
    raise_first(found.faults)
    patients = patients_of((files.name for files in found.cases), info.patient_pattern)
    for files in found.cases:
        source, channels, mask = read_arrays(files, info)
        assert source
        yield from slices_of(source, patients[files.name], channels, mask, AXES[axis])
