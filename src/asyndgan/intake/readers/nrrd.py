"""NRRD in one file: a slice or a volume, with its place in space; pynrrd reads and writes it.

Axes are turned to RAS and then to the closest canonical orientation. The format is specified at
https://teem.sourceforge.net/nrrd/format.html.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from asyndgan.intake.readers.reader import DataFileError
from asyndgan.intake.readers.volumes import TO_RAS, Header, Volumes
from asyndgan.lazy import Late
from asyndgan.received import UnreadableError, opened

nrrd: Any = Late("nrrd")

_SPACES: Final = {
    **dict.fromkeys(("right-anterior-superior", "ras"), np.eye(4)),
    **dict.fromkeys(("left-anterior-superior", "las"), np.diag([-1.0, 1.0, 1.0, 1.0])),
    **dict.fromkeys(("left-posterior-superior", "lps", ""), TO_RAS),
}
"""NRRD's names of spaces to what turns them to RAS; without a name it is LPS, as ITK takes it."""

_KINDS: Final = ("domain", "space", "stub", "none", "???")  # of axes of space


@final
class Nrrd(Volumes):
    """Reads slices and volumes; writes whole numbers in their type, and others in float32."""

    kind = "NRRD"

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Header]:
        with opened(path, links=True) as file:
            fields = nrrd.read_header(file)
            if "data file" in fields or "datafile" in fields:
                raise DataFileError(
                    path,
                    "is a header without voxels: they lie in another file",
                    "Store both in one (pynrrd: write('NEW.nrrd', *read('FILE'))).",
                )
            sizes = fields["sizes"].tolist()
            spatial = _spatial(fields, len(sizes))
            others = tuple(axis for axis in range(len(sizes)) if axis not in spatial)
            yield Header(
                tuple(sizes[axis] for axis in spatial),
                nrrd.reader._determine_datatype(fields),
                _affine(fields, spatial),
                fields.get("content", ""),
                lambda: nrrd.read_data(fields, file).squeeze(others),
                numbers=math.prod(sizes[axis] for axis in others),
            )

    def _save(
        self, path: Path, voxels: np.ndarray, affine: np.ndarray, note: str, place: Any
    ) -> None:
        lps = TO_RAS @ affine
        fields = {
            **({"content": note} if note else {}),
            "space": "left-posterior-superior",
            "space directions": lps[:3, : voxels.ndim].T,
            "space origin": lps[:3, 3],
        }
        stored = BytesIO()
        nrrd.write(stored, voxels, fields)
        head, gap, voxels_packed = stored.getvalue().partition(b"\n\n")
        head = re.sub(rb"\n# .*", b"", head)  # comments, which tell the time
        path.write_bytes(head + gap + voxels_packed)


def _spatial(fields: Mapping[str, Any], count: int) -> list[int]:
    """The axes of space among `count`, three at most; along others the numbers of a voxel lie."""
    kinds, rows = fields.get("kinds", []), fields.get("space directions")
    if rows is not None and len(rows) != count:
        raise UnreadableError("it says of some axes alone where they lie")
    numbers = {axis for axis, kind in enumerate(kinds) if kind.lower() not in _KINDS}
    if rows is not None:
        numbers |= {*np.flatnonzero(np.isnan(rows).all(-1)).tolist()}
    return [axis for axis in range(count) if axis not in numbers][:3]


def _affine(fields: Mapping[str, Any], spatial: Sequence[int]) -> np.ndarray:
    """The affine to RAS of the axes of space."""
    count = len(spatial)
    space = _SPACES.get(fields.get("space", "").lower())
    if space is None or {*fields.get("space units", [])} - {"mm"}:
        raise UnreadableError("its space is none of RAS, LAS and LPS in millimetres")
    rows = fields.get("space directions")
    if count not in (2, 3):
        raise UnreadableError("it has not two or three axes of space")
    affine = np.eye(4)
    if rows is None:
        spacings = fields.get("spacings", [1.0] * (1 + max(spatial)))
        np.fill_diagonal(affine, [*(spacings[n] for n in spatial), *[1.0] * (4 - count)])
    else:
        affine[: rows.shape[1], :count] = rows[spatial].T
        if count == 2:  # across the slice, which has no thickness
            across = np.cross(affine[:3, 0], affine[:3, 1])
            affine[:3, 2] = across / np.linalg.norm(across)
    origin = fields.get("space origin", [0.0])
    affine[: len(origin), 3] = origin
    return space @ affine
