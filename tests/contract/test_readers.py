"""What every file format promises."""

import gzip
import io
import os
import struct
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from asyndgan.intake import reading
from asyndgan.intake.readers import (
    LOSSLESS,
    READERS,
    DataFileError,
    Geometry,
    Reader,
    lossless,
    reader_of,
)
from asyndgan.intake.readers.reader import plane_of
from reading import used_by

SHAPE = (6, 8)
SPACING = (1.5, 0.5)  # millimetres between rows, and between columns
VAST = 30_000
IN_COLOUR = [ending for ending, reader in READERS.items() if reader.colour]
VOLUMES = [ending for ending, reader in READERS.items() if reader.volumes]


def vast_png(side: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    head = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + head + bytes(64)


def vast_jpeg(side: int) -> bytes:
    stored = encoded("JPEG")
    size = stored.index(struct.pack(">HH", *SHAPE), stored.index(b"\xff\xc0"))
    return stored[:size] + struct.pack(">HH", side, side) + stored[size + 4 : -40]


def vast_tiff(side: int) -> bytes:
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: side**2}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(64)


def vast_nifti(side: int) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((side, side, side))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return header.binaryblock + bytes(4) + bytes(64)


def vast_nrrd(side: int) -> bytes:
    text = f"type: uchar\ndimension: 3\nsizes: {side} {side} {side}\nencoding: gzip\n\n"
    return b"NRRD0004\n" + text.encode() + gzip.compress(bytes(64))


def vast_mha(side: int) -> bytes:
    return mha(f"{side} {side} {side}", "MET_UCHAR", zlib.compress(bytes(64)), packed=True)


def mha(sizes: str, kind: str, content: bytes, *, packed: bool = False, more: str = "") -> bytes:
    head = f"ObjectType = Image\nNDims = {len(sizes.split())}\nBinaryData = True\n{more}"
    head += f"CompressedData = {packed}\nDimSize = {sizes}\nElementType = {kind}\n"
    return f"{head}ElementDataFile = LOCAL\n".encode() + content


VAST_FILES: dict[str, Callable[[int], bytes]] = {
    ".png": vast_png, ".jpg": vast_jpeg, ".jpeg": vast_jpeg, ".tif": vast_tiff, ".tiff": vast_tiff,
    ".nii.gz": lambda side: gzip.compress(vast_nifti(side)), ".nii": vast_nifti,
    ".nrrd": vast_nrrd, ".mha": vast_mha,
}  # fmt: skip
"""For every ending, a file of few bytes whose header claims this many pixels along each axis."""


def make_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(voxels, affine, dtype=voxels.dtype), path)


