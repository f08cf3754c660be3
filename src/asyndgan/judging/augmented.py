"""Sets that a site augmented, checked before they are judged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Final

import torch
from pydantic import StrictStr, TypeAdapter
from typing_extensions import TypedDict  # as pydantic wants before Python 3.12

from asyndgan.errors import RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.judging.real import loaded
from asyndgan.painting.synthesise import digests_of
from asyndgan.runs import RunFolder
from asyndgan.store import Case
from asyndgan.texts import bounded_text, counted, parsed_json


def augmented_cases(
    site: str,
    data: DataSet,
    real: Mapping[str, Sequence[Case]],
    judged: Sequence[Case],
    run: RunFolder,
    modalities: Sequence[str],
) -> list[Case]:
    """Cases of a set written by `asyndgan augment`, without held-out patients.

    Raises:
        RunError: the site is not part of the evaluation, or the set holds no synthetic cases, does
            not say where they are from, was painted by another generator, was painted from masks of
            judged patients or of cases that the site does not train on, or lacks real cases of it
            or holds other versions of them.
    """
    if site not in real:
        raise RunError(
            f"--augmented {site}: that is no site of this evaluation; the sites are "
            f"{', '.join(real)}."
        )
    folder, synthetic = data.folder, data.info.synthetic_cases
    if not synthetic:
        raise RunError(f"{folder} holds no synthetic cases; 'asyndgan augment' writes such a set.")
    told = _provenance(folder)
    if told["generator_sha256"] != run.facts().generator_sha256:
        raise RunError(
            f"{folder} was painted by another generator than that of {run.path}, which may have "
            "been taught by those who are judged on. Make it anew with 'asyndgan augment'."
        )
    both = (mask for case in judged for mask in (case.mask, case.mask.flip(-1)))
    if seen := {*told["masks_sha256"]}.intersection(digests_of(both)):
        raise RunError(
            f"{folder} was painted from {len(seen)} masks of cases that are judged on. Make it "
            "anew from other masks."
        )
    cases = loaded(data, run.recipe().image, modalities, incomplete=True, augmented=True)
    own, training = set(synthetic), {case.name for case in real[site]}
    copies = {case.name: case for case in cases}
    if missing := training - copies.keys():
        raise RunError(
            f"{folder} lacks {len(missing)} real cases that site {site} has; it was made from "
            "another set."
        )
    if other := [case.name for case in real[site] if not _same(case, copies[case.name])]:
        raise RunError(
            f"{folder} holds other images or masks of {counted(len(other), 'real case')} than site "
            f"{site}, which would count as an effect of the synthetic ones. Name the folder that "
            f"it was made from (--site {quote(site)}=FOLDER), or make it anew with 'asyndgan "
            "augment'."
        )
    if strange := {told["mask_of"].get(name, name) for name in own} - training - {""}:
        raise RunError(
            f"{folder} was painted from masks of {counted(len(strange), 'case')} that site {site} "
            "does not train on here, whose patients may be judged on. Make it anew from "
            f"{site}'s own folder."
        )
    return [case for case in cases if case.name in own or case.name in training]


def _same(case: Case, other: Case) -> bool:
    return torch.equal(case.image, other.image) and torch.equal(case.mask, other.mask)


MOST_BYTES: Final = 2**26
"""Largest provenance of an augmented set: half a million cases and their masks."""


class _Provenance(TypedDict):
    """What `asyndgan augment` noted of a set: what painted it, from which masks, of which cases."""

    generator_sha256: StrictStr
    masks_sha256: list[StrictStr]
    mask_of: dict[StrictStr, StrictStr]


def _provenance(data: Path) -> _Provenance:
    try:
        table = parsed_json(bounded_text(data / "provenance.json", MOST_BYTES, links=True))
        return TypeAdapter(_Provenance).validate_python(table)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{data} has no provenance.json that says what it was painted from. Make the set anew "
            "with 'asyndgan augment'."
        ) from error
