"""Faults of two sites' data sets, each with what a user does who obeys the remedy.

Those that only ask for the file as it was, or for a key of dataset.json as it was, are not here.
"""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from PIL import Image

from obeying import Owned, follow, run

BASES: dict[str, tuple[str, list[str], int]] = {
    "grey": (".png", ["T1", "T2"], 0), "one": (".png", ["T1"], 0), "tif": (".tif", ["T1"], 0),
    "ct": (".nii.gz", ["CT"], 12), "plain": (".nii", ["CT"], 12),
}  # fmt: skip

Spoil = Callable[[Owned], object]
Obey = Callable[[Owned, Path, str], object]
"""Does as a remedy says of a file; a list that it returns is typed as options."""


class Case(NamedTuple):
    """A fault of a data set of `BASES`, and each way to obey its remedy."""

    base: str
    spoil: Spoil
    obeys: tuple[Obey, ...]
    options: tuple[str, ...] = ()


def case(base: str, spoil: Spoil, *obeys: Obey, options: tuple[str, ...] = ()) -> Case:
    return Case(base, spoil, obeys, options)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def save(path: Path, values: Any, **how: Any) -> None:
    Image.fromarray(np.asarray(values)).save(path, **how)


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def store(path: Path, values: np.ndarray, affine: Any = None) -> None:
    nib.save(nib.Nifti1Image(values, nib.load(path).affine if affine is None else affine), path)


# What a user does.


def restore(own: Owned, file: Path, said: str) -> None:
    own.restore(file)


def leave_out(own: Owned, file: Path, said: str) -> None:
    own.leave_out(file, said)


def remove(own: Owned, file: Path, said: str) -> None:
    file.unlink()


def typed(own: Owned, file: Path, said: str) -> list[str]:
    return [word.strip("'\"") for word in re.findall(r"--set (\S+?)[.;,]?(?= |$)", said)]


def as_json(own: Owned, file: Path, said: str) -> None:
    """Writes the key and map that a remedy shows."""
    found = re.search(r'"(\w+)": (\{.*?\}|\S+?)(?=[.,]? |\.$|$)', said)
    assert found, said
    own.write(**{found[1]: json.loads(found[2].rstrip("."))})


def rename(pattern: str) -> Obey:
    """Renames as the groups of a pattern say: the old and the new name, or the new one alone."""

    def done(own: Owned, file: Path, said: str) -> None:
        found = re.search(pattern, said)
        assert found, said
        old = file if len(found.groups()) == 1 else file.parent / found[1]
        old.rename(old.with_name(found[found.lastindex or 1]))

    return done


def written(**keys: object) -> Obey:
    return lambda own, file, said: own.write(**keys)


def first(change: Callable[[Owned, Path], object], what: str = "images") -> Spoil:
    """Spoils the first image or mask."""
    return lambda own: change(own, getattr(own, what)()[0])


def each(change: Callable[[Owned, Path], object], what: str = "images") -> Spoil:
    """Spoils all images or masks."""
    return lambda own: [change(own, path) for path in getattr(own, what)()]


def described(**keys: object) -> Spoil:
    return lambda own: own.write(**keys)


def remapped(table: dict[int, int]) -> Callable[[Owned, Path], object]:
    def done(own: Owned, path: Path) -> None:
        values = read(path)
        save(path, np.vectorize(lambda one: table.get(int(one), int(one)))(values).astype(np.uint8))

    return done


# Faults.


def south(spoil: Spoil) -> Spoil:
    """Spoils one site alone."""
    return lambda own: spoil(own) if own.folder.name == "south" else None


def of_north(own: Owned) -> Path:
    return own.folder.with_name("north")


def also_in(own: Owned) -> None:
    """Puts a case of the first site, under another name, into the second."""
    image, mask = own.images()[0], own.masks()[0]
    theirs = Owned(of_north(own), own.clean)
    for number in (0, 1):
        shutil.copy(theirs.images(number)[0], own.images(number)[0])
    shutil.copy(theirs.masks()[0], mask)
    assert image.exists()


def numbered(own: Owned, table: dict[str, int], change: dict[int, int]) -> None:
    own.write(labels=table)
    each(remapped(change), "masks")(own)


def patient_of_both(own: Owned) -> None:
    for path in [*own.images(), *own.images(1), *own.masks()]:
        if path.name.startswith("s0"):
            path.rename(path.with_name(path.name.replace("s0", "n0", 1)))


def other_patient(own: Owned, file: Path, said: str) -> None:
    for path in [*own.images(), *own.images(1), *own.masks()]:
        if path.name.startswith("n0") and own.folder.name == "south":
            path.rename(path.with_name(path.name.replace("n0", "x0", 1)))


def patient_left_out(own: Owned, file: Path, said: str) -> None:
    for path in [one for one in own.images() if one.name.startswith(file.name[:2])]:
        own.leave_out(path, said)


def untested(own: Owned, file: Path, said: str) -> None:
    for path in file.parent.glob(f"{file.name[:2]}*"):
        path.unlink()


