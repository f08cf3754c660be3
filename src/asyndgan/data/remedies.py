"""What to do about files: commands of Python with what is installed here, where it can do it.

In them FILE, FILES, IMAGE, NEW and FOLDER stand for the user's own names.
"""

from typing import Final


def _python(code: str, *names: str) -> str:
    return " ".join([f'python -c "{code}"', *names])


_EACH = "for f in sys.argv[1:]]"
_SAVED = "save(f.rpartition('.')[0] + '.png')"

TO_PNG: Final = "Convert it to PNG: {}.".format(
    _python(f"import sys; from PIL import Image; [Image.open(f).{_SAVED} {_EACH}", "FILES")
)
TIFF_TO_PNG: Final = (
    "Convert it to PNG, without loss of depth. With ImageMagick: mogrify -format png FILES."
)
ONE_GREY_EACH: Final = (
    "For all 16 bits store each colour as a grey PNG, _0000.png to _0002.png. With ImageMagick: "
    "magick FILE -alpha off -separate -define png:bit-depth=16 CASE_%04d.png."
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
        "import os; os.chdir('FOLDER'); [os.rename(f, os.fsencode(f).decode('latin1')) "
        "for f in os.listdir() if not f.isprintable()]"
    )
)


def in_utf8(encoding: str) -> str:
    """What to do about a text in another encoding."""
    code = (
        "from pathlib import Path; p = Path('FILE'); "
        f"p.write_text(p.read_text('{encoding}'), 'utf8')"
    )
    return f"Save it as UTF-8: {_python(code)}."


def opaque(mode: str) -> str:
    """The command that saves pictures with 8 bits and without transparency, in Pillow's mode."""
    code = f"import sys; from PIL import Image; [Image.open(f).convert('{mode}').{_SAVED} {_EACH}"
    return _python(code, "FILES")
