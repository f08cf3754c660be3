"""File names that are nearly those of a data set: what differs, and what to do."""

import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import Final

from asyndgan.data.readers import READERS, DataFileError
from asyndgan.data.remedies import FROM_DICOM, RENAMED, RESAVED, TIFF_TO_PNG, TO_NIFTI, TO_PNG
from asyndgan.data.sniffing import CONVERTED, content_of

ENDINGS: Final = (*READERS, *CONVERTED)
"""Endings of files that hold images, read or not, in small letters."""

MOST_OPENED: Final = 5
"""Most files of a folder that are opened to see whether they are DICOM."""

_FITTING: Final = {(TO_PNG, "PNG"), (RESAVED, "NIfTI"), (FROM_DICOM, "NIfTI")} | {
    (CONVERTED[".mhd"], "MetaImage"),
    (CONVERTED[".nhdr"], "NRRD"),
    (CONVERTED[".npy"], "NIfTI"),
}
"""Remedies of `CONVERTED`, and the formats of the sets that they suit."""

_LITTER: Final = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"),
        *("$recycle.bin", "system volume information", "lost+found"),
    }
)
_MARKS: Final = (":zone.identifier", "@synoeastream", "~")
_SIDECARS: Final = frozenset(
    {".json", ".txt", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", ".bval", ".bvec", ".log"}
)
_ADDED: Final = re.compile(
    r"_(\d{4}|masks?|seg|segmentation|labels?|gt|groundtruth|manual|annotations?)$"
)
_BEFORE: Final = re.compile(r"^(masks?|seg|labels?|gt)_")


def is_litter(name: str) -> bool:
    """Whether a file is hidden, or left by an operating system: `._a.png`, `Thumbs.db`."""
    plain = name.casefold()
    return plain.startswith(".") or plain in _LITTER or plain.endswith(_MARKS)


def is_sidecar(name: str) -> bool:
    """Whether a file describes others in text, as `CASE_0000.json` does."""
    return Path(name).suffix.lower() in _SIDECARS


def is_decodable(name: str) -> bool:
    """Whether a file's name is text in the system's encoding."""
    return not any("\udc80" <= letter <= "\udcff" for letter in name)


def ending_of(name: str) -> str:
    """The ending of an image's name as written; "" if it has none of `ENDINGS`."""
    found = [ending for ending in ENDINGS if name.lower().endswith(ending)]
    return name[-len(max(found, key=len)) :] if found else ""


def composed(name: str) -> str:
    """A name in one of the ways to write its letters: a Mac writes others (NFD)."""
    return unicodedata.normalize("NFC", name)


def plain(name: str) -> str:
    """A name without ending, capitals, and what people add to the names of masks."""
    bare = composed(name).removesuffix(ending_of(name)).casefold()
    bare = _BEFORE.sub("", re.sub(r"[\s.-]", "_", bare))
    while (shorter := _ADDED.sub("", bare)) not in (bare, ""):
        bare = shorter
    return bare


def wrong_ending(path: Path, ending: str, *, labels: bool) -> DataFileError | None:
    """The fault of an image or mask that ends otherwise than the data set's; None if it does not.

    The remedy changes the name alone only where it leaves the format as it is.
    """
    found = ending_of(path.name)
    if found == ending or not found:
        return None
    reason = f"ends in {found}, where dataset.json says {ending}, so it is not read"
    kind = found.lower()
    if kind != ending and (path.parent / f"{path.name.removesuffix(found)}{ending}").exists():
        return DataFileError(
            path,
            f"is not read, since the file of the same name that ends in {ending} is",
            "Keep one of the two.",
        )
    of_tiff = kind in READERS and READERS[kind].kind == "TIFF"
    turned = {"PNG": TIFF_TO_PNG if of_tiff else TO_PNG, "NIfTI": TO_NIFTI}
    if kind == ending:
        remedy = f"Write its ending in small letters: {ending}."
    elif {kind, ending} == {".nii", ".nii.gz"}:
        remedy = "Compress it: gzip FILE." if ending == ".nii.gz" else "Unpack it: gunzip FILE."
    elif labels and kind in (".jpg", ".jpeg"):
        remedy = f"Export the mask again as {ending}: JPEG has changed its labels."
    elif kind in READERS and READERS[kind].kind == READERS[ending].kind:
        remedy = f"Rename it: both are {READERS[kind].kind}."
    elif (
        kind in READERS
        and READERS[ending].kind in turned
        and READERS[kind].volumes == READERS[ending].volumes
    ):
        remedy = turned[READERS[ending].kind]
    elif kind in READERS or (CONVERTED[kind], READERS[ending].kind) not in _FITTING:
        remedy = f"Store the whole set in one format: export it as {ending}."
    else:
        remedy = CONVERTED[kind]
    return DataFileError(path, reason, remedy)


def undecodable(path: Path) -> DataFileError:
    """The fault of a file whose name is not text, or no text in this process's locale."""
    try:
        name = os.fsencode(path.name).decode()
    except UnicodeDecodeError:
        return DataFileError(
            path,
            "has a name that is not UTF-8, so no record can name it",
            RENAMED,
        )
    return DataFileError(
        path,
        f"has a name in UTF-8 ({name!a}), and this process reads names as "
        f"{sys.getfilesystemencoding()}",
        "Set PYTHONUTF8=1, or a locale of UTF-8: LC_ALL=C.UTF-8.",
    )


def dangling(path: Path) -> DataFileError | None:
    """The fault of an entry that is named like a file and cannot be read as one, or None."""
    if path.is_file():
        return None
    if path.is_symlink() and not path.exists():
        return DataFileError(
            path,
            "is a link to a file that does not exist",
            "Fetch the file (DataLad: datalad get FOLDER), or put a copy here.",
        )
    return DataFileError(path, "is no file", "Put the file itself here.")


def in_folder(path: Path, ending: str) -> DataFileError | None:
    """The fault of a folder where files are wanted, if it holds images; else None."""
    files = [found for found in sorted(path.rglob("*")) if not is_litter(found.name)]
    files = [found for found in files if found.is_file()]
    if any(is_dicom(found) for found in files[:MOST_OPENED]):
        return DataFileError(path, "is a folder of DICOM files, which are not read", FROM_DICOM)
    images = [found for found in files if ending_of(found.name)]
    if not images:
        return None
    part = path.parent.name
    name = f"CASE_0000{ending}" if part.startswith("images") else f"CASE{ending}"
    return DataFileError(
        path,
        "is a folder, and files in it are not read",
        f"Move its files up into {part} itself, as {name}: {images[0].relative_to(path.parent)} is "
        "one.",
    )


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its ending, or by its content, since many have no ending."""
    if path.name == "DICOMDIR" or path.name.lower().endswith((".dcm", ".ima")):
        return True
    found = None if ending_of(path.name) else content_of(path)
    return found is not None and found.remedy == FROM_DICOM
