"""What only some formats have: pyramids, channels, units, Exif, other files."""

import zlib
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from asyndgan.intake import reading
from asyndgan.intake.nnunet import read_image
from asyndgan.intake.readers import DataFileError, reader_of
from asyndgan.intake.readers.reader import plane_of
from asyndgan.store.info import DatasetInfo

MM = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.7, "PhysicalSizeZ": 2.0}


def pages(*shape: int, kind: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (*shape, 20, 30)).astype(kind)


def tiff(folder: Path, values: np.ndarray, **how: object) -> Path:
    path = folder / "ann_0000.tif"
    tifffile.imwrite(path, values, **{"photometric": "minisblack", **how})
    return path


def images(path: Path, most: int = 1) -> list[np.ndarray]:
    """The slices of each modality, as a radiologist views them."""
    found = [stored.values for stored in reader_of(path).image(path, most=most)]
    return [
        each if each.ndim == 2 else np.stack([plane_of(each, 2, z) for z in range(each.shape[2])])
        for each in found
    ]


def spacing(path: Path, most: int = 1) -> tuple[float, ...]:
    return reader_of(path).image(path, most=most)[0].spacing


def refused(path: Path, most: int = 1) -> str:
    with pytest.raises(DataFileError) as found:
        reader_of(path).image(path, most=most)
    return f"{found.value.reason}. {found.value.remedy}"


def test_a_stack_of_imagej_says_how_far_apart_its_pixels_lie(tmp_path: Path) -> None:
    about = {"axes": "ZYX", "unit": "um", "spacing": 2.5}
    path = tiff(tmp_path, pages(4), imagej=True, resolution=(2.0, 1.25), metadata=about)
    assert spacing(path) == pytest.approx((0.5e-3, 0.8e-3, 2.5e-3))


def test_channels_of_ome_are_modalities(tmp_path: Path) -> None:
    values = pages(2, 3)  # slices, channels
    stored = np.ascontiguousarray(values.swapaxes(0, 1))
    path = tiff(tmp_path, stored, ome=True, metadata={"axes": "CZYX", **MM})
    np.testing.assert_array_equal(images(path, 3), values.swapaxes(0, 1))
    assert spacing(path, 3) == pytest.approx((0.0005, 0.0007, 0.002))  # OME's unit is a micrometre
    assert "holds 3 channels, and dataset.json names 2 for it" in refused(path, 2)
    with pytest.raises(DataFileError, match="several channels"):
        reader_of(path).mask(path)


@pytest.mark.parametrize(
    ("unit", "mm"),
    [("µm", 1e-3), ("\u03bcm", 1e-3), ("furlong", None)],
)
def test_ome_names_its_unit_in_utf_8_and_a_strange_unit_is_no_spacing(
    unit: str, mm: float | None, tmp_path: Path
) -> None:
    sizes = []
    for axis, size in zip("XYZ", (0.5, 0.5, 2), strict=True):
        sizes += [f'PhysicalSize{axis}="{size}"', f'PhysicalSize{axis}Unit="{unit}"']
    pixels = f'<Pixels SizeX="20" SizeY="16" SizeZ="4" SizeC="1" SizeT="1" {" ".join(sizes)}/>'
    text = f"<OME><Image>{pixels}</Image></OME>".encode()
    path = tiff(tmp_path, pages(4), description=text, metadata=None)
    assert spacing(path) == (pytest.approx((0.5 * mm, 0.5 * mm, 2 * mm)) if mm else (1.0, 1.0, 1.0))


def test_channels_that_ome_names_otherwise_than_the_data_set_are_refused(tmp_path: Path) -> None:
    info = DatasetInfo("a", ("DAPI", "GFP", "CD8"), {"background": 0}, ".tif", ".tif")
    named = {"axes": "CYX", "Channel": {"Name": ["GFP", "DAPI", "CD8"]}}
    path = tiff(tmp_path, pages(3), ome=True, metadata=named)
    said = r"calls its channels GFP, DAPI, CD8, .* DAPI, GFP, CD8\. Write in .* \"channel_names\""
    with pytest.raises(DataFileError, match=said):
        read_image(path, 0, info)
    own = tiff(tmp_path, pages(3), ome=True, metadata={**named, "Channel": {"Name": list("XYZ")}})
    assert list(read_image(own, 0, info)) == ["DAPI", "GFP", "CD8"]
    assert "holds 3 channels (X, Y, Z), and dataset.json names 2 for it" in refused(own, 2)


