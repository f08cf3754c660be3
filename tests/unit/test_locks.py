"""What one command writes no other writes at the same time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asyndgan.auditing.records import audit_records
from asyndgan.auditing.run import audit_run
from asyndgan.errors import BusyError
from asyndgan.export.writing import written_whole
from asyndgan.judging.bench import Bench
from asyndgan.judging.of_run import evaluate_run
from asyndgan.judging.records import evaluate_records
from asyndgan.locks import held, written_alone
from asyndgan.runs import RunFolder
from asyndgan.runs.sites import RunSites

RUN, SITES = object.__new__(RunFolder), object.__new__(RunSites)  # of nothing


def painted(out: Path) -> None:
    with written_whole(out):
        pass


@pytest.mark.parametrize(
    "write",
    [
        painted,
        lambda out: evaluate_run(SITES, None, None, Bench(out)),
        lambda out: evaluate_records(RUN, {}, Bench(out)),
        lambda out: audit_run(SITES, out),
        lambda out: audit_records(RUN, {}, out),
    ],
)
def test_the_second_to_write_a_folder_is_told_at_once(
    write: Callable[[Path], object], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    with written_alone(out), pytest.raises(BusyError, match="another command is writing"):
        write(out)
    assert not list(out.parent.iterdir())


def test_a_folder_is_free_again_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="full"), written_whole(tmp_path / "set"):
        raise ValueError("full")
    with written_whole(tmp_path / "set") as half:
        half.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_lock_is_not_written_through_a_link(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "received", tmp_path / "books"
    folder.mkdir()
    elsewhere.write_text("ours")
    (folder / ".held").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic link"), held(folder, "busy"):
        pass
    assert elsewhere.read_text() == "ours"
