"""What every file format promises."""

import gzip
import struct
import tracemalloc
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from asyndgan.data.readers import NOT_ACQUIRED, READERS, DataFileError, Reader, reader_of
from asyndgan.data.readers.reader import plane_of

SHAPE = (6, 8)
SPACING = (1.5, 0.5)  # millimetres between rows, and between columns
VAST = 30_000
IN_COLOUR = [ending for ending, reader in READERS.items() if reader.colour]


def vast_png() -> bytes:
    """A picture that claims 30,000 x 30,000 pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", VAST, VAST, 8, 0, 0, 0, 0)
    head = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + head + bytes(64)


def vast_nifti() -> bytes:
    """A volume that claims 30,000 x 30,000 x 30,000 voxels."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((VAST, VAST, VAST))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return header.binaryblock + bytes(4) + bytes(64)


VAST_FILES = {
    ".png": vast_png(),
    ".nii.gz": gzip.compress(vast_nifti()),
    ".nii": vast_nifti(),
}
"""For every ending, a file of few bytes whose header claims more than any machine's memory."""


@pytest.fixture(params=READERS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a file of the format is to be."""
    return tmp_path / f"ann{request.param}"


@pytest.fixture
def reader(path: Path) -> Reader:
    return reader_of(path)


def image(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)


def mask() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)


def slice_in(values: np.ndarray) -> np.ndarray:
    """The one slice of what a file stores, as a radiologist views it."""
    return values if values.ndim == 2 else plane_of(values, 2, 0)


def test_an_image_is_read_back_with_its_shape_and_spacing(path: Path, reader: Reader) -> None:
    reader.write(path, image(), spacing=SPACING, note="")
    (stored,) = reader.image(path, most=1)
    np.testing.assert_array_equal(slice_in(stored.values), image())
    columns_and_rows = (*reversed(SPACING), 1.0)
    assert stored.spacing == (columns_and_rows if reader.spaced else (1.0, 1.0))


def test_a_mask_is_read_back(path: Path, reader: Reader) -> None:
    reader.write(path, mask(), spacing=SPACING, note="")
    stored = reader.mask(path)
    np.testing.assert_array_equal(slice_in(stored.values), mask())
    assert stored.values.dtype == np.uint8


@pytest.mark.parametrize("path", IN_COLOUR, indirect=True)
def test_a_file_in_colour_holds_three_modalities_where_three_are_wanted(
    path: Path, reader: Reader
) -> None:
    planes = image(shape=(*SHAPE, 3))
    reader.write(path, planes, spacing=SPACING, note="")
    found = reader.image(path, most=3)
    np.testing.assert_array_equal(np.stack([stored.values for stored in found], axis=-1), planes)
    with pytest.raises(DataFileError, match=path.name):
        reader.image(path, most=1)


def test_equal_slices_give_equal_bytes(path: Path, reader: Reader, tmp_path: Path) -> None:
    again = tmp_path / f"again{path.name.removeprefix('ann')}"
    for file in (path, again):
        reader.write(file, image(), spacing=SPACING, note=NOT_ACQUIRED)
    assert path.read_bytes() == again.read_bytes()


def test_a_painted_file_is_marked_and_lies_where_the_acquired_one_does(
    path: Path, reader: Reader, tmp_path: Path
) -> None:
    reader.write(path, image(), spacing=SPACING, note="")
    painted = tmp_path / f"painted{path.name.removeprefix('ann')}"
    reader.write_painted(painted, [image(2)], like=path, axis=2)
    (acquired,), (stored,) = reader.image(path, most=1), reader.image(painted, most=1)
    np.testing.assert_array_equal(slice_in(stored.values), image(2))
    assert stored.spacing == acquired.spacing
    np.testing.assert_array_equal(stored.affine, acquired.affine)
    assert reader.painted(painted)
    assert not reader.painted(path)


def test_a_note_marks_a_file_as_painted(path: Path, reader: Reader) -> None:
    reader.write(path, image(), spacing=SPACING, note=NOT_ACQUIRED)
    assert reader.painted(path)


@pytest.mark.parametrize("read", ["image", "mask", "painted"])
@pytest.mark.parametrize("content", ["empty", "nonsense", "half", "none"])
def test_a_damaged_file_is_refused_by_its_name(
    content: str, read: str, path: Path, reader: Reader
) -> None:
    reader.write(path, image(shape=(64, 64)), spacing=SPACING, note="")
    whole = path.read_bytes()
    if content == "none":
        path.unlink()
    else:
        half = whole[: 20 if read == "painted" else len(whole) // 2]  # of that only the header is
        path.write_bytes({"empty": b"", "nonsense": bytes(100), "half": half}[content])
    with pytest.raises(DataFileError, match=path.name) as found:
        read_by(reader, read, path)
    assert found.value.file == path


def read_by(reader: Reader, name: str, path: Path) -> object:
    if name == "image":
        return reader.image(path, most=1)
    return reader.mask(path) if name == "mask" else reader.painted(path)


@pytest.mark.parametrize("read", ["image", "mask"])
def test_a_file_that_claims_to_be_vast_is_refused_before_anything_is_allocated(
    read: str, path: Path, reader: Reader
) -> None:
    path.write_bytes(VAST_FILES[path.name.removeprefix("ann")])
    tracemalloc.start()
    with pytest.raises(DataFileError, match="claims"):
        read_by(reader, read, path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_file_of_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"ann\.bmp: is of a format that is not read"):
        reader_of(tmp_path / "ann.bmp")
