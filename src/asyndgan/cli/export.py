"""`asyndgan export`: a synthetic data set as DICOM, or a run's generator for other software."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from asyndgan.cli.terminal import Terminal
from asyndgan.errors import RunError
from asyndgan.runs.shipped import is_shipped, licence_of, run_of
from asyndgan.texts import counted


class Form(StrEnum):
    """What is written."""

    DICOM = "dicom"
    ONNX = "onnx"
    BUNDLE = "monai-bundle"


def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Synthetic data set, as 'generate' writes it; to onnx and monai-bundle, RUN.",
            parser=run_of,
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder to write.")],
    to: Annotated[Form, typer.Option("--to")] = Form.DICOM,
) -> None:
    """Writes a set as DICOM, or a generator as ONNX or MONAI bundle.

    As DICOM, each case becomes a study with a series for each modality and a SEG for its mask.
    Names, descriptions and comments say that it is synthetic. A set that is not declared synthetic
    is refused.

    A generator as ONNX, or as a bundle that 'python -m monai.bundle run' paints from, needs no
    asyndgan. Its README.md says how to use it. No audit permits to pass it on: ask the sites.

    Example:
        asyndgan export synthetic dicom
        asyndgan export nuclei bundle --to monai-bundle

    Output:
        --to FORM: dicom, onnx or monai-bundle.
    """
    from asyndgan.runs import RunFolder

    console = Terminal()
    if to is Form.DICOM:
        if RunFolder(source).facts_file.exists():
            raise RunError(f"{source} is a run: name a set of it, or --to onnx or monai-bundle.")
        from asyndgan.dicom.exporting import export as write
        from asyndgan.dicom.files import require_packages

        require_packages()
        with console.status("Writing studies ..."):
            count = sum(1 for _ in write(source, out))
        return console.say(f"{counted(count, 'case')} as DICOM in {out}.")
    from asyndgan.painting.bundle import write_bundle
    from asyndgan.painting.portable import write_onnx

    with console.status("Writing the generator ..."):
        (write_onnx if to is Form.ONNX else write_bundle)(RunFolder(source), out)
    if is_shipped(source):
        return console.say(f"The generator as {to} in {out}. Licence: {licence_of(source)}.")
    console.say(f"The generator as {to} in {out}. No audit permits to pass it on: ask the sites.")