def test_the_levels_of_a_pyramid_are_left_out(tmp_path: Path) -> None:
    path, whole = tmp_path / "ann.tif", pages(kind=np.uint8)
    for inside in (1, 0):
        with tifffile.TiffWriter(path) as file:
            file.write(whole, subifds=inside)
            file.write(whole[::2, ::2], subfiletype=1)
        np.testing.assert_array_equal(images(path)[0], whole)


@pytest.mark.parametrize("how", ["tiff_lzw", "tiles", "big"])
def test_packed_and_tiled_tiff_is_read_exactly(how: str, tmp_path: Path) -> None:
    path, values = tmp_path / "ann.tif", pages()
    if how == "tiles":
        tifffile.imwrite(path, values, tile=(16, 16), compression="zlib", predictor=True)
    elif how == "big":
        tifffile.imwrite(path, values, bigtiff=True)
    else:
        Picture.fromarray(values).save(path, compression=how)
    np.testing.assert_array_equal(images(path)[0], values)
    np.testing.assert_array_equal(reader_of(path).mask(path).values, values)


def test_what_a_tiff_would_be_read_wrongly_from_is_refused(tmp_path: Path) -> None:
    colours = np.zeros((20, 30, 3), np.uint16)
    assert "3 unsigned numbers of 16 bits" in refused(tiff(tmp_path, colours, photometric="rgb"), 3)
    assert "floating-point numbers of 64" in refused(tiff(tmp_path, pages(kind=np.float64)))
    assert "signed numbers of 8" in refused(tiff(tmp_path, pages(kind=np.int8)))
    assert "white as 0" in refused(tiff(tmp_path, pages(kind=np.uint8), photometric="miniswhite"))
    times = tiff(tmp_path, pages(3), imagej=True, metadata={"axes": "TYX"})
    assert "3 times" in refused(times)
    two = tmp_path / "two.tif"
    with tifffile.TiffWriter(two) as file:
        file.write(pages(kind=np.uint8))
        file.write(pages(kind=np.uint8)[::2])
    assert "several sizes" in refused(two)


def test_a_tiff_that_describes_pages_of_other_files_is_refused(tmp_path: Path) -> None:
    path = tiff(tmp_path, pages(), description="ImageJ=1.54f\nimages=9\nslices=9\n", metadata=None)
    assert "describes 9 pages" in refused(path)
    more = '<OME><Pixels SizeZ="9" SizeC="1" SizeT="1"/></OME>'
    assert "describes 9 pages" in refused(tiff(tmp_path, pages(), description=more, metadata=None))


def test_a_mask_in_a_tiff_that_is_packed_by_jpeg_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ann.tif"
    Picture.fromarray(pages(kind=np.uint8)).save(path, compression="jpeg")
    assert images(path)[0].shape == (20, 30)
    with pytest.raises(DataFileError, match="has changed its labels"):
        reader_of(path).mask(path)


def test_a_painted_stack_keeps_the_pages_and_spacing_of_the_acquired_one(tmp_path: Path) -> None:
    about = {"axes": "ZYX", "unit": "mm", "spacing": 2.5}
    path = tiff(tmp_path, pages(4), imagej=True, resolution=(2.0, 1.25), metadata=about)
    painted, reader = tmp_path / "painted.tif", reader_of(path)
    (stored,) = reader.image(path, most=1)
    planes = [plane_of(stored.values, 0, at) for at in range(stored.values.shape[0])]
    reader.write_painted(painted, planes, place=reading.place(path), axis=0)
    np.testing.assert_array_equal(images(painted)[0], pages(4))
    assert spacing(painted) == pytest.approx(spacing(path))
    assert reading.mask(painted).painted and not stored.painted
    with tifffile.TiffFile(painted) as file:  # another program finds the note and the slices
        assert file.series[0].axes == "ZYX" and file.imagej_metadata["spacing"] == 2.5
        assert "not acquired" in file.pages[0].description


