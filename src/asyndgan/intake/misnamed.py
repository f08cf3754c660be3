"""Names of files: which are no files of a data set, and which look like files with a wrong name."""

import os
import re
import unicodedata
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import Final

from asyndgan.intake.readers import READERS, DataFileError
from asyndgan.intake.sniffing import FROM_DICOM, content_of

MOST_BELOW: Final = 1000
"""Most files of a folder where files are wanted that are looked at."""

MOST_OPENED: Final = 5
"""Most files of a folder that are opened to see whether they are DICOM."""

_ENDINGS: Final = (
    *READERS,
    *(".gif", ".bmp", ".webp", ".jp2", ".pgm", ".ppm", ".mhd", ".nhdr", ".mgz", ".mnc", ".img"),
    *(".hdr", ".dcm", ".ima", ".npy", ".npz", ".mat", ".h5"),
)
_IMAGE: Final = re.compile(  # a name may go on behind its ending: `p1.nii.bz2`, `p1.png (1)`
    f"(.+?)({'|'.join(map(re.escape, sorted(_ENDINGS, key=len, reverse=True)))})(\\W.*)?", re.I
)
_NUMBERED: Final = re.compile(r"(.+_\d{4})\W.*|[^.]*\d[^.]*")  # DICOM files often have no ending
_LITTER: Final = re.compile(  # of macOS, Windows, NAS, Office and editors
    r"\..*|(eh)?thumbs\.db|desktop\.ini|icon\r|__macosx|lost\+found|\$recycle\.bin"
    r"|@(eadir|recycle|tmp)|#(recycle|snapshot)|#.+#|~\$.*|.*(~|\.swp|:zone\.identifier)",
    re.DOTALL | re.IGNORECASE,
)
_SIDECARS: Final = frozenset(
    {".json", ".txt", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", ".bval", ".bvec", ".log"}
)
_ADDED: Final = re.compile(
    r"_(\d{4}|masks?|seg|segmentation|labels?|gt|groundtruth|manual|annotations?)$"
)
_BEFORE: Final = re.compile(r"^(masks?|seg|labels?|gt)_")


def is_litter(name: str) -> bool:
    """Whether a file is hidden, or left by a system, a NAS or an editor: `._a.png`, `#recycle`."""
    return _LITTER.fullmatch(name) is not None


def is_sidecar(name: str) -> bool:
    """Whether a file describes others in text, as `CASE_0000.json` does."""
    return Path(name).suffix.lower() in _SIDECARS


def is_like_image(path: Path, ending: str) -> bool:
    """Whether a file is named like an image, and is no copy of one beside it that ends so."""
    found = _IMAGE.fullmatch(path.name)
    named = found or _NUMBERED.fullmatch(path.name)
    if named is None or (found and not found[3]):
        return named is not None
    return not (path.parent / f"{named[1] or path.name}{ending}").exists()


def ending_of(name: str) -> str:
    """The ending of an image's name as written, read or not; "" if it has none."""
    found = _IMAGE.fullmatch(name)
    return "" if found is None or found[3] else found[2]


def composed(name: str) -> str:
    """A name in one of the ways to write its letters: a Mac writes others (NFD)."""
    return unicodedata.normalize("NFC", name)


def plain(name: str) -> str:
    """A name without ending, capitals, and what people add to the names of masks."""
    found = _IMAGE.fullmatch(composed(name))
    bare = re.sub(r"[\s.-]", "_", (found[1] if found else composed(name)).casefold())
    bare = _BEFORE.sub("", bare)
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
    kind = found.lower()
    if kind == ending:
        remedy = f"Write its ending in small letters: {ending}."
    elif {kind, ending} == {".nii", ".nii.gz"}:
        remedy = "Compress it: gzip FILE." if ending == ".nii.gz" else "Unpack it: gunzip FILE."
    elif labels and kind in (".jpg", ".jpeg"):
        remedy = f"Export the mask again as {ending}: JPEG has changed its labels."
    elif kind in READERS and READERS[kind].kind == READERS[ending].kind:
        remedy = f"Rename it: both are {READERS[kind].kind}."
    else:
        remedy = f"Store the whole set in one format: export it as {ending}; or move it away."
    kinds = "masks" if labels else "images"
    reason = f"ends in {found}, so it is not read: {kinds} of this set end in {ending}"
    return DataFileError(path, reason, remedy)


def unnamed(path: Path) -> DataFileError | None:
    """The fault of a file whose name no record can hold, or None."""
    if not any("\udc80" <= letter <= "\udcff" for letter in path.name):
        return None
    return DataFileError(
        path, "has a name that is not UTF-8, so no record can name it", "Rename it."
    )


def dangling(path: Path) -> DataFileError | None:
    """The fault of an entry that is named like a file and cannot be read as one, or None."""
    if path.is_file():
        return None
    return DataFileError(
        path,
        "is a link to a file that does not exist" if path.is_symlink() else "is no file",
        "Fetch the file (DataLad: datalad get FOLDER), or put a copy here.",
    )


def files_below(path: Path) -> list[Path]:
    """The first `MOST_BELOW` files in a folder, at any depth: it may be a link to a whole disk."""
    found = (Path(place, name) for place, _, names in os.walk(path) for name in names)
    inside = sorted(islice(found, MOST_BELOW))
    return [one for one in inside if not any(map(is_litter, one.relative_to(path).parts))]


def in_folder(path: Path, ending: str) -> DataFileError | None:
    """The fault of a folder where files are wanted, if it holds images; else None."""
    files = files_below(path)
    if any(map(is_dicom, files[:MOST_OPENED])):
        remedy = FROM_DICOM.replace("FOLDER", quote(str(path.parent)))
        return DataFileError(path, "is a folder of DICOM files, which are not read", remedy)
    images = [found for found in files if ending_of(found.name)]
    if not images:
        return None
    part = path.parent.name
    name = f"{path.name}_0000{ending}" if part.startswith("images") else f"{path.name}{ending}"
    folders = sum(each.is_dir() for each in path.parent.iterdir())
    which = "a folder" if folders == 1 else f"one of {folders} folders"
    return DataFileError(
        path,
        f"is {which}, and files in folders are not read",
        f"Move the files of all folders up, each by a name of its own: "
        f"{part}/{images[0].relative_to(path.parent)} becomes {part}/{name}.",
    )


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its ending, or by its content, since many have no ending."""
    if path.name == "DICOMDIR" or path.name.lower().endswith((".dcm", ".ima")):
        return True
    found = None if ending_of(path.name) else content_of(path)
    return found is not None and found.remedy == FROM_DICOM