def make_nrrd(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    space = {"space": "right-anterior-superior", "space directions": affine[:3, :3].T}
    nrrd.write(str(path), voxels, {**space, "space origin": affine[:3, 3]})


LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def make_mha(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    more = "BinaryDataByteOrderMSB = True\n"
    for key, values in {
        "TransformMatrix": (lps[:3, :3] / spacing).T.ravel(),
        "Offset": lps[:3, 3],
        "ElementSpacing": spacing,
    }.items():
        more += f"{key} = {' '.join(map(repr, values.tolist()))}\n"
    kind = {"u1": "UCHAR", "i2": "SHORT", "u2": "USHORT", "f4": "FLOAT"}[voxels.dtype.str[1:]]
    content = voxels.astype(voxels.dtype.newbyteorder(">")).tobytes(order="F")
    path.write_bytes(mha(" ".join(map(str, voxels.shape)), f"MET_{kind}", content, more=more))


MAKE_VOLUME: dict[str, Callable[[Path, np.ndarray, np.ndarray], None]] = {
    ".nii.gz": make_nifti, ".nii": make_nifti, ".nrrd": make_nrrd, ".mha": make_mha,
}  # fmt: skip
"""For every ending of volumes, how other software than this package writes voxels (x, y, z)."""


def make(path: Path, plane: np.ndarray) -> None:
    """Writes a slice by the library of its format."""
    ending = path.name.removeprefix("ann")
    if ending in MAKE_VOLUME:
        MAKE_VOLUME[ending](path, np.ascontiguousarray(np.flip(plane).T)[..., None], np.eye(4))
    elif ending in (".tif", ".tiff"):
        tifffile.imwrite(path, plane, photometric="minisblack")
    else:
        how = {"quality": 95} if lossless(ending) != ending else {}
        Picture.fromarray(plane).save(path, **how)


DEPTHS = {".png": "u1 u2", ".jpg": "u1", ".jpeg": "u1"}
"""Types of numbers that a format holds, where it holds fewer than the others."""


@pytest.fixture(params=READERS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a file of the format is to be."""
    return tmp_path / f"ann{request.param}"


@pytest.fixture
def reader(path: Path) -> Reader:
    return reader_of(path)


def encoded(kind: str) -> bytes:
    """A picture of nothing."""
    content = io.BytesIO()
    Picture.fromarray(mask()).save(content, kind)
    return content.getvalue()


def image(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)


def mask() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)


def slice_in(values: np.ndarray) -> np.ndarray:
    """The one slice of what a file stores, as a radiologist views it."""
    return values if values.ndim == 2 else plane_of(values, 2, 0)


@pytest.mark.parametrize("path", LOSSLESS, indirect=True)
def test_an_image_and_a_mask_are_read_back_with_their_shape_and_spacing(
    path: Path, reader: Reader
) -> None:
    reader.write(path, image(), spacing=SPACING, note="")
    (stored,) = reader.image(path, most=1)
    np.testing.assert_array_equal(slice_in(stored.values), image())
    # A volume's axes are the patient's; headers store spacings as 32-bit numbers.
    spacing = (*reversed(SPACING), 1.0) if reader.volumes else SPACING
    assert stored.spacing == pytest.approx(spacing if reader.spaced else (1.0, 1.0), rel=1e-6)
    reader.write(path, mask(), spacing=SPACING, note="")
    labels = reader.mask(path)
    np.testing.assert_array_equal(slice_in(labels.values), mask())
    assert labels.values.dtype == np.uint8


@pytest.mark.parametrize("path", LOSSLESS, indirect=True)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_lies_as_its_geometry_says(path: Path, reader: Reader, axis: int) -> None:
    geometry = Geometry(axis, 4.0, ("L", "I", "P"))
    reader.write(path, image(), spacing=SPACING, note="", geometry=geometry)
    (stored,) = reader.image(path, most=1)
    if not reader.volumes:
        np.testing.assert_array_equal(stored.values, image())
        return
    np.testing.assert_array_equal(plane_of(stored.values, axis, 0), image())
    assert stored.spacing == tuple(np.insert(SPACING[::-1], axis, 4.0))
    assert nib.orientations.ornt2axcodes(stored.turn) == geometry.codes


@pytest.mark.parametrize("path", IN_COLOUR, indirect=True)
def test_a_file_in_colour_holds_three_modalities_where_three_are_wanted(
    path: Path, reader: Reader
) -> None:
    planes = image(shape=(16, 24, 3))
    if reader.lossy:
        planes = np.kron(planes[:2, :3], np.ones((8, 8, 1), np.float32))  # blocks of a JPEG
        Picture.fromarray(planes.astype(np.uint8)).save(path, quality=100, subsampling=0)
    else:
        reader.write(path, planes, spacing=SPACING, note="")
    found = reader.image(path, most=3)
    stored = np.stack([stored.values for stored in found], axis=-1)
    np.testing.assert_allclose(stored, planes, rtol=0, atol=3 if reader.lossy else 0)
    with pytest.raises(DataFileError, match=path.name):
        reader.image(path, most=1)


@pytest.mark.parametrize("path", LOSSLESS, indirect=True)
def test_a_painted_file_is_marked_and_lies_where_the_acquired_one_does(
    path: Path, reader: Reader, tmp_path: Path
) -> None:
    reader.write(path, image(), spacing=SPACING, note="")
    painted = tmp_path / f"painted{path.name.removeprefix('ann')}"
    reader.write_painted(painted, [image(2)], place=reading.place(path), axis=2)
    (acquired,), (stored,) = reading.image(path, most=1), reading.image(painted, most=1)
    np.testing.assert_array_equal(slice_in(stored.values), image(2))
    assert stored.spacing == acquired.spacing
    np.testing.assert_array_equal(stored.affine, acquired.affine)
    assert stored.painted and not acquired.painted


def test_a_damaged_file_is_refused_by_its_name(path: Path) -> None:
    make(path, image(shape=(64, 64)).astype(np.uint8))
    whole = path.read_bytes()
    for read in ("image", "mask"):
        for content in (b"", bytes(100), whole[: len(whole) // 2], None):
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            with pytest.raises(DataFileError, match=path.name) as found:
                read_by(read, path)
            assert found.value.file == path, (read, content)


def read_by(name: str, path: Path) -> object:
    return reading.image(path, most=1) if name == "image" else reading.mask(path)


@pytest.mark.parametrize(("read", "vast"), [("image", True), ("mask", False)])
def test_a_file_that_claims_more_than_it_holds_is_refused_and_takes_little(
    read: str, vast: bool, path: Path, reader: Reader
) -> None:
    side = VAST if vast else 700 if reader.volumes else 7000  # within the bound of any file
    path.write_bytes(VAST_FILES[path.name.removeprefix("ann")](side))
    read_it = f"reading.{read}(Path(sys.argv[2]){', most=1' if read == 'image' else ''})"
    _, kilobytes, said = used_by(read_it, path)
    assert ("claims" if vast else path.name) in said
    assert kilobytes < 2**20


@pytest.mark.parametrize("kind", ["u1", "i2", "f4"])
def test_what_other_software_stores_is_read_in_its_depth(
    kind: str, path: Path, reader: Reader
) -> None:
    if kind not in DEPTHS.get(path.name.removeprefix("ann"), kind):
        pytest.skip("the format has no such numbers")
    low, high = (0, 255) if kind == "u1" else (0 if kind == "u2" else -3000, 30000)
    plane = np.random.default_rng(3).integers(low, high, (16, 24)).astype(kind)
    if reader.lossy:
        plane = np.kron(plane[:2, :3], np.ones((8, 8), np.uint8))
    make(path, plane)
    (stored,) = reader.image(path, most=1)
    np.testing.assert_allclose(slice_in(stored.values), plane, rtol=0, atol=3 * reader.lossy)
    assert not stored.painted
    if not reader.lossy:
        np.testing.assert_array_equal(slice_in(reader.mask(path).values), plane)


@pytest.mark.parametrize("path", VOLUMES, indirect=True)
def test_voxels_lie_where_other_software_says_whatever_the_order_of_axes(
    path: Path, reader: Reader, tmp_path: Path
) -> None:
    voxels = np.random.default_rng(4).integers(-9, 9, (4, 5, 6)).astype(np.int16)
    turned, ending = np.eye(4), path.name.removeprefix("ann")
    cosine, sine = np.cos(0.2), np.sin(0.2)
    turned[:3, :3] = [[0, 2.5 * cosine, -0.5 * sine], [0, 2.5 * sine, 0.5 * cosine], [-0.7, 0, 0]]
    turned[:3, 3] = -10, 20, 30.5
    MAKE_VOLUME[ending](path, voxels, turned)
    (stored,) = reader.image(path, most=1)
    # By nibabel itself, and not by the package's own reader.
    expected = nib.as_closest_canonical(nib.Nifti1Image(voxels, turned))
    np.testing.assert_array_equal(stored.values, expected.get_fdata())
    np.testing.assert_allclose(stored.affine, expected.affine, atol=1e-5)
    for axis in range(3):
        planes = [plane_of(stored.values, axis, at) for at in range(stored.values.shape[axis])]
        painted = tmp_path / f"painted{ending}"
        reader.write_painted(painted, planes, place=reading.place(path), axis=axis)
        (again,) = reader.image(painted, most=1)
        np.testing.assert_array_equal(again.values, stored.values)
        np.testing.assert_allclose(again.affine, stored.affine, atol=1e-6)
        np.testing.assert_array_equal(again.turn, stored.turn)


def test_a_link_is_followed_and_what_is_no_file_is_refused(
    path: Path, reader: Reader, tmp_path: Path
) -> None:
    stored = tmp_path / f"other{path.name.removeprefix('ann')}"
    make(path, mask())
    path.rename(stored)
    path.symlink_to(stored)
    assert reader.image(path, most=1)[0].values.size == mask().size
    for place in (lambda: os.mkfifo(path), path.mkdir, lambda: path.symlink_to(path)):
        path.rmdir() if path.is_dir() else path.unlink()
        place()
        for read in ("image", "mask"):
            with pytest.raises(DataFileError, match=path.name):
                read_by(read, path)


def test_a_file_with_any_byte_changed_is_read_or_refused(path: Path) -> None:
    make(path, image(shape=(16, 16)).astype(np.uint8))
    whole = path.read_bytes()
    random = np.random.default_rng(5)
    for _ in range(60):
        changed = bytearray(whole)
        for place in random.integers(0, min(len(whole), 700), random.integers(1, 4)):
            changed[place] = random.integers(0, 256)
        path.write_bytes(changed)
        for read in ("image", "mask"):
            try:
                read_by(read, path)
            except DataFileError as error:
                assert error.file == path


FOREIGN = {
    "a JPEG picture": encoded("JPEG"),
    "a TIFF picture": encoded("TIFF"),
    "a WebP picture": encoded("WEBP"),
    "a DICOM file": bytes(128) + b"DICM\2\0\0\0UL\4\0",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
    "a web page": b"\n<!DOCTYPE HTML>\n<html><head><title>Sign in</title></head></html>",
    "an NRRD volume": b"NRRD0004\ntype: short\n",
    "a MetaImage volume": b"ObjectType = Image\nNDims = 3\n",
    "a ZIP archive": b"PK\3\4" + bytes(40),
    "an empty file": b"",
    "a file of zero bytes only": bytes(4096),
}


def test_a_file_that_holds_something_else_is_named_by_what_it_holds(
    path: Path, reader: Reader
) -> None:
    others = (name for name in FOREIGN if reader.kind not in name)
    for name, read in product(others, ("image", "mask")):
        path.write_bytes(FOREIGN[name])
        with pytest.raises(DataFileError) as found:
            read_by(read, path)
        assert found.value.file == path
        assert found.value.reason.startswith(f"is {name}"), read
        # Another name would not change the format, and a copy would be the same file.
        assert "ename" not in found.value.remedy and "truncated" not in found.value.remedy
        if name == "a JPEG picture" and read == "mask":
            assert "Export the mask again" in found.value.remedy  # its labels are lost


def png_of(samples: np.ndarray, depth: int, colour: int) -> bytes:
    """A PNG (rows, columns, samples a pixel) of any depth and colour type, by its specification."""
    rows, columns, _ = samples.shape
    raw = b""
    for row in samples.reshape(rows, -1):
        bits = "".join(f"{int(value):0{depth}b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        raw += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    head = struct.pack(">IIBBBBB", columns, rows, depth, colour, 0, 0, 0)
    colours = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    data = chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + colours + data


def samples(depth: int, bands: int = 1) -> np.ndarray:
    return np.random.default_rng(depth).integers(0, 2**depth, (6, 8, bands))


@pytest.mark.parametrize(
    ("depth", "colour", "read"),
    [(16, 0, "image"), (16, 0, "mask"), (1, 0, "mask"), (2, 3, "mask"), (8, 3, "mask")],
)
def test_what_a_png_stores_is_read_exactly(
    depth: int, colour: int, read: str, tmp_path: Path
) -> None:
    path = tmp_path / "ann.png"
    path.write_bytes(png_of(samples(depth), depth, colour))
    found = read_by(read, path)
    (stored,) = found if isinstance(found, list) else [found]
    np.testing.assert_array_equal(stored.values, samples(depth)[..., 0])


def unplaced(path: Path, shape: tuple[int, ...], spacing: tuple[float, ...], **codes: int) -> None:
    """Writes a NIfTI whose spacing is in `pixdim` alone."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header["pixdim"][1:4] = spacing
    header["vox_offset"], header["magic"] = 360, b"n+1"  # not a multiple of 16: nibabel says so
    for code, value in codes.items():
        header[code] = value
    content = header.binaryblock + bytes(12) + bytes(range(int(np.prod(shape))))
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)


@pytest.mark.parametrize(("ending", "codes"), [(".nii", {}), (".nii.gz", {"qform_code": 1})])
def test_voxels_that_are_0_mm_apart_are_refused_and_nibabel_is_silent(
    ending: str, codes: dict[str, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"ann{ending}"
    unplaced(path, (4, 3, 2), (1, 1, 0), **codes)
    with pytest.raises(
        DataFileError, match=r"ann.*its voxels are 1 x 1 x 0 mm apart .*the true spacing"
    ):
        reading.mask(path)
    unplaced(path, (4, 3, 1), (1, 2, 0), **codes)  # of one slice the thickness is not used
    assert reading.mask(path).spacing[:2] == (1, 2)
    assert not caplog.records


def test_a_file_of_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"ann\.webp: is of a format that is not read"):
        reader_of(tmp_path / "ann.webp")
