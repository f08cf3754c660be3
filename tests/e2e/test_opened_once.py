"""A command reads each dataset.json once, and each site's images as often as a single reader."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.intake.dataset import DataSet
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.runs.train import train
from asyndgan.store.store import Store
from reading import read_cases

SITES = [site.name for site in DEFAULT_SITES[:2]]
_COUNTING: list[Counter[Path]] = []


def _count(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or not _COUNTING or not isinstance(arguments[0], str | Path):
        return
    _, mode, flags = arguments
    written = isinstance(mode, str) and set(mode) & set("wax+")
    if not written and not (isinstance(flags, int) and flags & 3):
        _COUNTING[-1][Path(arguments[0])] += 1


sys.addaudithook(_count)  # it stays for good, and counts only when asked to


@contextmanager
def opened() -> Iterator[Counter[Path]]:
    """How often each file is opened for reading in the context."""
    _COUNTING.append(Counter())
    yield _COUNTING[-1]
    _COUNTING.pop()


def images(opens: Counter[Path], folder: Path) -> dict[Path, int]:
    return {
        path: count for path, count in opens.items() if path.is_relative_to(folder / "imagesTr")
    }


@pytest.fixture(scope="module")
def run(tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run beside its two sites, a test set and a site's set whose cases lack a modality."""
    folder = tmp_path_factory.mktemp("opened")
    write_phantoms(folder, size=32, sites=DEFAULT_SITES[:2], patients_scale=0.2)
    recipe = tiny(
        "image.size=32", "training.steps=2", "training.hold_out=0.4", "masks.release=false"
    )
    done = train(recipe, {name: folder / name for name in SITES}, folder / "run")
    shutil.copytree(folder / SITES[0], folder / "lacking")
    table = json.loads((folder / "lacking/dataset.json").read_text())
    number = max(table["channel_names"])
    del table["channel_names"][number]
    (folder / "lacking/dataset.json").write_text(json.dumps(table))
    for path in (folder / "lacking/imagesTr").glob(f"*_000{number}.png"):
        path.unlink()
    return done


@pytest.mark.parametrize(
    ("words", "copied"),
    [
        ("evaluate --site {0} --site {1} --steps 2", 0),
        ("evaluate --site {0} --site {1} --test {folder}/test --steps 2", 0),
        ("audit --site {0}", 0),
        ("augment --site {folder}/" + SITES[0] + " --masks {folder}/test", 1),
        ("complete --site {folder}/lacking --masks {folder}/test --steps 2", 1),
    ],
)
def test_a_command_reads_each_description_and_each_real_image_once(
    run: RunFolder, words: str, copied: int, tmp_path: Path
) -> None:
    folder = run.path.parent
    pairs = [f"{name}={folder / name}" for name in SITES]
    command, *rest = words.format(*pairs, folder=folder).split()
    for name in (*SITES, "test", "lacking"):
        Store(folder / name).remove()
    with opened() as opens:
        out = str(tmp_path / "out")
        done = CliRunner().invoke(app, [command, str(run.path), *rest, "--out", out])
    assert done.exit_code == 0, done.output
    described = {path: count for path, count in opens.items() if path.name == "dataset.json"}
    assert described and set(described.values()) == {1}
    real = [folder / name for name in (*SITES, "test", "lacking") if images(opens, folder / name)]
    assert real
    for site in real:
        with opened() as single:
            assert [*read_cases(site)]
        once = {path: count + copied for path, count in images(single, site).items()}
        assert images(opens, site) == once
        with opened() as again:
            DataSet(site).cases(run.recipe().image)
        assert not images(again, site)
