"""File names that are nearly those of a data set: what differs, and what to do."""

import difflib
import os
import re
import sys
import unicodedata
from collections.abc import Container, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from asyndgan.intake.readers import READERS, DataFileError
from asyndgan.intake.remedies import (
    FROM_DICOM,
    RENAMED,
    RESAVED,
    TIFF_TO_PNG,
    TO_NIFTI,
    TO_PNG,
    kind_of,
    suited,
)
from asyndgan.intake.sniffing import CONVERTED, content_of

ENDINGS: Final = (*READERS, *CONVERTED)
"""Endings of files that hold images, read or not, in small letters."""

MOST_BELOW: Final = 1000
"""Most files of a folder where files are wanted that are looked at."""

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
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found"),
        *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),
        *("@eadir", "#recycle", "#snapshot", "@tmp", "@recycle", "@recently-snapshot"),  # NAS
        *("network trash folder", "temporary items", "__pycache__"),
    }
)
_MARKS: Final = (":zone.identifier", "@synoeastream", "@synoresource", "~", ".swp", ".swo")
_OF_EDITORS: Final = re.compile(r"~\$.+|#.+#|~.+\.tmp")  # Office, Emacs
_SIDECARS: Final = frozenset(
    {".json", ".txt", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", ".bval", ".bvec", ".log"}
)
_PACKED: Final = (".gz", ".bz2", ".xz", ".zip", ".7z", ".zst", ".rar", ".tar", ".tgz", ".z")
_UNFINISHED: Final = (".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp")
_WITHIN: Final = re.compile(
    f"(.+?)(?:{'|'.join(map(re.escape, sorted(ENDINGS, key=len, reverse=True)))})[\\W_].*", re.I
)
"""Names that go on behind a known ending: `p1.nii.bz2`, `p1.png (1)`."""

_NUMBERED: Final = re.compile(r"(.+_\d{4})\W.*")
_NAMED_ALIKE: Final = {
    "images": ("imagestr", "imagetr", "images", "image", "imgs"),
    "labels": ("labelstr", "labeltr", "labels", "label", "masks", "masktr", "maskstr", "mask"),
}
"""Names of folders, in small letters, that people give to `imagesTr` and `labelsTr`."""

_ADDED: Final = re.compile(
    r"_(\d{4}|masks?|seg|segmentation|labels?|gt|groundtruth|manual|annotations?)$"
)
_BEFORE: Final = re.compile(r"^(masks?|seg|labels?|gt)_")


def is_litter(name: str) -> bool:
    """Whether a file is hidden, or left by a system, a NAS or an editor: `._a.png`, `#recycle`."""
    plain = name.casefold()
    marked = plain.startswith(".") or plain.endswith(_MARKS) or _OF_EDITORS.fullmatch(plain)
    return bool(marked) or plain in _LITTER


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


def stem_of(name: str) -> str:
    """An image's name without its ending, known or not; as it is if it looks like no image's."""
    if ending := ending_of(name):
        return name.removesuffix(ending)
    found = _WITHIN.fullmatch(name) or _NUMBERED.fullmatch(name)
    return found[1] if found else name


def composed(name: str) -> str:
    """A name in one of the ways to write its letters: a Mac writes others (NFD)."""
    return unicodedata.normalize("NFC", name)


def plain(name: str) -> str:
    """A name without ending, capitals, and what people add to the names of masks."""
    bare = stem_of(composed(name)).casefold()
    bare = _BEFORE.sub("", re.sub(r"[\s.-]", "_", bare))
    while (shorter := _ADDED.sub("", bare)) not in (bare, ""):
        bare = shorter
    return bare


def unread(path: Path, ending: str, stem: str = "") -> DataFileError | None:
    """The fault of a file of a case with an ending of no known format; None if it is none.

    Args:
        path: the file; it is no fault if the file of its case is beside it.
        ending: the data set's.
        stem: its name up to its ending; empty: where it looks like a case's.
    """
    name = composed(path.name)
    stem = stem or stem_of(name)
    rest = name[len(stem) :]
    if not rest or ending_of(name) or (path.parent / f"{stem}{ending}").exists():
        return None
    remedy = f"Store it as {stem}{ending}, or move it away."
    if rest.lower().endswith(_PACKED):
        remedy = f"Unpack it, and store what it holds as {stem}{ending}."
    elif rest.lower().endswith(_UNFINISHED):
        remedy = "It looks like a download that was cut off: download it again."
    return DataFileError(path, f"ends in {rest.strip()}, which is not read", remedy)


def of_unknown_ending(
    paths: Iterable[Path], ending: str, lacking: Container[str] = (), dropped: Container[str] = ()
) -> dict[str, DataFileError]:
    """Case to the fault of a file that looks like its mask, but for an unknown ending.

    Args:
        paths: the files.
        ending: what masks end in.
        lacking: cases without a mask.
        dropped: cases whose image has a fault, by their `plain` names.
    """
    found = {}
    for path in paths:
        name = composed(path.name)
        stems = [name[: dot.start()] for dot in re.finditer(r"\.", name)]
        own = [stem for stem in stems if stem in lacking or plain(stem) in dropped]
        if within := _WITHIN.fullmatch(name):
            own.append(within[1])
        if own and (fault := unread(path, ending, own[0])):
            found[own[0]] = fault
    return found


def wrong_ending(path: Path, ending: str, *, labels: bool, most: int = 1) -> DataFileError | None:
    """The fault of an image or mask that ends otherwise than the data set's; None if it does not.

    The remedy changes the name alone only where it leaves the format as it is. `most` modalities
    may lie in an image.
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
    return DataFileError(path, reason, suited(remedy, kind_of(path, labels=labels, most=most)))


def undecodable(path: Path) -> DataFileError:
    """The fault of a file whose name is not text, or no text in this process's locale."""
    try:
        name = os.fsencode(path.name).decode()
    except UnicodeDecodeError:
        return DataFileError(
            path, "has a name that is not UTF-8, so no record can name it", RENAMED
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


def files_below(path: Path) -> list[Path]:
    """The first `MOST_BELOW` files in a folder, at any depth: it may be a link to a whole disk."""
    found = (Path(place, name) for place, _, names in os.walk(path) for name in names)
    return sorted(islice(found, MOST_BELOW))


def in_folder(path: Path, ending: str) -> DataFileError | None:
    """The fault of a folder where files are wanted, if it holds images; else None."""
    files = [
        found
        for found in files_below(path)
        if not any(map(is_litter, found.relative_to(path).parts)) and found.is_file()
    ]
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


def shifted(
    alone: Sequence[str], masks: Iterable[str], cases: Iterable[str]
) -> tuple[str, str] | None:
    """The first mask and the first image, if all masks are numbered one above or below."""
    numbered = re.compile(r"(.*?)(\d+)")
    own, wanted = (
        sorted((match[1], int(match[2])) for name in names if (match := numbered.fullmatch(name)))
        for names in (masks, cases)
    )
    for step in (1, -1):
        if own and alone and own == [(text, number + step) for text, number in wanted]:
            return min(masks), min(cases)
    return None


def nearest(masks: Iterable[Path], cases: Sequence[str], ending: str) -> dict[Path, str]:
    """Masks, and to each the only case of nearly its name."""
    alike: dict[str, list[str]] = {}
    for name in cases:
        alike.setdefault(plain(f"{name}{ending}"), []).append(name)
    found = {}
    for path in masks:
        if len(names := alike.get(plain(path.name), [])) == 1:
            found[path] = names.pop()
    return found


def misnamed_folder(wanted: Path) -> DataFileError | None:
    """The fault of a folder by which somebody may have meant `imagesTr` or `labelsTr`, or None."""
    if not wanted.name.endswith("Tr") or not wanted.parent.is_dir():
        return None
    names = _NAMED_ALIKE[wanted.name.removesuffix("Tr")]
    for path in sorted(wanted.parent.iterdir()):
        alike = path.name.lower() in names and path.is_dir()
        if alike and any(ending_of(inside.name) for inside in path.iterdir()):
            remedy = f"Rename the folder {path.name} to {wanted.name}."
            return DataFileError(path, f"is not read: {wanted.name} is", remedy)
    return None


def lonely(path: Path, lacking: Sequence[str], ending: str) -> DataFileError:
    """The fault of a mask without an image, of which it may be that of a case that lacks one."""
    nearest = difflib.get_close_matches(path.name.removesuffix(ending), lacking, n=1, cutoff=0.75)
    hint = f"If it is {nearest[0]}'s, rename it to {nearest[0]}{ending}. " if nearest else ""
    remedy = f"{hint}Add the image, or move the mask away."
    return DataFileError(path, "this mask has no image", remedy)
