"""Two sites' small data sets, and what a user does to files as a remedy says."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asyndgan.export.writing import write_dataset
from asyndgan.store.case import RawCase

SOURCE = Path(__file__).parents[1] / "src/asyndgan"


def remedies_of(*files: str) -> Iterator[tuple[str, str]]:
    """Module and text of every remedy that is written in the source, as `texts_of`.

    Those are the sentences that begin with a capital and end with a full stop.
    """
    for module, text in texts_of(*files):
        if re.fullmatch(r"([A-Z]|\{\}).{3,}([.] ?|: \{\}|[.] .*\{\})", text, re.DOTALL):
            yield module, text


def texts_of(*files: str) -> Iterator[tuple[str, str]]:
    """Module and text of all that the source says but docstrings; `{}` where one is put in."""
    for path in sorted(path for pattern in files for path in SOURCE.glob(pattern)):
        tree = ast.parse(path.read_text())
        said = {
            one.value for node in ast.walk(tree)
            for one in (getattr(node, "body", None) if isinstance(node,
                ast.stmt | ast.Module) else None) or ()
            if isinstance(one, ast.Expr)
        }  # fmt: skip
        for node in ast.walk(tree):
            if node in said:
                continue
            text = ""
            if isinstance(node, ast.JoinedStr):
                said |= {*ast.walk(node)}
                parts = (
                    one.value if isinstance(one, ast.Constant) else "{}" for one in node.values
                )
                text = "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            if text:
                yield path.stem.strip("_") or path.parent.name, text


def pattern_of(text: str) -> re.Pattern[str]:
    """What matches a remedy of which the source has this text."""
    return re.compile(".*".join(map(re.escape, text.split("{}"))), re.DOTALL)


def follow(remedy: str, folder: Path, **names: object) -> None:
    """Does as a remedy says, with the user's own names in place of its capitals."""
    start = remedy.index("python -c")
    command = remedy[start : remedy.index('"', start + 11) + 1]
    command += " FILES" * (f"{command} FILES" in remedy)
    for name, meant in names.items():
        assert name in command, command
        command = command.replace(name, str(meant))
    run(command.replace("python", f"'{sys.executable}'", 1), folder)


def run(command: str, folder: Path) -> None:
    """Runs a command line; it has to succeed."""
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (command, done.stderr)


class Owned:
    """One site's data set, and its originals.

    Args:
        folder: the data set.
        clean: the same without a fault.
    """

    def __init__(self, folder: Path, clean: Path) -> None:
        self.folder, self.clean = folder, clean
        self.named = str(folder)
        """What a command is given."""
        self.told = ""
        """Every remedy that is printed of this site."""

    @property
    def ending(self) -> str:
        return str(self.table["file_ending"])

    @property
    def table(self) -> dict[str, Any]:
        return json.loads((self.folder / "dataset.json").read_text())

    def images(self, number: int = 0) -> list[Path]:
        return sorted((self.folder / "imagesTr").glob(f"*_{number:04}.*"))

    def masks(self) -> list[Path]:
        return sorted((self.folder / "labelsTr").iterdir())

    def write(self, **keys: object) -> None:
        """Writes keys into dataset.json; takes out those that are None."""
        table = {**self.table, **keys}
        table = {key: value for key, value in table.items() if value is not None}
        (self.folder / "dataset.json").write_text(json.dumps(table))

    def restore(self, *files: Path) -> None:
        """Puts the originals in place: what was exported, copied or downloaded again."""
        for file in files or [self.folder]:
            own = self.clean / file.relative_to(self.folder)
            if file.is_symlink() or file.is_file():
                file.unlink()
            elif file.is_dir():
                shutil.rmtree(file)
            if own.exists():
                (shutil.copytree if own.is_dir() else shutil.copy)(own, file)

    def leave_out(self, file: Path, remedy: str = "") -> None:
        """Removes the case of a file, and counts the others where the remedy says so."""
        case = re.sub(r"(_\d{4})?\..*", "", file.name)
        for path in self.folder.glob(f"*Tr/{case}[._]*"):
            path.unlink()
        if "numTraining" in remedy + self.told:
            self.write(numTraining=len(self.images()))


def sites(folder: Path, ending: str, names: Sequence[str], *, deep: int = 0) -> list[Owned]:
    """Two sites of four patients with two cases each (of volumes, `deep` slices: one each)."""
    made = []
    for place, name in enumerate(("north", "south")):
        clean = folder / f"clean_{name}"
        labels = {"background": 0, "lesion": 1}
        cases = list(_cases(name[0], names, deep, place))
        write_dataset(clean, cases, modalities=names, labels=labels, name=name, file_ending=ending)
        shutil.copytree(clean, folder / name)
        made.append(Owned(folder / name, clean))
    return made


def _cases(first: str, names: Sequence[str], deep: int, seed: int) -> Iterator[RawCase]:
    chance = np.random.default_rng(seed)
    sides = (deep, 32, 32) if deep else (32, 32)
    rows, columns = np.mgrid[0:32, 0:32]
    for patient in range(4):
        for place in range(1 if deep else 2):
            shift = chance.integers(0, 8)
            mask = ((rows - 16) ** 2 + (columns - 12 - shift) ** 2 < 60) * np.ones(sides, int)
            if deep:
                mask[[0, -1]] = 0
            body = ((rows - 16) ** 2 + (columns - 16) ** 2 < 220) * np.ones(sides)
            low, span = (-1000, 1100) if names == ["CT"] else (5, 120)
            images = {}
            for number, name in enumerate(names):
                lesion = mask * (90 - 30 * number)
                noise = chance.normal(0, 8, sides)
                image = low + body * span + lesion + noise
                images[name] = np.clip(image, low - 20, low + 245).round() if low > 0 else (
                    image.round()
                )  # fmt: skip
            yield RawCase(
                f"{first}{patient}_s{place}" if not deep else f"{first}{patient}",
                f"{first}{patient}",
                {name: values.astype(np.float32) for name, values in images.items()},
                mask,
                (1.0, 1.0),
            )
