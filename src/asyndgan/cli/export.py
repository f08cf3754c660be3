"""`asyndgan export`: writes a synthetic data set as DICOM."""

from pathlib import Path
from typing import Annotated

import typer

from asyndgan.cli.terminal import Terminal
from asyndgan.texts import counted


def export(
    synthetic: Annotated[
        Path,
        typer.Argument(metavar="SYNTHETIC", help="Synthetic data set, as 'generate' writes it."),
    ],
    out: Annotated[Path, typer.Argument(metavar="TO", help="New folder to write.")],
) -> None:
    """Writes a synthetic data set as DICOM, marked as synthetic.

    Each case becomes a study with a series for each modality and a SEG for its mask. Names,
    descriptions and comments say that it is synthetic. A set that is not declared synthetic is
    refused.

    Example:
        asyndgan export synthetic dicom
    """
    from asyndgan.dicom.exporting import export as write
    from asyndgan.dicom.files import require_packages

    require_packages()
    console = Terminal()
    with console.status("Writing studies ..."):
        count = sum(1 for _ in write(synthetic, out))
    console.say(f"{counted(count, 'case')} as DICOM in {out}.")
