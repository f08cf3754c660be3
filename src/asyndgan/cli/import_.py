"""`asyndgan import`: makes a data set of a folder of DICOM files."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from asyndgan.cli.options import AsJson, print_json
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import DataError
from asyndgan.texts import NAME_LENGTH, counted, sentence

if TYPE_CHECKING:
    from asyndgan.dicom.choosing import Choice, Picked
    from asyndgan.dicom.importing import PatientMap
    from asyndgan.dicom.series import Archive, Series

SHOWN = 8
"""Most segments that a row of the table names."""


def import_(
    source: Annotated[
        Path,
        typer.Argument(metavar="FROM", help="Folder of DICOM files.", exists=True, file_okay=False),
    ],
    out: Annotated[Path, typer.Argument(metavar="TO", help="New folder of the data set.")],
    dry_run: Annotated[bool, typer.Option("--dry-run")] = False,
    series: list[str] | None = None,
    segmentation: list[str] | None = None,
    label: list[str] | None = None,
    patients: Annotated[Path | None, typer.Option("--map")] = None,
    names: Annotated[bool, typer.Option("--names")] = False,
    as_json: AsJson = False,
) -> None:
    """Makes a data set of a folder of DICOM files.

    Writes an nnU-Net folder of NIfTI with the voxels as stored, in Hounsfield units for CT, and
    with masks from DICOM SEG and RTSTRUCT. Patients get opaque names. What cannot be imported is
    named and left out.

    Example:
        asyndgan import archive data/north --dry-run
        asyndgan import archive data/north --series 'T1=*t1*' --label 'tumour=GTV*'

    Data:
        --series CHANNEL=PATTERN: A channel, and the series that holds it: a pattern of its
            description, number or modality. By default the series that has a segmentation, or the
            only one of a study.
        --segmentation PATTERN: Only segmentations with this description or number.
        --label NAME=PATTERN: A label, and the segments that it covers. The first label gets the
            number 1, and a later one covers an earlier. By default all drawn segments, by the
            alphabet.

    Privacy:
        --map FILE: File that tells which patient has which opaque name. It stays at the site. By
            default TO-patients.json beside TO.
        --names: Also print descriptions, file names and PatientIDs, which may name patients.

    Output:
        --dry-run: Only list what would be imported.
    """
    from asyndgan.dicom.choosing import Choice
    from asyndgan.dicom.files import require_packages
    from asyndgan.dicom.importing import PatientMap
    from asyndgan.export.writing import check_new

    require_packages()
    if not out.name:
        raise DataError(f"{out} is there already. Name a folder that does not exist.")
    choice = Choice(_pairs(series), segmentation or (), _pairs(label))
    console = Terminal(stderr=as_json)
    try:
        check_new(out)
        known = PatientMap(patients or out.with_name(f"{out.name}-patients.json"), out)
        count = _import(console, source, None if dry_run else out, choice, known, names=names)
    except DataError as error:
        raise DataError(f"{error} Nothing was written.") from error
    if dry_run:
        console.say(f"{count} can be imported. Nothing was written.")
        return
    console.say(f"{count} in {out}. {known.path} tells who they are: it stays at the site.")
    console.say(f"\nNext: asyndgan check {quote(str(out))}")


def _import(
    console: Terminal,
    source: Path,
    out: Path | None,
    choice: "Choice",
    known: "PatientMap",
    *,
    names: bool,
) -> str:
    """Imports what can be, or without `out` only tries to; returns how many cases."""
    from asyndgan.dicom.choosing import labels_of, pick
    from asyndgan.dicom.importing import check_alike, read_cases, write
    from asyndgan.dicom.series import read_archive

    with console.status("Reading headers ..."):
        archive = read_archive(source)
    picked = pick(archive, choice)
    results: dict[int, str] = {}
    try:
        check_alike(picked.cases, picked.faults)
        labels = labels_of(picked.cases, choice)
        with console.status("Reading segmentations ..." if out is None else "Writing cases ..."):
            if out is None:
                cases = read_cases(picked.cases, choice, labels, picked.faults)
                done = [(case, "a case") for case, _ in cases]
            else:
                done = list(write(out, picked.cases, choice, labels, known, picked.faults))
        for case, name in done:
            results |= {id(each): name for each in case.channels.values()}
            results |= {id(each): "its mask" for each in case.masks}
    finally:
        _show(console, archive, picked, results, names)
    if not done:
        raise DataError("no case can be imported. What is listed above says why.")
    if bare := sum(not case.masks for case, _ in done):
        console.say(
            f"! {counted(bare, 'case')} without a mask. Training needs a mask for every case. "
            "Export the segmentations too.",
            style="yellow",
        )
    if listed := ", ".join(f"{number} {name}" for name, number in labels.items() if number):
        console.say(f"Labels: {listed}. Make sure that none of them names a patient.")
    patients = {case.key[0] for case, _ in done}
    return f"{counted(len(done), 'case')} of {counted(len(patients), 'patient')}"


def _pairs(words: list[str] | None) -> list[tuple[str, str]]:
    """Names and patterns; a name alone is its own pattern."""
    return [(name, like or name) for name, _, like in (word.partition("=") for word in words or ())]


def _show(
    console: Terminal, archive: "Archive", picked: "Picked", results: dict[int, str], names: bool
) -> None:
    """Prints a row for each series, and below the table each fault and what to do."""
    faults: dict[tuple[str, str], int] = {}
    for fault in picked.faults:
        number = faults.setdefault((fault.reason, fault.remedy), len(faults) + 1)
        results[id(fault.series)] = f"see {number}"
    columns = ("patient", "study", "series", "holds", "result")
    rows = list[dict[str, str]]()
    table = Table(*columns)
    for patient, study, number, series in _numbered(archive):
        result = results.get(id(series), "not taken")
        row = (str(patient), str(study), str(number), _holds(series), result)
        rows.append(dict(zip(columns, row, strict=True)))
        table.add_row(*row)
        if names:
            told = (series.key[0], series.number, series.description, str(series.files[0]))
            table.add_row("", "", "", " | ".join(told))
    console.print(table)
    if console.stderr:
        listed = [f"{number}. {reason}. {remedy}" for (reason, remedy), number in faults.items()]
        print_json({"series": rows, "faults": listed})
    for (reason, remedy), number in faults.items():
        console.say(f"{number}. {sentence(reason)}. {remedy}", style="yellow")
    _show_notes(console, archive, picked)
    for path in [*archive.broken, *archive.foreign] if names else ():
        console.say(f"not read: {path}")


def _show_notes(console: Terminal, archive: "Archive", picked: "Picked") -> None:
    from asyndgan.dicom.importing import units_by_channel

    notes = []
    taken = [(case, each) for case in picked.cases for each in case.channels.values()]
    masks = {id(mask): mask for case in picked.cases for mask in case.masks}.values()
    drawn = {name for mask in masks for name in mask.segments.values()}
    if empty := {name for mask in masks for name in mask.empty if name} - drawn:
        notes.append(
            f"No case has a frame or a closed contour of {_listed(sorted(empty))}. These become "
            "labels only if --label names them."
        )
    if gaps := sum(mask.gaps for mask in masks):
        notes.append(
            f"Masks of {gaps} series have gaps: a slice lacks a label that slices on both sides "
            "of it have. If only some slices were contoured, interpolate the contours in the "
            "software that drew them."
        )
    if burned := sum(each.burned for _, each in taken):
        notes.append(
            f"{burned} series may have text burned into their pixels, such as a name (secondary "
            "captures, ultrasound, or as their headers say). Look at each before you train."
        )
    if tilts := [case.grid.tilt for case, _ in taken if case.grid.tilt]:
        notes.append(
            f"{len(tilts)} series were acquired with a tilted gantry (up to {max(tilts):.1f} "
            "degrees). Their affine is sheared, which software built on ITK refuses."
        )
    for name, units in units_by_channel(picked.cases).items():
        if len(units) > 1:
            told = " and ".join(unit or "units that no header tells" for unit in sorted(units))
            notes.append(
                f"Cases hold {name} in {told}: dataset.json names no unit. Bring them to one, or "
                "import them one by one."
            )
    for note in notes:
        console.say(f"! {note}", style="yellow")
    for count, what in (
        (len(archive.broken), "cannot be read, so slices may be missing"),
        (len(archive.foreign), "no DICOM"),
        (archive.others, "DICOM without images or segmentations"),
    ):
        if count:
            console.say(f"! {counted(count, 'file')}: {what}.")


def _numbered(archive: "Archive") -> list[tuple[int, int, int, "Series"]]:
    """Each series with the running numbers of patient, study and series, for the table only."""
    patients: dict[str, dict[str, int]] = {}
    rows = []
    for each in archive.series:
        studies = patients.setdefault(each.key[0], {})
        number = studies[each.key[1]] = studies.get(each.key[1], 0) + 1
        rows.append((len(patients), len(studies), number, each))
    return rows


def _listed(names: Sequence[str]) -> str:
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join([*(name[:NAME_LENGTH] for name in names[:SHOWN]), *more])


def _holds(series: "Series") -> str:
    if series.is_segmentation:
        return f"{series.kind}: {_listed([*series.segments.values()])}"
    sizes = sorted({f"{shape[2]} x {shape[1]}" for shape in series.shapes.values()})
    images = counted(len(series.frames), "image")
    return f"{series.kind}: {images} of {' or '.join(sizes[:2]) or 'no size'}"
