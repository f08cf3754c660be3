"""Commands in remedies do what they promise: each is run, by a shell, on what it is advised for."""

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from asyndgan.intake.check import check_folder
from asyndgan.intake.description import json_table
from asyndgan.intake.grids import on_grid_of
from asyndgan.intake.near import undecodable
from asyndgan.intake.readers import READERS, DataFileError, reader_of
from asyndgan.intake.sniffing import CONVERTED

PIXELS = np.arange(48, dtype=np.uint8).reshape(6, 8)
VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
AFFINE = np.array([[-2, 0, 0, 9], [0, -2, 0, 8], [0, 0, 3, 7], [0, 0, 0, 1.0]])


def follow(remedy: str, folder: Path, **names: object) -> None:
    """Does as a remedy says, with the user's own names in place of its capitals."""
    start = remedy.index("python -c")
    command = remedy[start : remedy.index('"', start + 11) + 1]
    command += " FILES" * (f"{command} FILES" in remedy)
    for name, meant in names.items():
        assert name in command, command
        command = command.replace(name, str(meant))
    command = command.replace("python", f"'{sys.executable}'", 1)
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (command, done.stderr)


def read(path: Path, most: int = 1) -> np.ndarray:
    return np.squeeze(np.stack([one.values for one in reader_of(path).image(path, most=most)]))


def remedy_for(path: Path, most: int = 1) -> str:
    with pytest.raises(DataFileError) as found:
        reader_of(path).image(path, most=most)
    return found.value.remedy


