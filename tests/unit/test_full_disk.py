"""Every writer on a full disk: it names the file, asks for space, and leaves no half of a file."""

import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines.flare import kits
from asyndgan.engines.flare.member import make_request
from asyndgan.errors import AsyndganError, LedgerError, StorageError
from asyndgan.export.writing import written_whole
from asyndgan.judging.bench import write_whole
from asyndgan.privacy import Openings
from asyndgan.privacy.accounting import _write as write_account
from asyndgan.privacy.ledger import Ledger, read
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.runs.kept_masks import MaskBank
from asyndgan.runs.recorder import Board
from asyndgan.runs.train import train
from asyndgan.texts import append, replace_text
from asyndgan.training import checkpoint

FULL = r"[Nn]o space left.* Free space|larger than its disk.* raise the limit"


@dataclass
class Disk:
    """A disk of a few megabytes, or where none can be mounted, a limit on the size of files."""

    path: Path
    mounted: bool

    @contextmanager
    def full(self, free: int = 0) -> Iterator[None]:
        """Leaves so many bytes free while the context lasts."""
        filler = self.path / ".filler"
        if not self.mounted:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
            yield
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            return
        filler.write_bytes(b"0" * (shutil.disk_usage(self.path).free - free))
        yield
        filler.unlink()


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    mounted = shutil.which("mount") is not None
    mounted = mounted and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield Disk(place, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def written(folder: Path) -> None:
    with written_whole(folder / "set") as half:
        write_phantoms(half, size=32, patients_scale=0.1)


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a run": ("run/recipe.toml", lambda at: RunFolder.create(at / "run", Recipe())),
    "metrics": ("metrics.jsonl", lambda at: append(at / "metrics.jsonl", b"{}\n")),
    "TensorBoard": ("tfevents", lambda at: Board(at, 0)),
    "a checkpoint": (
        "step-1.safetensors",
        lambda at: checkpoint.write(at / "step-1.safetensors", {"a": torch.zeros(9)}, {}),
    ),
    "released masks": (
        "north-m00001.png",
        lambda at: MaskBank(at).keep("north", torch.ones(1, 8, 8, dtype=torch.int64)),
    ),
    "a data set": ("set", written),
    "an evaluation's cache": ("cache/a.json", lambda at: write_whole(at / "cache/a.json", b"{}")),
    "a site's books": ("openings.json", lambda at: Openings(at).admit("a" * 64, 5)),
    "a site's account": ("account.json", lambda at: write_account(at / "account.json", {})),
    "a site's key": ("north", lambda at: make_request(at / "north")),
    "a federation": (
        "fed", lambda at: kits.init_federation(at / "fed", host="h", port=1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_named_with_the_file_and_leaves_no_half_of_it(disk, writer):
    name, write = WRITERS[writer]
    with disk.full(), pytest.raises(AsyndganError, match=FULL) as raised:
        write(disk.path)
    assert name in str(raised.value)
    assert [path for path in disk.path.rglob("*") if path.is_file() and path.stat().st_size] == []
    write(disk.path)  # with space it succeeds, whatever was left


@pytest.mark.parametrize("writer", ["a data set", "an evaluation's cache"])
def test_no_folder_appears_that_is_not_complete(disk, writer):
    deep, (_, write) = disk.path / "new" / "deeper", WRITERS[writer]
    with disk.full(), pytest.raises(AsyndganError, match=FULL):
        write(deep)
    assert {path.name for path in disk.path.iterdir()} <= {".filler"}
    deep.mkdir(parents=True)  # what was there stays
    (deep / "mine").touch()
    with disk.full(), pytest.raises(AsyndganError, match=FULL):
        write(deep)
    assert [path.name for path in deep.iterdir()] == ["mine"]


def test_what_was_written_before_stays_as_it_was(disk):
    text, lines = disk.path / "run.json", disk.path / "metrics.jsonl"
    replace_text(text, "old")
    append(lines, b"1\n")
    with disk.full(4096):
        for write in (lambda: replace_text(text, "new" * 5000), lambda: append(lines, b"2" * 9000)):
            with pytest.raises(StorageError, match=FULL):
                write()
    assert (text.read_text(), lines.read_text()) == ("old", "1\n")


def test_nothing_leaves_without_a_line_in_the_ledger(disk):
    ledger = Ledger(disk.path / "ledger.jsonl", "a" * 64)
    with disk.full(), pytest.raises(LedgerError, match=r"nothing may leave\. Free space"):
        ledger.append(run="1f", kind="judgement", step=1, payload=b"x")
    assert list(read(disk.path / "ledger.jsonl")) == []


def test_a_training_that_fills_the_disk_is_resumed_when_there_is_space(disk, tmp_path, tiny):
    write_phantoms(tmp_path / "sites", size=32, sites=DEFAULT_SITES[:1], patients_scale=0.1)
    sites, recipe = {"north": tmp_path / "sites" / "north"}, tiny("image.size=32")
    out = disk.path / "run"
    with disk.full(2**17), pytest.raises(AsyndganError, match=FULL):
        train(recipe, sites, out)
    assert not list(out.rglob("*.half"))
    begun = (out / "run.json").exists()
    assert train(recipe, sites, out, resume=begun).facts().state == "finished"
