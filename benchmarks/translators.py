"""How much of a completed modality should be a linear regression's, and how much a network's.

    python benchmarks/translators.py --data DATA --out OUT [--document docs/results/translators.md]

OUT is that of the suite `misaligned`, whose first generators paint what network and regression
learn from: of one all sites have complete cases, of the other none. T1 with contrast is completed
from T1 and FLAIR for a quarter of the sites' own patients. The generators' discriminators have seen
them; the translators learn from the other patients' masks. For comparison: network and regression
that learn from the real complete cases of the other patients, T1 itself, and T1 in the place of the
regression.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from asyndgan.arrays import Image
from asyndgan.data.moves import mirrored
from asyndgan.data.prepare import blanked, widened
from asyndgan.data.splits import hold_out
from asyndgan.judging.completion_scores import HIDDEN, nearness
from asyndgan.painting.budget import TranslationBudget
from asyndgan.painting.sets import masks_of
from asyndgan.painting.translation import (
    MOVES,
    REGRESSED,
    TRANSLATION_VERSION,
    Incomplete,
    train_translator,
    translated,
    translator_of,
    without_mask,
)
from asyndgan.reports.words import decimal
from asyndgan.runs import RunFolder
from asyndgan.suites.real import Real
from asyndgan.suites.suite import Suite
from asyndgan.suites.trainings import run_folder
from common import arguments, digest_of, markdown, publish, remembered

SUITE = Path(__file__).parent / "suites" / "misaligned.toml"
MODALITY, NEXT = "T1c", "T1"
VERSION = 2
"""Goes up when this script measures otherwise, so that no stored result is taken."""
HELD_OUT = 0.25
"""Part of the sites' patients who are judged on."""
PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Parts of the regression that are compared."""

Scores = dict[str, list[float]]


def judged(real: Real, run: RunFolder, *, of_real: bool) -> Scores:
    """By way: similarity and decibels with intervals, and how far it is behind the half of both."""
    names = run.facts().scope.modalities
    others, held_out = hold_out(
        {site: [widened(case, names) for case in own] for site, own in real.sites.items()},
        part=HELD_OUT,
    )
    masked = [Incomplete(blanked(case, [MODALITY]), True) for case in held_out]
    unmasked = [without_mask(each) for each in masked]
    if of_real:
        translator = train_translator(
            [case for own in others.values() for case in own],
            [masked[0].case.present],
            labels=1 + max(real.labels.values()),
            budget=TranslationBudget(),
            moves=replace(MOVES, flips=mirrored(run.recipe())),
        )
    else:
        translator = translator_of(run, masked, masks_of(others), budget=TranslationBudget())
    copied = [case.image[[names.index(NEXT)]].expand_as(case.image) for case in held_out]
    ways: dict[str, Sequence[Image]] = {f"{NEXT}{HIDDEN}": copied}
    for hidden, cases in (("", masked), (HIDDEN, unmasked)):
        for part in PARTS:
            ways[f"{part:.0%} regression{hidden}"] = translated(translator, cases, regressed=part)
        alone = ways[f"{0:.0%} regression{hidden}"]
        ways[f"50% {NEXT}{hidden}"] = [
            own.lerp(shown, 0.5) for own, shown in zip(alone, copied, strict=True)
        ]
    rows = nearness(ways, held_out, [MODALITY], best=f"{REGRESSED:.0%} regression")
    return {
        row["way"]: [
            row[name + end] for name in ("ssim", "psnr", "ahead") for end in ("", "_low", "_high")
        ]
        for row in rows
    }


def main() -> None:
    """Trains the missing translators, then prints and writes the table."""
    torch.set_num_threads(1)
    given = arguments(__doc__ or "").parse_args()
    suite = Suite.from_toml(SUITE.read_text("utf-8"))
    (part,) = suite.sets
    real = Real(suite, part, given.data)
    runs = {model.name: RunFolder(run_folder(given.out, part, model, 0)) for model in suite.models}
    learned = {f"painted, {name}": (run, False) for name, run in runs.items()}
    learned["real"] = (runs[suite.models[0].name], True)
    rows = []
    for name, (run, of_real) in learned.items():
        found: Scores = remembered(  # type: ignore[assignment]  # of JSON
            given.out / "translators.json",
            name,
            partial(judged, real, run, of_real=of_real),
            of=[
                VERSION, run.facts().generator_sha256, TRANSLATION_VERSION, PARTS, HELD_OUT,
                asdict(TranslationBudget()), suite.model_dump(mode="json"),
                [digest_of(given.data / part.folder / site) for site in part.sites],
            ],
        )  # fmt: skip
        rows += [[name, way, *cells(values)] for way, values in found.items()]
    patients = len({case.patient for case in hold_out(real.sites, part=HELD_OUT)[1]})
    heading = [
        "learned from", "completed by", "SSIM", "interval", "PSNR (dB)", "interval",
        "behind half regression (mask hidden likewise)", "interval",
    ]  # fmt: skip
    about = f"{patients} patients, one seed; intervals of 95 % from a bootstrap over patients."
    publish(f"{about}\n\n{markdown(heading, rows)}", "translators", given.document)


def cells(values: Sequence[float]) -> list[str]:
    """A row's figures, each with its interval."""
    found = []
    for place, digits in ((0, 3), (3, 1), (6, 3)):
        mean, low, high = (decimal(value, digits) for value in values[place : place + 3])
        found += [mean, f"{low} to {high}"]
    return found


if __name__ == "__main__":
    main()
