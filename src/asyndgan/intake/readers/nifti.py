"""NIfTI, versions 1 and 2, plain or gzipped: a slice or a volume, with its place in space.

Volumes are reoriented to the closest canonical orientation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from gzip import GzipFile
from pathlib import Path
from typing import Any, final

import numpy as np

from asyndgan.intake.readers.reader import DataFileError
from asyndgan.intake.readers.volumes import Header, Volumes
from asyndgan.lazy import Late
from asyndgan.received import UnreadableError, opened

nib: Any = Late("nibabel")  # half a second that pictures need not

_PLACE = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code"),
    *(f"quatern_{axis}" for axis in "bcd"),
    *(f"qoffset_{axis}" for axis in "xyz"),
    *(f"srow_{axis}" for axis in "xyz"),
)
"""Fields of a NIfTI header that say where its voxels lie, by either of its two transforms."""


@final
class Nifti(Volumes):
    """Reads slices and volumes; writes whole numbers in their type, and others in float32."""

    kind = "NIfTI"

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Header]:
        with opened(path, links=True) as stored:
            file: Any = GzipFile(fileobj=stored) if path.name.endswith(".gz") else stored
            head = file.read(540)
            kind = nib.Nifti1Image if head[4:7] != b"n+2" else nib.Nifti2Image
            if not kind.header_class.may_contain_header(head):
                raise UnreadableError("it does not start like one")
            about = _header(kind, head)
            if about["magic"].item()[:2] != b"n+" or about["vox_offset"] < about.sizeof_hdr:
                raise UnreadableError("its voxels lie in another file, or within its header")
            _check_spacing(path, head, kind)
            file.seek(0)
            image = kind.from_file_map({"image": nib.FileHolder(path.name, file)})
            yield Header(
                tuple(int(side) for side in image.shape),
                image.get_data_dtype(),
                image.affine,
                bytes(image.header["descrip"]).decode("latin1"),
                lambda: np.asanyarray(image.dataobj),
                {field: image.header[field] for field in _PLACE},
            )

    def _save(
        self, path: Path, voxels: np.ndarray, affine: np.ndarray, note: str, place: Any
    ) -> None:
        image = nib.Nifti1Image(voxels, affine, dtype=voxels.dtype)  # else 64 bits are refused
        for field in _PLACE if place is not None else ():
            image.header[field] = place[field]
        image.header["descrip"] = note.encode()
        nib.save(image, path)


def _header(kind: Any, head: bytes) -> Any:
    return kind.header_class(head[: kind.header_class.template_dtype.itemsize], check=False)


def _check_spacing(path: Path, head: bytes, kind: Any) -> None:
    """Refuses a header whose voxels are 0 mm apart, where its affine is made from those numbers.

    Raises `DataFileError` if it is 0 along an axis of more than one voxel; nibabel takes 1.
    """
    header = _header(kind, head)
    if header["sform_code"] > 0:
        return
    spacing = header["pixdim"][1:4]
    if any(
        size > 1 and mm == 0 for size, mm in zip(header.get_data_shape(), spacing, strict=False)
    ):
        raise DataFileError(
            path,
            f"says that its voxels are {' x '.join(f'{mm:g}' for mm in spacing)} mm apart (pixdim)",
            "Write the true spacing (X, Y, Z in millimetres) into its header, and put the new file "
            "in its place: python -c \"import nibabel as n; m = n.load('FILE'); "
            "m.header['pixdim'][1:4] = X, Y, Z; n.save(n.Nifti1Image(m.dataobj, None, m.header), "
            f"'NEW{'.nii.gz' if path.name.endswith('.gz') else '.nii'}')\".",
        )
