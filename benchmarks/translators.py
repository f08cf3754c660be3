"""How much of a completed modality should be a linear regression's, and how much a network's.

    python benchmarks/translators.py --data DATA --out OUT [--document docs/experiments.md]

OUT is that of the suite `misaligned`, whose first generators paint what network and regression
learn from: of one all sites have complete cases, of the other none. T1 with contrast is completed
from T1 and FLAIR for a quarter of the sites' own patients. The generators' discriminators have seen
them, the translators have not. For comparison: network and regression that learn from the real
complete cases of the other patients, and T1 itself.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from asyndgan.arrays import Image
from asyndgan.data import Case
from asyndgan.data.prepare import blanked
from asyndgan.data.splits import hold_out
from asyndgan.evaluation.benchmark import Real
from asyndgan.evaluation.completion import (
    GEOMETRY,
    TRANSLATION_VERSION,
    Incomplete,
    TranslationBudget,
    train_translator,
    translated,
    translator_of,
    without_mask,
)
from asyndgan.evaluation.completion_scores import nearness
from asyndgan.evaluation.of_run import masks_of
from asyndgan.evaluation.segmentation import budget_for
from asyndgan.evaluation.suite import Suite
from asyndgan.evaluation.trainings import run_folder
from asyndgan.reports.words import decimal
from asyndgan.runs import RunFolder
from common import arguments, digest_of, markdown, publish, remembered

SUITE = Path(__file__).parent / "suites" / "misaligned.toml"
MODALITY, NEXT = "T1c", "T1"
PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Parts of the regression that are compared."""

Scores = dict[str, list[float]]


def scores(cases: Sequence[Case], ways: dict[str, Sequence[Image]]) -> Scores:
    """By way: similarity and decibels, each with its interval, and the lead over T1 itself."""
    shown = [case.image[[case.modalities.index(NEXT)]].expand_as(case.image) for case in cases]
    rows = nearness({**ways, NEXT: shown}, cases, [MODALITY], best=NEXT)
    return {
        row.way: [
            row.ssim, row.ssim_low, row.ssim_high, row.psnr, row.psnr_low, row.psnr_high,
            0 - row.ahead, 0 - row.ahead_high, 0 - row.ahead_low,
        ]
        for row in rows
    }  # fmt: skip


def judged(real: Real, run: RunFolder, *, of_real: bool) -> Scores:
    """Scores of a translator's mixtures, with the mask and without it."""
    others, held_out = hold_out(real.sites, part=0.25)
    masked = [Incomplete(blanked(case, [MODALITY]), True) for case in held_out]
    unmasked = [without_mask(each) for each in masked]
    if of_real:
        translator = train_translator(
            [case for own in others.values() for case in own],
            [masked[0].case.present],
            labels=1 + max(real.labels.values()),
            budget=TranslationBudget(),
            geometry=budget_for(run.recipe(), GEOMETRY),
        )
    else:
        translator = translator_of(run, masked, masks_of(real.sites), budget=TranslationBudget())
    return scores(
        held_out,
        {
            f"{part:.0%} regression, {mask}": translated(translator, each, regressed=part)
            for part in PARTS
            for mask, each in (("mask", masked), ("no mask", unmasked))
        },
    )


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
                run.facts().generator_sha256, TRANSLATION_VERSION, PARTS,
                [digest_of(given.data / part.folder / site) for site in part.sites],
            ],
        )  # fmt: skip
        rows += [
            [name if way != NEXT else "", way, *cells(values)]
            for way, values in found.items()
            if way != NEXT or name == next(iter(learned))
        ]
    patients = len({case.patient for case in hold_out(real.sites, part=0.25)[1]})
    heading = [
        "learned from", "completed by", "SSIM", "interval", "PSNR (dB)", "interval",
        f"nearer than {NEXT}", "interval",
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
