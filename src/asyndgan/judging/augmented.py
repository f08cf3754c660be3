"""Sets that a site augmented, checked before they are judged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

import torch

from asyndgan.data import Case
from asyndgan.data.dataset import DataSet
from asyndgan.errors import RunError
from asyndgan.judging.real import loaded
from asyndgan.painting.synthesise import digests_of
from asyndgan.runs import RunFolder
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
    painted_by, masks, mask_of = _provenance(folder)
    if painted_by != run.facts().generator_sha256:
        raise RunError(
            f"{folder} was painted by another generator than that of {run.path}, which may have "
            "been taught by those who are judged on. Make it anew with 'asyndgan augment'."
        )
    both = (mask for case in judged for mask in (case.mask, case.mask.flip(-1)))
    seen = masks.intersection(digests_of(both))
    if seen:
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
    if strange := {mask_of.get(name, name) for name in own} - training - {""}:
        raise RunError(
            f"{folder} was painted from masks of {counted(len(strange), 'case')} that site {site} "
            "does not train on here, whose patients may be judged on. Make it anew from "
            f"{site}'s own folder."
        )
    return [case for case in cases if case.name in own or case.name in training]


def _same(case: Case, other: Case) -> bool:
    return torch.equal(case.image, other.image) and torch.equal(case.mask, other.mask)


MOST_BYTES = 2**26
"""Largest provenance of an augmented set: half a million cases and their masks."""


def _provenance(data: Path) -> tuple[str, set[str], dict[str, str]]:
    """What `asyndgan augment` noted of a set.

    Returns:
        The SHA-256 of the generator, those of further masks, and by synthetic case the name of the
        real one whose mask was painted.

    Raises:
        RunError: it noted nothing that can be read.
    """
    try:
        table = parsed_json(bounded_text(data / "provenance.json", MOST_BYTES, links=True))
        masks, mask_of = table["masks_sha256"], table["mask_of"]
        texts = [table["generator_sha256"], *masks, *mask_of, *mask_of.values()]
        if all(isinstance(text, str) for text in texts):
            return table["generator_sha256"], set(masks), mask_of
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    raise RunError(
        f"{data} has no provenance.json that says what it was painted from. Make the set anew with "
        "'asyndgan augment'."
    )