def tested(own: Owned) -> None:
    (own.folder / "imagesTs").mkdir()
    for number in (0, 1):
        image = own.images(number)[0]
        shutil.copy(image, own.folder / "imagesTs" / image.name)


def one_modality(own: Owned, file: Path, said: str) -> None:
    """Takes the second modality out, and its files where that is said."""
    own.write(channel_names={"0": "T1"})
    for path in own.images(1) if "files" in said else ():
        path.unlink()


def incomplete(own: Owned, file: Path, said: str) -> None:
    for path in [file] if "remove the files" in said and file.exists() else ():
        path.unlink()
    own.write(incomplete=True)


def stacked(own: Owned) -> None:
    """A file of 17 modalities a case."""
    for path in own.images():
        store(path, np.stack([voxels(path) + 5 * n for n in range(17)], -1))
    own.write(channel_names={str(n): f"C{n}" for n in range(17)})


def named(change: Callable[[Owned], object]) -> Spoil:
    def done(own: Owned) -> None:
        own.named = str(change(own))

    return done


def percentiles(own: Owned, file: Path, said: str) -> list[str]:
    key = "image.intensity.default"
    return [f"{key}.kind=percentiles", f"{key}.low=0.5", f"{key}.high=99.5"]


def ignoring(own: Owned) -> None:
    own.write(labels={"background": 0, "lesion": 1, "ignore": 2})
    values = read(own.masks()[0])
    values[:3] = 2
    save(own.masks()[0], values)


def without_ignored(own: Owned, file: Path, said: str) -> None:
    own.leave_out(own.images()[0], said)
    own.write(labels={"background": 0, "lesion": 1})


def annotated(own: Owned, file: Path, said: str) -> None:
    remapped({2: 0})(own, own.masks()[0])
    own.write(labels={"background": 0, "lesion": 1})


def ignoring_alone(own: Owned) -> None:
    own.write(labels={"lesion": 1, "ignore": 2})
    each(remapped({0: 2}), "masks")(own)


def ignored_is_0(own: Owned, file: Path, said: str) -> list[str]:
    own.write(labels={"lesion": 1, "unlabelled" if "'unlabelled'" in said else "ignore": 0})
    each(remapped({2: 0}), "masks")(own)
    return typed(own, file, said)


def background_is_1(own: Owned) -> None:
    numbered(own, {"background": 1, "lesion": 0}, {0: 1, 1: 0})


def exchanged(own: Owned, file: Path, said: str) -> None:
    numbered(own, {"background": 0, "lesion": 1}, {0: 1, 1: 0})


def scaled(own: Owned) -> None:
    for one in (own.images()[0], own.masks()[0]):
        store(one, voxels(one), np.diag([3, 3, 1, 1]))


def few_labelled(own: Owned) -> None:
    for path in own.masks():
        values = voxels(path).copy()
        values[..., :8] = 0
        store(path, values)


def by_case(own: Owned) -> None:
    for number, (image, mask) in enumerate(zip(own.images(), own.masks(), strict=True)):
        for path in (image, mask):
            path.rename(path.with_name(f"{own.folder.name}{number // 2}_s_{number:04}.png"))


def with_number(own: Owned, file: Path, said: str) -> None:
    for path in sorted((own.folder / "imagesTr").iterdir()):
        path.rename(path.with_name(f"{path.stem}_0000.png"))


def add_image(own: Owned, file: Path, said: str) -> None:
    own.restore(own.folder / "imagesTr" / file.name.replace(".", "_0000.", 1))


def remove_mask(own: Owned, file: Path, said: str) -> None:
    file.unlink()
    own.write(numTraining=len(own.images()))  # as is told beside it


def shell(own: Owned, file: Path, said: str) -> None:
    line = re.search(r"(?:gzip|gunzip) .*?(?=\.$|\. )", said)
    assert line
    run(line[0].replace("FILE", file.name).replace("NEW", "new"), file.parent)


def unpacked(own: Owned, path: Path) -> None:
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()


def packed(own: Owned, path: Path) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def added_channel(own: Owned, file: Path, said: str) -> None:
    names = json.loads((own.clean / "dataset.json").read_text())["channel_names"]
    own.write(channel_names={**names, str(len(names)): "new"})


OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME><Image ID="Image:0"><Pixels DimensionOrder="XYZCT" '
    'SizeX="32" SizeY="32" SizeZ="1" SizeC="2" SizeT="1" Type="uint8"><Channel Name="{}"/>'
    '<Channel Name="{}"/></Pixels></Image></OME>'
)


