"""NRRD in one file: a slice or a volume, with its place in space; pynrrd reads and writes it.

Axes are turned to RAS and then to the closest canonical orientation. The format is specified at
https://teem.sourceforge.net/nrrd/format.html.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from asyndgan.intake.readers.reader import DataFileError
from asyndgan.intake.readers.volumes import ONE_EACH, TO_RAS, Header, Volumes
from asyndgan.lazy import Late
from asyndgan.received import UnreadableError, opened

nrrd: Any = Late("nrrd")

_SPACES: Final = {
    **dict.fromkeys(("right-anterior-superior", "ras"), np.eye(4)),
    **dict.fromkeys(("left-anterior-superior", "las"), np.diag([-1.0, 1.0, 1.0, 1.0])),
    **dict.fromkeys(("left-posterior-superior", "lps", ""), TO_RAS),
}
"""NRRD's names of spaces to what turns them to RAS; without a name it is LPS, as ITK takes it."""


@final
class Nrrd(Volumes):
    """Reads slices and volumes; writes whole numbers in their type, and others in float32."""

    kind = "NRRD"

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Header]:
        with opened(path) as file:
            fields = nrrd.read_header(file)
            if "data file" in fields or "datafile" in fields:
                raise DataFileError(
                    path,
                    "is a header without voxels: they lie in another file",
                    "Store both in one (pynrrd: write('NEW.nrrd', *read('FILE'))).",
                )
            shape = tuple(fields["sizes"].tolist())
            kinds = [kind.lower() for kind in fields.get("kinds", [])]
            if len(shape) > 3 or {*kinds} - {"domain", "space", "none", "???"}:
                raise DataFileError(path, "holds several numbers a voxel", ONE_EACH)
            yield Header(
                shape,
                nrrd.reader._determine_datatype(fields),
                _affine(fields, len(shape)),
                fields.get("content", ""),
                lambda: nrrd.read_data(fields, file),
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


def _affine(fields: Mapping[str, Any], count: int) -> np.ndarray:
    """The affine to RAS of `count` axes."""
    space = _SPACES.get(fields.get("space", "").lower())
    if space is None or {*fields.get("space units", [])} - {"mm"}:
        raise UnreadableError("its space is none of RAS, LAS and LPS in millimetres")
    rows = fields.get("space directions")
    if count not in (2, 3) or (rows is not None and len(rows) != count):
        raise UnreadableError("it has not two or three axes of space")
    affine = np.eye(4)
    if rows is None:
        np.fill_diagonal(affine, [*fields.get("spacings", [1.0] * count), *[1.0] * (4 - count)])
    else:
        affine[: rows.shape[1], :count] = rows.T
        if count == 2:  # across the slice, which has no thickness
            across = np.cross(affine[:3, 0], affine[:3, 1])
            affine[:3, 2] = across / np.linalg.norm(across)
    origin = fields.get("space origin", [0.0])
    affine[: len(origin), 3] = origin
    return space @ affine