def test_several_numbers_a_voxel_are_refused_of_other_formats(tmp_path: Path) -> None:
    several = "holds several numbers a voxel. Store one file a modality and time point."

    def label_map(path: Path) -> None:
        with pytest.raises(DataFileError, match=r"a mask with 2 numbers a voxel\. Make a label"):
            reader_of(path).mask(path)

    path = tmp_path / "ann.nrrd"
    nrrd.write(str(path), np.zeros((2, 4, 5, 6)), {"kinds": ["vector", *["domain"] * 3]})
    assert refused(path, 2) == several
    label_map(path)
    path = tmp_path / "ann.mha"
    head = "ObjectType = Image\nNDims = 2\nElementNumberOfChannels = 2\nDimSize = 2 3\n"
    path.write_text(f"{head}ElementType = MET_UCHAR\nElementDataFile = LOCAL\n")
    assert refused(path, 2) == several
    label_map(path)


def test_voxels_in_another_file_are_not_looked_for(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nhdr"), pages(2))
    path = (tmp_path / "a.nhdr").rename(tmp_path / "a.nrrd")
    assert "lie in another file" in refused(path)
    path = tmp_path / "a.mha"
    path.write_text("ObjectType = Image\nNDims = 2\nDimSize = 2 2\nElementDataFile = /etc/hosts\n")
    assert "lie in another file" in refused(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("space", "scanner-xyz"),
        ("space directions", "(1,0,0) (0,1,0) (0,0,0)"),
        ("space directions", "(1,0,0) (0,1,0) (0,0,Meier)"),
        ("encoding", "Meier"),
        ("sizes", "2 -2 2"),
    ],
)
def test_a_header_of_nrrd_that_cannot_be_used_is_refused_without_its_text(
    field: str, value: str, tmp_path: Path
) -> None:
    fields = {
        **{"type": "short", "dimension": "3", "sizes": "2 2 2", "encoding": "raw"},
        **{"endian": "little", "space": "LPS", "space directions": "(1,0,0) (0,1,0) (0,0,1)"},
    }
    path = tmp_path / "ann.nrrd"

    def write(table: dict[str, str]) -> None:
        text = "".join(f"{key}: {one}\n" for key, one in table.items())
        path.write_bytes(b"NRRD0004\n" + text.encode() + b"\n" + bytes(16))

    write(fields)
    assert images(path)[0].shape == (2, 2, 2)
    write({**fields, field: value})
    assert "Meier" not in refused(path)


@pytest.mark.parametrize("packing", ["mha", "zlib", "raw", "gzip"])
def test_voxels_beyond_those_that_a_header_claims_are_a_fault(packing: str, tmp_path: Path) -> None:
    path, values = tmp_path / "ann_0000.nrrd", np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    if packing in ("mha", "zlib"):
        path = path.with_suffix(".mha")
        content = values.tobytes() if packing == "mha" else zlib.compress(values.tobytes())
        path.write_bytes(
            b"ObjectType = Image\nNDims = 3\nElementType = MET_UCHAR\nDimSize = 2 4 5\n"
            b"CompressedData = %s\nElementDataFile = LOCAL\n"
            % (b"True" if packing == "zlib" else b"False")
            + content
        )
    else:
        nrrd.write(str(path), values, {"encoding": packing})
        path.write_bytes(path.read_bytes().replace(b"sizes: 3 4 5", b"sizes: 2 4 5"))
    assert "cannot be read as" in refused(path)


def test_a_nifti_without_voxels_behind_its_header_is_refused(tmp_path):
    nib.save(nib.Nifti1Pair(np.zeros((3, 4, 5), np.int16), np.eye(4)), tmp_path / "a.hdr")
    pair = (tmp_path / "a.hdr").read_bytes() + (tmp_path / "a.img").read_bytes()
    single = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4))
    within = bytearray(single.to_bytes())
    within[108:112] = bytes(4)  # voxels would begin at 0
    for content in (pair, bytes(within)):
        path = tmp_path / "a.nii"
        path.write_bytes(content)
        with pytest.raises(DataFileError, match=r"lie in another file, or within its header"):
            reader_of(path).image(path, most=1)