def ome(names: tuple[str, str], channels: dict[str, str]) -> Spoil:
    def done(own: Owned) -> None:
        for path in own.images():
            values = read(path)
            one, two = (Image.fromarray(part) for part in (values, 230 - values // 2))
            one.save(path, save_all=True, append_images=[two], description=OME.format(*names))
        own.write(channel_names=channels)

    return done


def placed_by_image(own: Owned, file: Path, said: str) -> None:
    image = f"../imagesTr/{file.name.replace('.nii', '_0000.nii')}"
    follow(said, file.parent, FILE=file.name, IMAGE=image, **{"NEW.nii.gz": file.name})


def latin1(own: Owned) -> None:
    path = own.folder / "dataset.json"
    path.write_text(
        path.read_text().replace("lesion", "lésion").replace("L\\u00e9sion", "lésion"), "latin1"
    )


def regions(own: Owned) -> None:
    own.write(labels={"background": 0, "whole": [1, 2], "core": [2]})


def with_order(own: Owned, file: Path, said: str) -> None:
    own.write(regions_class_order=[1, 2])


def patient_each(own: Owned) -> None:
    own.write(patient_pattern=r"([ns])")


def patient_right(own: Owned, file: Path, said: str) -> None:
    own.write(patient_pattern=r"([ns]\d)")


def one_sided_modality(own: Owned) -> None:
    own.write(incomplete=True)
    for path in own.images(1)[2:]:
        path.unlink()


def without_modality(own: Owned, file: Path, said: str) -> None:
    own.write(channel_names={"0": "T1"})
    for path in own.images(1):
        path.unlink()


L = {"background": 0, "lesion": 1}
RANGE = (
    "recipe:default",
    "image.size=32",
    "image.intensity.default.kind=range",
    "image.intensity.default.low=0",
    "image.intensity.default.high=255",
)


CASES: list[tuple[str, Case]] = [
    ("findings: Leave them out: --set", case("ct", few_labelled, typed,
        options=("image.slices=all",))),
    ("findings: Take the intensities", case("one", each(lambda own, path: save(path,
        read(path).astype(np.uint16) * 200)), percentiles, options=RANGE)),
    ("listing: If it is the case's", case("one", by_case, with_number)),
    ("listing: Add the image, or", case("one", lambda own: own.images()[0].unlink(), add_image,
        remove_mask)),
    ("between: Keep each patient at one", case("grey", south(patient_of_both), patient_left_out,
        other_patient)),
    ("between: Keep it in one of them", case("grey", south(also_in), leave_out)),
    ("check: Keep each patient in one", case("grey", tested, untested)),
    ("check: Add the file; or", case("grey", lambda own: own.images(1)[0].unlink(),
        restore, leave_out, one_modality, incomplete)),
    ("check: Name what the run is to paint in image.labels", case("one",
        lambda own: numbered(own, {"background": 0, "lesion": 70}, {1: 70}),
        lambda own, file, said: ["image.labels.background=0", "image.labels.lesion=70"])),
    ("check: Name what the run is to paint in image.modalities", case("ct", stacked,
        lambda own, file, said: ["image.modalities=C0,C1"])),
    ("enrolment: Set image.slices", case("grey", lambda own: [own.write(incomplete=True),
        *(path.unlink() for path in own.images(1))],
        lambda own, file, said: ("image.modalities=T1",), options=("image.modalities=T2",))),
    ("description: Give each label one number", case("one", described(labels={"background": 0,
        "lesion": "one"}), as_json)),
    ("description: Annotate these pixels", case("one", ignoring, without_ignored, annotated)),
    ("description: Annotate these pixels", case("one", ignoring_alone, ignored_is_0)),
    ("description: Give regions_class_order", case("one", regions, with_order, written(labels=L))),
    ("description: Exchange 0 and", case("one", background_is_1, exchanged)),
    ("findings: Train with one for all", case("ct", scaled,
        lambda own, file, said: ["image.spacing=3"], options=("recipe:default", "image.size=32"))),
    ("grids: If it was drawn on this", case("ct", first(lambda own, path: store(path, voxels(path),
        np.eye(4) * 2), "masks"), placed_by_image)),
    ("labelling: Write 0 in its place", case("one", lambda own: remapped({0: 255})(own,
        own.masks()[0]),
        lambda own, file, said: remapped({255: 0})(own, file), leave_out)),
    ("labelling: Divide it by 255", case("one", each(remapped({1: 255}), "masks"),
        lambda own, file, said: save(file, read(file) // 255))),
    ("misnamed: Compress it", case("ct", first(unpacked), shell)),
    ("misnamed: Unpack it: gunzip", case("plain", first(packed), shell)),
    ("nnunet: Write in dataset.json", case("tif", ome(("T2", "T1"), {"0": "T1", "1": "T2"}),
        as_json)),
    ("volumes: Store one file a modality", case("ct", each(lambda own, path: store(path,
        np.stack([voxels(path)] * 2, -1))), added_channel)),
    ("sniffing: Compress it", case("ct", first(lambda own,
        path: path.write_bytes(gzip.decompress(path.read_bytes()))), shell)),
    ("sniffing: Unpack it: gzip", case("plain", first(lambda own,
        path: path.write_bytes(gzip.compress(path.read_bytes()))), shell)),
    ("enrolment: Leave {} out at this site", case("grey", one_sided_modality, typed,
        without_modality,
        options=("discriminator.cross_fitted=true",))),
    ("enrolment: If cases are one patient's", case("grey", patient_each, patient_right, typed,
        options=("discriminator.cross_fitted=true",))),
]  # fmt: skip
"""Module and beginning of a remedy in the source to its fault."""
