"""Fuzzes files: mutated DICOM, gzip and JPEG files are read or refused by one of our errors.

    python -m lab.experiments.fuzz_files --files 10000

DICOM files go through `asyndgan import`, the others through the reader of their format. Prints the
count of each outcome, the slowest file and the memory of the process; exits with 1 on an error that
is not ours, or a file that took more than 10 s or 1 GB. `--keep` names a folder for such files.
"""

import argparse
import gzip
import io
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from asyndgan.dicom.choosing import Choice, labels_of, pick
from asyndgan.dicom.importing import check_alike, read_cases
from asyndgan.dicom.series import read_archive
from asyndgan.errors import AsyndganError
from asyndgan.intake import reading

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from archives import rtstruct, save, seg, series  # type: ignore[import-not-found]  # of the tests

MOST_S = 10.0
MOST_BYTES = 2**30
SIDE = 24
WILD = (b"\0\0", b"\xff\xff", b"\x7f\xff", b"\xff\x7f", b"\0\1", b"\1\0", b"\xff" * 4, b"\0" * 4)


def picture(plane: np.ndarray, kind: str, **options: object) -> bytes:
    """A plane as Pillow packs it, of even length."""
    packed = io.BytesIO()
    Image.fromarray(plane).save(packed, kind, **options)
    return packed.getvalue() + b"\0" * (len(packed.getvalue()) % 2)


def seeds(folder: Path) -> list[list[Path]]:
    """Folders of real DICOM files, and gzip and JPEG files, each as the files to mutate."""
    draw = np.random.default_rng(0)
    values = draw.integers(0, 3000, (3, SIDE, SIDE)).astype(np.int16)
    octets = (values % 256).astype(np.uint8)
    ball = np.zeros(values.shape, bool)
    ball[1, 5:12, 6:15] = True
    images = series(values)
    ring = np.array([(0.0, 0, 0), (9, 0, 0), (9, 9, 0), (0, 9, 0)]) + images[1].ImagePositionPatient
    made = [
        save(folder / "seg", *images, seg(images, {"lesion": ball})),
        save(folder / "rtstruct", *images, rtstruct(images, {"lesion": [ring]})),
    ]
    for syntax in (RLELossless, JPEGLSLossless):
        packed = series(values)
        for image in packed:
            image.compress(syntax, generate_instance_uid=False)
        made.append(save(folder / syntax.name, *packed))
    frames: dict[str, tuple[Any, Any, str, dict[str, Any]]] = {
        "jpeg": (JPEGBaseline8Bit, octets, "JPEG", {"progressive": True}),
        "j2k": (JPEG2000Lossless, values.astype(np.uint16), "JPEG2000", {
            "no_jp2": True, "irreversible": False, "precinct_size": (32, 32)}),
        "jp2": (JPEG2000Lossless, values.astype(np.uint16), "JPEG2000", {"irreversible": False}),
    }  # fmt: skip
    for name, (syntax, planes, kind, options) in frames.items():
        packed = series(planes)
        for image, plane in zip(packed, planes, strict=True):
            image.PixelData = encapsulate([picture(plane, kind, **options)])
            image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
            image.file_meta.TransferSyntaxUID = syntax
        made.append(save(folder / name, *packed))
    sets = [sorted(one.iterdir()) for one in made]
    volume = folder / "volume.nii.gz"
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1, 2, 1])), volume)
    jpegs = [folder / "grey.jpg", folder / "scans.jpg"]
    for path, progressive in zip(jpegs, (False, True), strict=True):
        Image.fromarray(octets[0]).save(path, progressive=progressive)
    return [*sets, [volume], [volume], *([path] for path in jpegs)]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Bytes changed, cut off, repeated, inserted or replaced by wild numbers."""
    kind, place = draw.randrange(6), draw.randrange(max(1, len(content)))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + draw.randbytes(draw.randint(1, 64)) + content[place:]
    if kind == 2:
        end = place + draw.randint(1, 256)
        return content[:end] + content[place:end] * draw.choice((1, 2, 50, 2000)) + content[end:]
    changed = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(max(1, len(changed)))
        wild = draw.choice(WILD) if kind > 3 else draw.randbytes(1)
        changed[at : at + len(wild)] = wild
    return bytes(changed)


def altered(path: Path, draw: random.Random) -> bytes:
    """A mutation of a file; of a gzip file also what it holds is changed, and it has more parts."""
    content = path.read_bytes()
    if path.suffix == ".gz" and draw.random() < 0.6:
        inside = gzip.decompress(content)
        parts = b"".join(
            gzip.compress(part)
            for part in (mutated(inside, draw), b"")
            if part or draw.random() < 0.5
        )
        return parts + gzip.compress(b"") * draw.choice((0, 0, 0, 20_000))
    for _ in range(draw.randint(1, 3)):
        content = mutated(content, draw)
    return content


def imported(folder: Path) -> str:
    """What `asyndgan import` does with a folder before it writes."""
    archive = read_archive(folder)
    choice = Choice([], [], [])
    picked = pick(archive, choice)
    check_alike(picked.cases, picked.faults)
    labels = labels_of(picked.cases, choice)
    done = list(read_cases(picked.cases, choice, labels, picked.faults))
    return "DICOM read" if done else "DICOM refused"


def read(folder: Path, path: Path) -> str:
    """What becomes of a file, or of the folder of DICOM files."""
    if path.suffix == ".dcm":
        return imported(folder)
    reading.image(path, most=1)
    return f"{path.suffix} read"


def main() -> None:
    """Has the requested number of mutated files read; prints the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    draw, outcomes, slowest, bad = random.Random(arguments.seed), Counter[str](), 0.0, 0
    with tempfile.TemporaryDirectory() as name:
        sets = seeds(Path(name) / "seeds")
        for number in range(arguments.files):
            files, folder = draw.choice(sets), Path(name) / "tried"
            folder.mkdir(exist_ok=True)
            victim = draw.choice(files)
            for path in files:
                content = altered(path, draw) if path == victim else path.read_bytes()
                (folder / path.name).write_bytes(content)
            before, begun = most_resident(), time.perf_counter()
            outcome, fault = tried(lambda: read(folder, folder / victim.name), victim)  # noqa: B023
            took, grown = time.perf_counter() - begun, most_resident() - before
            outcomes[outcome] += 1
            slowest = max(slowest, took)
            if fault or took > MOST_S or grown > MOST_BYTES:
                bad += 1
                print(f"file {number}: {outcome} {fault!r}, {took:.1f} s, {grown >> 20} MB")
                if arguments.keep:
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    kept = arguments.keep / f"{number}-{victim.name}"
                    kept.write_bytes((folder / victim.name).read_bytes())
            for path in folder.iterdir():
                path.unlink()
    print(dict(outcomes.most_common()))
    print(f"slowest file {slowest:.1f} s, process of {most_resident() >> 20} MB")
    sys.exit(bool(bad))


def tried(work: Callable[[], str], victim: Path) -> tuple[str, Exception | None]:
    """The outcome of some work, and an error of it that is not ours."""
    try:
        return work(), None
    except AsyndganError:
        return f"{'DICOM' if victim.suffix == '.dcm' else victim.suffix} refused", None
    except Exception as error:  # what nobody foresaw
        return type(error).__name__, error


def most_resident() -> int:
    """The most memory that this process has held so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
