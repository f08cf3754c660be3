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

_CHANNELS: Final = ("vector", "list", "rgb-color", "point", "2-vector", "3-vector", "4-vector")


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
            shape = fields["sizes"].tolist()
            affine, channels = _affine(fields, len(shape))

            def read() -> np.ndarray:
                values = nrrd.read_data(fields, file)
                return values if channels is None else np.moveaxis(values, channels, -1)

            if channels is not None:
                shape.append(shape.pop(channels))
            dtype = nrrd.reader._determine_datatype(fields)
            yield Header(tuple(shape), dtype, affine, fields.get("content", ""), read)

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


def _affine(fields: Mapping[str, Any], count: int) -> tuple[np.ndarray, int | None]:
    """The affine to RAS of `count` axes, and which of them is of modalities (None: none)."""
    space = _SPACES.get(fields.get("space", "").lower())
    if space is None or {*fields.get("space units", [])} - {"mm"}:
        raise UnreadableError("its space is none of RAS, LAS and LPS in millimetres")
    rows, kinds = fields.get("space directions"), fields.get("kinds", [])
    channel = [axis for axis, kind in enumerate(kinds) if kind.lower() in _CHANNELS]
    if rows is not None:
        channel = channel or np.flatnonzero(np.isnan(rows).all(-1)).tolist()
    spatial = [axis for axis in range(count) if axis not in channel]
    if not 2 <= len(spatial) <= 3 or len(channel) > 1 or (rows is not None and len(rows) != count):
        raise UnreadableError("it has not two or three axes of space, and at most one more")
    affine = np.eye(4)
    if rows is None:
        spacings = np.array(fields.get("spacings", [1.0] * count))
        np.fill_diagonal(affine, [*spacings[spatial], *[1.0] * (4 - len(spatial))])
    else:
        affine[: rows.shape[1], : len(spatial)] = rows[spatial].T
        if len(spatial) == 2:  # across the slice, which has no thickness
            across = np.cross(affine[:3, 0], affine[:3, 1])
            affine[:3, 2] = across / np.linalg.norm(across)
    origin = fields.get("space origin", [0.0])
    affine[: len(origin), 3] = origin
    return space @ affine, channel[0] if channel else None
