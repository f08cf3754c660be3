"""What a data set's files hold, as one digest: by it a suite knows that its inputs are the same."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from asyndgan.intake.dataset import DataSet
from asyndgan.received import opened


def digest_of_files(folder: Path, further: Sequence[str] = ()) -> str:
    """SHA-256 of the paths and contents of dataset.json and the cases' files, in hexadecimal.

    Nothing else in the folder counts: a link in it may lead to a whole disk.

    Args:
        folder: of the data set.
        further: folders in it, whose files count too if they end as images do.

    Raises:
        DataError: the data set cannot be listed.
    """
    data = DataSet(folder)
    files = {folder / "dataset.json"}
    for case in data.files:
        files |= {*case.images.values(), *filter(None, [case.mask])}
    for name in further:
        found = (folder / name).glob(f"*{data.info.file_ending}")
        files |= {path for path in found if path.is_file()}
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with opened(path, 2**63, links=True) as file:
            while part := file.read(2**20):
                digest.update(part)
    return digest.hexdigest()