def picture_set(folder: Path, ending: str, channels: int = 1) -> Path:
    """A data set without images, whose masks are right."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    mask_ending = ".png" if ending == ".jpg" else ending
    for name in ("ann", "bob"):
        Image.fromarray(PIXELS % 2).save(folder / f"labelsTr/{name}{mask_ending}")
    table = {
        "channel_names": {str(n): f"C{n}" for n in range(channels)},
        "labels": {"background": 0, "lesion": 1},
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(table))
    return folder


def follow_all(folder: Path) -> None:
    """Follows the remedy of each fault of a set, which then has none and lost no original."""
    faults = check_folder(folder).faults
    assert faults
    before = {fault.file: fault.file.read_bytes() for fault in faults}
    for file in before:
        (remedy,) = {fault.remedy for fault in faults if fault.file == file}
        follow(remedy, file.parent, FILES=f"'{file.name}'")
    assert check_folder(folder).faults == ()
    for file, content in before.items():
        kept = file.parent.with_name(f"{file.parent.name}_original") / file.name
        assert kept.read_bytes() == content


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "ending"),
    [("P", ".png"), ("1", ".png"), ("RGB", ".png"), ("RGBA", ".png"), ("LA", ".png"),
     ("CMYK", ".tif"), ("YCbCr", ".tif"), ("P", ".tiff"), ("CMYK", ".jpg"), ("P", ".bmp")],
)  # fmt: skip
def test_pictures_of_another_kind_are_made_of_the_wanted_one_at_the_first_try(
    mode: str, ending: str, channels: int, tmp_path: Path
) -> None:
    if (mode, channels) == ("RGB", 3):
        return
    folder = picture_set(tmp_path / "a", ending, channels)
    for name in ("ann", "bob"):
        made = Image.fromarray(PIXELS * 5).convert("RGB").convert(mode)
        made.save(folder / f"imagesTr/{name}_0000{ending}")
    follow_all(folder)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "JPEG2000"])
@pytest.mark.parametrize("ending", [".png", "own"])
def test_pictures_of_other_formats_are_converted_at_the_first_try(
    kind: str, channels: int, ending: str, tmp_path: Path
) -> None:
    folder = picture_set(tmp_path / "a", ".png", channels)
    own = {"GIF": ".gif", "WEBP": ".webp", "JPEG2000": ".jp2"}[kind]
    for name in ("a b", "c.d"):
        file = folder / f"imagesTr/{name}_0000{own if ending == 'own' else ending}"
        Image.fromarray(PIXELS).convert("RGB").save(file, format=kind)
        Image.fromarray(PIXELS % 2).save(folder / f"labelsTr/{name}.png")
    for name in ("ann", "bob"):
        right = Image.fromarray(PIXELS).convert("RGB" if channels == 3 else "L")
        right.save(folder / f"imagesTr/{name}_0000.png")
    follow_all(folder)


def test_masks_of_other_formats_keep_the_index_of_their_palette(tmp_path: Path) -> None:
    folder = picture_set(tmp_path / "a", ".png")
    for name in ("ann", "bob"):
        Image.fromarray(PIXELS).save(folder / f"imagesTr/{name}_0000.png")
    mask = Image.fromarray(PIXELS % 2).convert("P")
    mask.putpalette([0, 0, 0, 255, 0, 0])
    (folder / "labelsTr/ann.png").unlink()
    mask.save(folder / "labelsTr/ann.gif")
    mask.save(folder / "labelsTr/bob.png", format="GIF")
    follow_all(folder)
    for name in ("ann", "bob"):
        stored = reader_of(path := folder / f"labelsTr/{name}.png").mask(path).values
        np.testing.assert_array_equal(stored, PIXELS % 2)


def test_a_command_that_is_given_twice_writes_over_no_original(tmp_path: Path) -> None:
    folder = picture_set(tmp_path / "a", ".png")
    Image.fromarray(PIXELS).convert("RGBA").save(path := folder / "imagesTr/ann_0000.png")
    content, remedy = path.read_bytes(), remedy_for(path)
    follow(remedy, path.parent, FILES=path.name)
    with pytest.raises(AssertionError, match="assert 1 == 0"):  # its exit status
        follow(remedy, path.parent, FILES=path.name)
    assert (folder / "imagesTr_original/ann_0000.png").read_bytes() == content
    np.testing.assert_array_equal(read(path), PIXELS)


def test_a_jpeg_that_viewers_turn_is_turned(tmp_path: Path) -> None:
    path, exif = tmp_path / "ann_0000.jpg", Image.Exif()
    exif[274] = 6
    Image.fromarray(PIXELS).save(path, exif=exif, quality=100)
    follow(remedy_for(path), tmp_path, FILES=path.name)
    np.testing.assert_allclose(read(path), np.rot90(PIXELS, -1), atol=3)


@pytest.mark.parametrize("with_background", [True, False])
def test_a_one_hot_mask_becomes_a_label_map(with_background: bool, tmp_path: Path) -> None:
    labels, path = VOXELS % 3, tmp_path / "ann.nii.gz"
    channels = [labels == k for k in range(0 if with_background else 1, 3)]
    nib.save(nib.Nifti1Image(np.stack(channels, -1).astype(np.uint8), AFFINE), path)
    with pytest.raises(DataFileError, match="looks like a one-hot mask") as found:
        reader_of(path).mask(path)
    follow(found.value.remedy, tmp_path, FILES=path.name)
    np.testing.assert_array_equal(reader_of(path).mask(path).values, labels[::-1, ::-1])


@pytest.mark.parametrize("many", [VOXELS, VOXELS % 2], ids=["times", "overlapping"])
def test_a_mask_of_several_numbers_a_voxel_is_not_always_one_hot(
    many: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "ann.nii.gz"
    nib.save(nib.Nifti1Image(np.stack([many, many], -1).astype(np.int16), AFFINE), path)
    with pytest.raises(DataFileError, match="2 numbers a voxel"):
        reader_of(path).mask(path)


@pytest.mark.parametrize(
    "affine",
    [np.diag([1.0, 0, 1, 1]), AFFINE[:, [0, 0, 2, 3]], np.where(AFFINE == 3, np.nan, AFFINE)],
    ids=["no length", "one direction", "nan"],
)
def test_an_affine_that_places_no_voxels_is_replaced(affine: np.ndarray, tmp_path: Path) -> None:
    image, other = tmp_path / "image.nii.gz", tmp_path / "other.nii.gz"
    header = nib.Nifti1Header()
    header.set_sform(affine, 1)
    nib.save(nib.Nifti1Image(VOXELS, None, header), image)
    nib.save(nib.Nifti1Image(VOXELS, AFFINE), other)
    with pytest.raises(DataFileError, match="in its header") as found:
        reader_of(image).image(image, most=1)
    assert "damaged" not in str(found.value)
    follow(found.value.remedy, tmp_path, FILE=image.name, IMAGE=other.name, NEW="new")
    np.testing.assert_array_equal(read(tmp_path / "new.nii.gz"), VOXELS[::-1, ::-1])


def test_a_picture_under_anothers_name_is_converted_in_place(tmp_path: Path) -> None:
    path = tmp_path / "ann.png"
    Image.fromarray(PIXELS).save(path, format="BMP")
    follow(remedy_for(path), tmp_path, FILES="ann.png")
    np.testing.assert_array_equal(read(path), PIXELS)


@pytest.mark.parametrize(("mode", "most"), [("LA", 1), ("RGBA", 1), ("RGBA", 3)])
def test_transparency_is_removed(mode: str, most: int, tmp_path: Path) -> None:
    path = tmp_path / "ann.png"
    opaque = Image.fromarray(PIXELS).convert(mode[:-1])
    opaque.convert(mode).save(path)
    follow(remedy_for(path, most), tmp_path, FILES="ann.png")
    wanted = np.moveaxis(np.array(opaque), -1, 0) if most == 3 else PIXELS
    np.testing.assert_array_equal(read(path, most), wanted)


@pytest.mark.parametrize(("colour", "bands"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_16_bits_are_brought_to_8(colour: int, bands: int, tmp_path: Path) -> None:
    path, most = tmp_path / "ann.png", 1 if bands == 2 else 3
    values = np.repeat(PIXELS.astype(">u2")[..., None] * 257, bands, axis=2)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 6, 16, colour, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    follow(remedy_for(path, most), tmp_path, FILES="ann.png")
    np.testing.assert_array_equal(read(path, most), np.stack([PIXELS] * most).squeeze())


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize("ending", [".mgz", ".img"])
def test_volumes_that_nibabel_reads_are_converted(ending: str, tmp_path: Path) -> None:
    kind = nib.MGHImage if ending == ".mgz" else nib.Spm2AnalyzeImage
    nib.save(kind(VOXELS.astype(np.float32), AFFINE), tmp_path / f"ann{ending}")
    follow(CONVERTED[ending], tmp_path, FILE=f"ann{ending}", NEW="ann")
    (stored,) = READERS[".nii.gz"].image(tmp_path / "ann.nii.gz", most=1)
    np.testing.assert_array_equal(stored.values, VOXELS[::-1, ::-1])
    assert stored.spacing == (2, 2, 3)


@pytest.mark.parametrize("codes", [{}, {"qform_code": 1}], ids=["no code", "qform"])
def test_a_spacing_is_written(codes: dict[str, int], tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(VOXELS.shape)
    header["pixdim"][1:4] = 1, 1, 0
    header["vox_offset"], header["magic"] = 352, b"n+1"
    for code, value in codes.items():
        header[code] = value
    path = tmp_path / "ann.nii"
    path.write_bytes(header.binaryblock + bytes(4) + VOXELS.tobytes(order="F"))
    names = {" X, Y, Z;": " 1.5, 2, 3;", "FILE": "ann.nii", "NEW": "new"}
    follow(remedy_for(path), tmp_path, **names)
    (stored,) = READERS[".nii.gz"].image(tmp_path / "new.nii.gz", most=1)
    assert sorted(np.unique(stored.values)) == list(range(24))
    assert stored.spacing == (1.5, 2, 3)


@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_a_mask_gets_the_affine_of_its_image(kind: type, tmp_path: Path) -> None:
    image, mask = tmp_path / "image.nii.gz", tmp_path / "mask.nii"
    nib.save(nib.Nifti1Image(VOXELS, AFFINE), image)
    nib.save(nib.Nifti1Image((VOXELS % 2).astype(kind), np.eye(4)), mask)
    (first,) = reader_of(image).image(image, most=1)
    with pytest.raises(DataFileError) as found:
        on_grid_of(mask, reader_of(mask).mask(mask), {"CT": first})
    follow(found.value.remedy, tmp_path, FILE="mask.nii", IMAGE="image.nii.gz", NEW="new")
    new = tmp_path / "new.nii.gz"
    stored = on_grid_of(new, reader_of(new).mask(new), {"CT": first})
    np.testing.assert_array_equal(stored.values, first.values % 2)
    assert nib.load(new).get_data_dtype() == kind


def test_names_that_are_no_text_are_renamed_and_others_are_not(tmp_path: Path) -> None:
    names = ("Müller.png".encode("latin1"), "Jürgen.png".encode(), b"plain.png")
    latin, *_ = paths = [Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)) for name in names]
    for path in paths:
        path.touch()
    follow(undecodable(latin).remedy, tmp_path, FOLDER=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"Müller.png", "Jürgen.png", "plain.png"}


@pytest.mark.parametrize("encoding", ["latin1", "utf-16"])
def test_a_text_is_saved_as_utf_8(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text('{"name": "Lésion"}', encoding)
    with pytest.raises(DataFileError, match="is not UTF-8") as found:
        json_table(path)
    content = path.read_bytes()
    follow(found.value.remedy, tmp_path, FILE="dataset.json")
    assert (tmp_path / "dataset.json.original").read_bytes() == content
    assert json_table(path) == {"name": "Lésion"}
