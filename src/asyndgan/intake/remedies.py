"""What to do about files: commands of Python with what is installed here, where it can do it.

In them FILE, FILES, IMAGE, NEW and FOLDER stand for the user's own names.
"""

import glob
from pathlib import Path
from typing import Final


def _python(code: str, *names: str) -> str:
    return " ".join([f'python -c "{code}"', *names])


ORIGINALS: Final = "each original moves to a folder beside, such as imagesTr_original"


def _replacing(imports: str, made: str, saved: str) -> str:
    """The command that makes `m` of each original `o`, and saves it in the place of a file `p`.

    It writes over no file, neither in that place nor among the originals.
    """
    kept = "o.parent.mkdir(exist_ok=True), o.open('xb').write(p.read_bytes())"
    each = "for p in map(Path, sys.argv[1:]) "
    each += "for o in [Path(f'{p.absolute().parent}_original', p.name)]"
    code = f"import sys; from pathlib import Path; {imports}; "
    return _python(f"{code}[({kept}, {made}, p.unlink(), {saved}) {each}]", "FILES")


_FORMATS: Final = {
    **{".png": "'PNG'", ".bmp": "'BMP'", ".tif": "'TIFF'", ".tiff": "'TIFF'"},
    **dict.fromkeys((".jpg", ".jpeg"), "'JPEG', quality=100"),
}
"""Endings of pictures to the arguments by which Pillow stores them."""

_KINDS: Final = {
    "grey": "m if m.mode[:2] in ('L', 'I', 'I;', 'F') else m.convert('L')",
    "RGB": "m.convert('RGB')",
    "labels": "m if m.mode[:2] in ('P', '1', 'L', 'I', 'I;') else m.convert('L')",
    "upright": "ImageOps.exif_transpose(m)",
}
"""What is wanted of a picture, to Pillow's expression for it; a palette's index is a label."""


def kind_of(path: Path, *, labels: bool, most: int) -> str:
    """The kind of picture that is wanted of a file that may hold `most` modalities.

    RGB holds three, if the case has no other file.
    """
    others = glob.escape(path.name.partition("_0000.")[0]) + "_0001.*"
    alone = most >= 3 and not any(path.parent.glob(others))
    return "labels" if labels else "RGB" if alone else "grey"


def picture_command(kind: str, ending: str = ".png") -> str:
    """The command that brings pictures to one of `_KINDS`, in the format of an ending."""
    saved = f"m.save(p.with_suffix('{ending}').open('xb'), {_FORMATS[ending.lower()]})"
    imports = "from PIL import Image, ImageOps" if kind == "upright" else "from PIL import Image"
    return _replacing(imports, f"m := Image.open(o), m := {_KINDS[kind]}", saved)


TO_PNG: Final = "Convert it to PNG."


def suited(remedy: str, kind: str) -> str:
    """A remedy for the kind of picture that is wanted, on which that of `TO_PNG` depends."""
    if remedy != TO_PNG:
        return remedy
    colours = {"grey": "grey PNG", "RGB": "RGB PNG"}.get(kind, "PNG, labels as they are")
    return f"Convert it to {colours}; {ORIGINALS}: {picture_command(kind)}."


TIFF_TO_PNG: Final = (
    "Convert it to PNG, without loss of depth, in another folder NEW. With ImageMagick: "
    "mogrify -path NEW -format png FILES."
)
ONE_GREY_EACH: Final = (
    "For all 16 bits store each colour of the originals as a grey PNG, _0000.png to _0002.png, in "
    "another folder NEW. With ImageMagick: "
    "magick FILE -alpha off -separate -define png:bit-depth=16 NEW/CASE_%04d.png."
)
FROM_ONE_HOT: Final = "Make a label map of it; {}: {}.".format(
    ORIGINALS.replace("images", "labels"),
    _replacing(
        "import nibabel as n, numpy as np",
        "m := n.load(o), a := m.get_fdata().round(), b := a.any(-1)",
        "n.save(n.Nifti1Image((b * (a.argmax(-1) + 1 - b.all())).astype('u1'), m.affine), p)",
    ),
)
TO_NIFTI: Final = "Convert it to NIfTI (SimpleITK: WriteImage(ReadImage(FILE), 'NEW.nii.gz'))."
RESAVED: Final = "Convert it to NIfTI: {}.".format(
    _python(
        "import nibabel as n; m = n.load('FILE'); "
        "n.save(n.Nifti1Image(m.get_fdata(dtype='f4'), m.affine), 'NEW.nii.gz')"
    )
)
WITH_AFFINE: Final = _python(
    "import nibabel as n; m = n.load('FILE'); "
    "n.save(n.Nifti1Image(m.dataobj, n.load('IMAGE').affine, m.header), 'NEW.nii.gz')"
)
WITH_SPACING: Final = "Write the true spacing X, Y, Z in millimetres into its header: {}.".format(
    _python(
        "import nibabel as n; m = n.load('FILE'); m.header['pixdim'][1:4] = X, Y, Z; "
        "n.save(n.Nifti1Image(m.dataobj, None, m.header), 'NEW.nii.gz')"
    )
)
FROM_DICOM: Final = "Make a data set of its folder: asyndgan import FOLDER NEW."
RENAMED: Final = "Rename what is not UTF-8 in its folder: {}.".format(
    _python(
        "import os; os.chdir('FOLDER'); [os.path.lexists(g) or os.rename(f, g) for f in "
        "os.listdir() if not f.isprintable() for g in [os.fsencode(f).decode('latin1')]]"
    )
)


def in_utf8(encoding: str) -> str:
    """What to do about a text in another encoding."""
    code = (
        f"from pathlib import Path; p = Path('FILE'); t = p.read_text('{encoding}'); "
        "Path('FILE.original').open('xb').write(p.read_bytes()); p.write_text(t, 'utf8')"
    )
    return f"Save it as UTF-8, beside FILE.original as it was: {_python(code)}."


LABELS_AGAIN: Final = (
    "Export the masks again with their labels; check their values and their file names."
)
"""For masks that hold no label at all."""
